"""`vmferry check HOST`: the way to another host, and by name what is wrong with it."""

import pytest

from vmferry_lab import Agent, Lab, Pki, WanLink


@pytest.fixture(scope="module")
def way(pki):
    """Two agents and a long way between them."""
    with Lab(wan=WanLink(seed=1)) as lab:
        agents = [Agent(lab, host, pki.folder(host.name)) for host in lab.hosts]
        for agent in agents:
            lab.at_close(lambda agent=agent: agent.process and agent.process.kill())
            agent.start()
        yield lab, *agents


@pytest.fixture
def link(way):
    """What the way is to be, from now on."""
    lab = way[0]

    def set_(**settings):
        lab.wan.set(**{"rate": "unlimited", "delay": 0, "loss": 0, "mtu": 0, "frag_needed": True,
                       "queue_time": "100ms", **settings})

    set_()
    yield set_
    set_()


def check(here, there, *options, seconds="1"):
    target = there if isinstance(there, str) else there.address
    return here.vmferry("check", target, "--seconds", seconds, "--json", *options)


def finding(answer: dict, topic: str) -> dict:
    [found] = [one for one in answer["findings"] if one["topic"] == topic]
    return found


def problem(result) -> dict:
    assert result.exit_code == 1, result.stdout
    answer = result.json
    assert answer["path_usable"] is False
    [bad] = [one for one in answer["findings"] if one["grade"] == "problem"]
    assert bad["advice"]
    return bad


@pytest.mark.long
def test_what_the_way_is_like(way, link):
    _lab, a, b = way
    link(rate="40mbit", delay="20ms")
    result = check(a, b, "--memory", "500M", seconds="2")
    assert result.exit_code == 0, result.stdout + result.stderr
    answer = result.json
    assert answer["path_usable"] is True and answer["status"] == "completed"
    assert answer["peer"] == "hostB" and answer["secure"] is True
    assert 40 <= answer["round_trip_ms"] <= answer["median_round_trip_ms"] < 60
    assert 3.5e6 < answer["bytes_per_second"] < 5.1e6
    assert answer["segments"] > 1000
    assert answer["path_mtu"] == 1500 and answer["largest_packet"] is None
    # 500 MB at 5 MB/s.
    assert 95_000 < answer["move_ms"] < 145_000
    assert 70 < answer["pause_ms"] < 200
    text = a.vmferry("check", b.address, "--seconds", "0.5").require()
    assert "1GiB of guest memory: about" in text.stdout and "a pause of about" in text.stdout


@pytest.mark.long
def test_loss_is_told(way, link):
    _lab, a, b = way
    link(rate="40mbit", delay="10ms", loss="2%")
    answer = check(a, b, seconds="2").json
    assert finding(answer, "loss")["grade"] == "note"
    assert 0.005 < answer["retransmitted"] / answer["segments"] < 0.06


@pytest.mark.parametrize("mtu, largest", [
    (1400, 1400), pytest.param(1000, 1000, marks=pytest.mark.long),
    pytest.param(700, 576, marks=pytest.mark.long)])
def test_packets_that_vanish(way, link, mtu, largest):
    """The way drops large packets and says nothing: a black hole."""
    _lab, a, b = way
    link(delay="5ms", mtu=mtu, frag_needed=False)
    result = check(a, b)
    bad = problem(result)
    assert bad["topic"] == "packet size" and "black hole" in bad["detail"]
    assert result.json["largest_packet"] == largest
    assert f"mtu {largest}" in bad["advice"] and "tcp_mtu_probing" in bad["advice"]
    # What it would be like without: measured with packets that get through.
    assert result.json["bytes_per_second"] > 1e5


def test_smaller_packets_are_told(way, link):
    """The same, and it is said by ICMP: the kernel finds out."""
    lab, a, b = way
    link(delay="5ms", mtu=1300, frag_needed=True)
    try:
        result = check(a, b)
        assert result.exit_code == 0, result.stdout
        assert result.json["path_mtu"] == 1300 and result.json["largest_packet"] is None
    finally:
        for host in lab.hosts:
            host.namespace.ip("route", "flush", "cache")


@pytest.mark.long
def test_limit_of_the_agent(way, link):
    _lab, a, b = way
    link(delay="5ms")
    a.stop()
    a.settings["bandwidth"] = "2M"
    a.start()
    try:
        answer = check(a, b, seconds="2").json
        assert answer["limited"] is True and answer["bandwidth"] == 2_000_000
        assert 1.7e6 < answer["bytes_per_second"] < 2.2e6
        assert "agent.conf" in finding(answer, "rate")["advice"]
    finally:
        a.stop()
        del a.settings["bandwidth"]
        a.start()


def test_wrong_names_and_ports(way, link):
    _lab, a, b = way
    bad = problem(check(a, "no-such-host.invalid"))
    assert bad["topic"] == "connection" and "no-such-host.invalid" in bad["detail"]
    bad = problem(check(a, "host:99999"))
    assert bad["topic"] == "address"
    bad = problem(check(a, f"{b.host.ip}:9"))
    assert bad["topic"] == "connection" and "start the agent there" in bad["advice"]


def test_itself(way, link):
    _lab, a, _b = way
    assert "this host itself" in problem(check(a, a))["detail"]


def test_nobody_answers(way, link):
    lab, a, b = way
    lab.wan.set(break_="20s")
    try:
        bad = problem(check(a, b))
    finally:
        lab.wan.set(break_=0)
    assert bad["topic"] == "connection" and "4747" in bad["advice"]


def test_certificate_of_another_ca(way, link, tmp_path):
    _lab, a, b = way
    other = Pki(tmp_path / "pki", {a.host.name: a.host.ip})
    before = a.settings["pki"]
    a.stop()
    a.settings["pki"] = other.folder(a.host.name)
    a.start()
    try:
        bad = problem(check(a, b))
    finally:
        a.stop()
        a.settings["pki"] = before
        a.start()
    assert bad["topic"] == "certificates" and "CA" in bad["detail"]


def test_not_on_the_list(way, link):
    _lab, a, b = way
    b.stop()
    b.settings["allow"] = "somebody"
    b.start()
    try:
        bad = problem(check(a, b))
    finally:
        b.stop()
        del b.settings["allow"]
        b.start()
    assert "allow list" in bad["detail"]


def test_no_agent_here(way, link):
    _lab, a, b = way
    a.stop()
    try:
        result = check(a, b)
        assert result.exit_code == 1 and "agent" in result.stderr
    finally:
        a.start()


def test_usage(way, link):
    _lab, a, b = way
    for arguments in (["--guest", "web1"], [b.address, "--guest", "web1", "--memory", "1G"],
                      [b.address, "--pki", "/x"], [b.address, "more"], [b.address, "--memory", "x"]):
        assert a.vmferry("check", *arguments).exit_code == 2, arguments
    result = a.vmferry("check", b.address, "--seconds", "60")
    assert result.exit_code == 1 and "seconds" in result.stderr


def test_guest(way, link):
    lab, a, b = way
    link(rate="50mbit", delay="10ms")
    guest = lab.guest("web1", memory_mb=128, arena_mb=16, check=64)
    a.run(guest)
    result = check(a, b, "--guest", "web1")
    assert result.exit_code == 0, result.stdout + result.stderr
    estimate = result.json["estimate"]
    assert estimate["guest"] == "web1" and estimate["pause_ms"] > 0
    assert abs(estimate["bandwidth"] - result.json["bytes_per_second"]) <= 1
    assert "web1: about" in a.vmferry("check", b.address, "--guest", "web1", "--seconds",
                                     "0.5").require().stdout
    a.vmferry("stop", "web1").require()
