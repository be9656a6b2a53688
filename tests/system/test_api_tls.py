"""The agent's API over the network: who may do what, and what a control engine uses it for."""

import http.client
import json
import ssl
import time

import pytest

from certificates import issue_until
from findings import check_completed, traces_in
from scene import Scene, move_progress, wait_progress
from vmferry_lab import Lab, Pki, wait_until

HOSTS = {"hostA": "10.66.0.1", "hostB": "10.66.0.2"}
PORT = 4748
MB = 1_000_000


class Caller:
    """Speaks HTTPS with an agent from host B's network, with the certificate of a folder."""

    def __init__(self, agent, folder, *, from_host=None, certificate=True):
        self.agent = agent
        self.namespace = (from_host or agent.lab.host_b).namespace
        self.context = ssl.create_default_context(cafile=folder / "ca.crt")
        if certificate:
            self.context.load_cert_chain(folder / "host.crt", folder / "host.key")

    def connect(self, timeout: float = 20) -> ssl.SSLSocket:
        plain = self.namespace.socket()
        plain.settimeout(timeout)
        plain.connect((self.agent.host.ip, PORT))
        return self.context.wrap_socket(plain, server_hostname=self.agent.host.ip)

    def ask(self, method: str, path: str, body=None):
        """(status, object)"""
        with self.connect() as secured:
            connection = http.client.HTTPConnection(self.agent.host.ip, PORT)
            connection.sock = secured
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")

    def take(self, method: str, path: str, body=None) -> dict:
        status, answer = self.ask(method, path, body)
        assert status < 300, answer
        return answer

    def refused(self, method: str, path: str, body=None) -> str:
        status, answer = self.ask(method, path, body)
        assert status >= 400, answer
        return answer["error"]["message"]


def open_api(agent) -> None:
    agent.settings["api"] = agent.host.ip
    agent.api = {"read": "reader", "operate": "engine1"}


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"), HOSTS)


@pytest.fixture(scope="module")
def site(engines):
    """Two agents with an API, and a guest on host A."""
    with Lab() as lab:
        scene = Scene(lab, engines)
        for agent in (scene.a, scene.b):
            open_api(agent)
            scene.restart(agent)
        scene.run(memory_mb=256, arena_mb=96, pattern="dense", pages_per_second=2000)
        yield scene


@pytest.fixture
def engine(site, engines):
    return Caller(site.here(site.guest), engines.engine("engine1"))


# ---- who may ----

def gets_nothing(caller) -> None:
    """The other end says nothing but that it does not like us."""
    try:
        with caller.connect() as secured:
            secured.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
            assert secured.recv(100) == b""
    except (ssl.SSLError, ConnectionError):
        pass


def test_strangers_get_nothing(site, engines, tmp_path_factory):
    agent = site.a
    mine = engines.engine("engine1")
    other = Pki(tmp_path_factory.mktemp("other"), {}).engine("engine1")
    expired = issue_until(engines.directory / "ca", "engine1", "10.66.0.9", -60,
                          tmp_path_factory.mktemp("expired") / "engine1")
    gets_nothing(Caller(agent, mine, certificate=False))
    gets_nothing(Caller(agent, expired))
    stranger = Caller(agent, mine, certificate=False)
    stranger.context.load_cert_chain(other / "host.crt", other / "host.key")
    gets_nothing(stranger)
    old = Caller(agent, mine)
    old.context.maximum_version = ssl.TLSVersion.TLSv1_2
    gets_nothing(old)
    with agent.lab.host_b.namespace.socket() as plain:
        plain.settimeout(10)
        plain.connect((agent.host.ip, PORT))
        plain.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP")
    assert Caller(agent, mine).take("GET", "/v1/status")["host"]


def test_roles(site, engines):
    agent, name = site.here(site.guest), site.guest.name
    reader = Caller(agent, engines.engine("reader"))
    other = Caller(agent, engines.engine("other"))
    engine = Caller(agent, engines.engine("engine1"))
    assert reader.take("GET", "/v1/guests")["guests"][0]["name"] == name
    assert "may not change anything" in reader.refused("POST", f"/v1/guests/{name}/migrate",
                                                       {"destination": site.b.address})
    assert "may not change anything" in reader.refused("POST", f"/v1/guests/{name}/estimate", {})
    assert "may not use the API" in other.refused("GET", "/v1/guests")
    for method, path, body in (("POST", "/v1/guests", {"name": "x", "command_line": ["/bin/sh"]}),
                               ("POST", "/v1/guests", {"name": "x", "pid": 1}),
                               ("DELETE", f"/v1/guests/{name}", None),
                               ("POST", f"/v1/guests/{name}/resolve", {"keep": "there"})):
        assert "Unix socket" in engine.refused(method, path, body)
    # A command line may hold passwords.
    assert engine.take("GET", f"/v1/guests/{name}")["command_line"] is None
    site.check(site.guest)


def test_an_engine_is_no_agent(site, engines):
    """With its certificate nobody brings a guest, which would be to run a QEMU as one likes."""
    agent = site.a
    context = ssl.create_default_context(cafile=engines.engine("engine1") / "ca.crt")
    context.load_cert_chain(engines.engine("engine1") / "host.crt",
                            engines.engine("engine1") / "host.key")
    plain = agent.lab.host_b.namespace.socket()
    plain.settimeout(10)
    plain.connect((agent.host.ip, 4747))
    with context.wrap_socket(plain, server_hostname=agent.host.ip) as secured:
        try:
            assert secured.recv(100) == b""
        except (ssl.SSLError, ConnectionError):
            pass
    wait_until(lambda: "its certificate is not a host's" in agent.log(), "it is turned away")


def test_verbs(site, engines):
    """The same verbs, by another host's agent."""
    here, there, name = site.here(site.guest), site.there(site.guest), site.guest.name
    at = ("--host", here.address, "--pki", str(engines.engine("engine1")))
    assert there.vmferry("list", "--names", *at).require().stdout.split() == [name]
    assert there.vmferry("status", name, *at).require().stdout
    assert there.vmferry("events", *at).require().stdout
    assert there.vmferry("disk", "list", name, *at).exit_code == 0
    refused = there.vmferry("cancel", name, "--host", here.address, "--pki",
                            str(engines.engine("reader")))
    assert refused.exit_code == 1 and "reader may not change anything" in refused.stderr
    nobody = there.vmferry("list", "--host", f"{here.address}:9", *at[2:])
    assert nobody.exit_code == 1 and "cannot reach the agent" in nobody.stderr
    done = there.vmferry("migrate", name, there.address, "--json", *at)
    check_completed(done)
    site.has_moved(site.guest)


def test_clients_that_hang(site, engines, engine):
    """They cost their connections: others are served, and the agent stops in time."""
    agent = engine.agent
    hanging = []
    reader = Caller(agent, engines.engine("reader"))
    for i in range(30):
        secured = reader.connect()
        secured.sendall((b"", b"GET /v1/sta", b"POST /v1/guests HTTP/1.1\r\nHost: x\r\n"
                         b"Content-Length: 100\r\n\r\n{")[i % 3])
        hanging.append(secured)
    for _ in range(40):  # and some that do not even begin
        plain = agent.lab.host_b.namespace.socket()
        plain.connect((agent.host.ip, PORT))
        hanging.append(plain)
    for _ in range(5):
        assert engine.take("GET", "/v1/guests")["guests"]
    begin = time.monotonic()
    site.restart(agent)
    assert time.monotonic() - begin < 10
    for connection in hanging:
        connection.close()
    assert engine.take("GET", "/v1/guests")["guests"]
    site.check(site.guest)


# ---- the rate of a move under way ----

def rate_of(link, host: str, seconds: float) -> float:
    start, before = time.monotonic(), link.bytes_from(host)
    time.sleep(seconds)
    return (link.bytes_from(host) - before) / (time.monotonic() - start)


def begin_slow(site, engine, *options):
    """A move at 4 MB/s, seen to go on."""
    guest = site.guest
    command = site.here(guest).begin_migrate(guest, site.there(guest), "--bandwidth", "4M",
                                             *options)
    wait_progress(site.here(guest), guest, "precopy", MB)
    return command


def test_bandwidth_changes_under_way(site, engine):
    """Up, down and off; the link shows it 200 ms later, and so do progress and events."""
    guest, here = site.guest, site.here(site.guest)
    path = f"/v1/guests/{guest.name}/migrate"
    command = begin_slow(site, engine)
    assert 3.2 * MB < rate_of(site.lab.link, here.host.name, 1) < 4.4 * MB
    answer = engine.take("PATCH", path, {"bandwidth": 20 * MB})
    assert answer == {"guest": guest.name, "bandwidth": 20 * MB, "before": 4 * MB}
    time.sleep(0.2)
    up = rate_of(site.lab.link, here.host.name, 1)
    assert 17 * MB < up < 22 * MB, up
    here.vmferry("bandwidth", guest.name, "2M").require()
    time.sleep(0.2)
    down = rate_of(site.lab.link, here.host.name, 1)
    assert down < 2.4 * MB, down
    assert move_progress(here.status(guest))["bandwidth"] == 2 * MB
    changes = [event["data"] for event in here.events("bandwidth")][-2:]
    assert [change["bandwidth"] for change in changes] == [20 * MB, 2 * MB]
    engine.take("PATCH", path, {"bandwidth": 0})
    check_completed(command.finish())
    site.has_moved(guest)


@pytest.mark.long
def test_bandwidth_of_postcopy(site, engine):
    """What follows the switchover goes by it, too; at 4 MB/s it would take half a minute."""
    guest, here = site.guest, site.here(site.guest)
    command = here.begin_migrate(guest, site.there(guest), "--bandwidth", "4M", "--mode",
                                 "postcopy")
    wait_progress(here, guest, "postcopy", MB)
    engine.take("PATCH", f"/v1/guests/{guest.name}/migrate", {"bandwidth": 16 * MB})
    report = check_completed(command.finish(), mode="postcopy")
    assert report["postcopy"]["outstanding_pages"] * 4096 > 100 * MB
    assert report["postcopy"]["ms"] < 16000
    site.has_moved(guest)


def test_bandwidth_of_nothing(site, engine):
    path = f"/v1/guests/{site.guest.name}/migrate"
    assert "is not being moved from here" in engine.refused("PATCH", path, {"bandwidth": MB})
    for body, words in (({}, "missing"), ({"bandwidth": -1}, "bandwidth"),
                        ({"bandwidth": "fast"}, "bandwidth"), ({"bandwith": 1}, "not a key"),
                        ({"bandwidth": 1, "streams": 2}, "not a key"), (None, "needs a JSON")):
        assert words in engine.refused("PATCH", path, body)
    assert "no guest" in engine.refused("PATCH", "/v1/guests/nobody/migrate", {"bandwidth": 1})


# ---- estimates ----

def compare(scene, guest, rate: int, factor: float) -> None:
    """An estimate against the move that follows."""
    at = ("--bandwidth", str(rate))
    estimate = scene.here(guest).vmferry("estimate", guest.name, *at, "--json").require().json
    report = scene.move(guest, *at)
    ms = estimate["ms"] / report["total_ms"]
    wire = estimate["bytes"] / report["wire_bytes"]
    print(f"estimated {estimate['ms']:.0f} ms and {estimate['bytes'] / 1e6:.0f} MB, took "
          f"{report['total_ms']:.0f} ms and {report['wire_bytes'] / 1e6:.0f} MB: "
          f"{ms:.2f} and {wire:.2f} of it; confidence {estimate['confidence']}")
    assert estimate["not_movable"] is None
    assert 1 / factor < ms < factor and 1 / factor < wire < factor
    assert estimate["memory_intensive"] == report["memory_intensive"]


# So slow that the start of QEMU there, which is not in an estimate, is a small part.  How a
# memory-intensive guest is moved is decided on the way: a look sees less of it.
@pytest.mark.parametrize("rate,factor,options", [
    (12 * MB, 1.8, {"arena_mb": 16}),
    pytest.param(25 * MB, 2.5, {"arena_mb": 96, "pattern": "dense", "pages_per_second": 3000},
                 marks=pytest.mark.long),
    pytest.param(25 * MB, 3, {"arena_mb": 96, "pattern": "dense", "pages_per_second": 30000},
                 marks=pytest.mark.long),
], ids=["idle", "dense", "intensive"])
def test_estimate_and_move(scene, rate, factor, options):
    guest = scene.run(**{"memory_mb": 256, **options})
    compare(scene, guest, rate, factor)


def test_estimate_leaves_nothing(site, engine):
    guest, here = site.guest, site.here(site.guest)
    path = f"/v1/guests/{guest.name}/estimate"
    answer = engine.take("POST", path, {"destination": "hostb:4747", "seconds": 0.5})
    assert answer["destination"] == "hostb:4747" and answer["bandwidth_assumed"]
    assert answer["confidence"] == "fair" and answer["look_ms"] < 1500
    assert answer["populated_bytes"] > 96 * MB and answer["dirty_bytes_per_s"] > MB
    site.check(guest)
    for body, words in (({"seconds": 0}, "seconds"), ({"seconds": 11}, "seconds"),
                        ({"seconds": "x"}, "seconds"), ({"second": 1}, "not a key"),
                        ({"destination": "[::"}, "destination"),
                        ({"bandwidth": -2}, "bandwidth"), ({"streams": 2}, "not a key")):
        assert words in engine.refused("POST", path, body)
    command = begin_slow(site, engine)
    assert "wait for that to end" in engine.refused("POST", path, {})
    here.vmferry("cancel", guest.name).require()
    command.finish()
    site.check(guest)


def test_agent_is_killed_while_it_looks(site, engine):
    """The kernel ends the tracking; a new agent finds the guest as it was."""
    guest, here = site.guest, site.here(site.guest)
    command = here.begin("estimate", guest.name, "--seconds", "10")
    pid = here.guest_pid(guest)
    wait_until(lambda: traces_in(pid), "the look has begun", 10)
    here.kill()
    assert command.finish().exit_code == 1
    wait_until(lambda: not traces_in(pid), "nothing is left", 5)
    site.restart(here)
    site.check(guest)


def test_agent_is_stopped_while_it_looks(site):
    guest, here = site.guest, site.here(site.guest)
    command = here.begin("estimate", guest.name, "--seconds", "10")
    pid = here.guest_pid(guest)
    wait_until(lambda: traces_in(pid), "the look has begun", 10)
    begin = time.monotonic()
    site.restart(here)
    assert time.monotonic() - begin < 8
    assert command.finish().exit_code == 1
    site.check(guest)
