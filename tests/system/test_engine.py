"""The engine with real agents and real guests on three hosts: it sees which one suffers, and relieves it."""

import socket
import threading
import time

import pytest

from engine_scene import SETTINGS, Cluster
from vmferry_lab import Engine, wait_until

PORT = 4750


@pytest.fixture
def cluster(lab, pki):
    return Cluster(lab, pki)


@pytest.fixture
def make_engine(cluster):
    """make_engine(group={key: value}): on host A, ready."""
    host = cluster["hostA"].host
    folder = host.path("engine")
    folder.mkdir()
    engines = []

    def make(env=None, ready=True, **settings):
        both = {group: {**SETTINGS.get(group, {}), **settings.get(group, {})}
                for group in {*SETTINGS, *settings}}
        engine = Engine(folder, cluster.spec, PORT, both, host.namespace.wrap)
        engines.append(engine)
        engine.start(env)
        return engine.wait_ready() if ready else engine

    yield make
    for engine in engines:
        if engine.process.poll() is None:
            assert engine.stop() == 0
        print(engine.log())
        assert "Sanitizer" not in engine.log()


def ended(engine):
    return [move for move in engine.moves() if move["state"] not in ("intended", "under-way")]


def heat(cluster):
    cluster.run("hostA", "web1", "web2", "web3")
    cluster.run("hostC", "db1")


def test_relieves_a_hot_host(cluster, make_engine):
    heat(cluster)
    engine = make_engine()
    [move] = wait_until(lambda: ended(engine), "a move", 60, 0.5)
    assert move["state"] == "completed" and (move["from"], move["to"]) == ("hostA", "hostB"), move
    assert move["guest"].startswith("web") and cluster.place(move["guest"]) == ["hostB"]
    assert move["explanation"]["trigger"]["kind"] == "cpu"
    assert move["outcome"]["status"] == "completed" and move["outcome"]["downtime_ms"] > 0
    assert move["forecast"]["guessed"] is False, "its agent has told what it would cost"
    text = engine.vmferry("cluster", "explain", move["id"]).require().stdout
    assert "hostA -> hostB" in text and "Was: " in text
    wait_until(lambda: not engine.host("hostA")["hot"], "it is relieved", 30, 0.5)
    assert len(engine.moves()) == 1 and not engine.guest(move["guest"])["frozen"]
    cluster.check()


@pytest.mark.long
@pytest.mark.parametrize("point", ["engine.before-order", "engine.ordered"])
def test_killed_in_a_move(cluster, make_engine, point):
    heat(cluster)
    engine = make_engine({"VMFERRY_FAULT": f"{point}=kill"}, ready=False)
    engine.wait_end(60)
    engine.settings["engine"]["automatic"] = "false"
    engine.start().wait_ready()
    [move] = wait_until(lambda: ended(engine), "it is settled", 60, 0.5)
    moved = point == "engine.ordered"
    assert move["state"] == ("completed" if moved else "abandoned"), move
    assert cluster.place(move["guest"]) == (["hostB"] if moved else ["hostA"])
    assert not engine.guest(move["guest"])["frozen"]
    cluster.check()


@pytest.mark.long
def test_drain_with_a_guest_that_cannot_leave(cluster, make_engine):
    for host in cluster.sizes:
        host.set_cpus(8)
    cluster.run("hostA", "web1", "web2")
    engine = make_engine(engine={"automatic": "false"})
    engine.vmferry("rule", "add", "never", "web2").require()
    wait_until(lambda: engine.host("hostB")["usable"] and engine.guest("web1"), "figures", 20, 0.5)
    told = engine.vmferry("drain", "hostA")
    assert told.exit_code == 1 and "Cannot leave hostA:\n  web2: " in told.stdout, told
    wait_until(lambda: cluster.place("web1") != ["hostA"] and ended(engine), "it leaves", 60, 0.5)
    assert cluster.place("web2") == ["hostA"]
    # A user who insists is told no; one who takes the rule away is served.
    assert engine.vmferry("cluster", "move", "web2", "hostB").exit_code == 1
    engine.vmferry("rule", "remove", "1").require()
    wait_until(lambda: cluster.place("web2") not in (["hostA"], []), "it leaves, too", 60, 0.5)
    wait_until(lambda: "hostA is empty" in engine.vmferry("drain", "hostA").stdout, "empty", 20)
    cluster.check()


@pytest.mark.long
def test_somebody_else_moves_a_guest(cluster, make_engine):
    cluster.run("hostA", "web1")
    engine = make_engine()
    wait_until(lambda: engine.guest("web1"), "the guest", 20, 0.5)
    cluster["hostA"].migrate(cluster.guests["web1"], cluster["hostC"]).require()
    [move] = wait_until(lambda: ended(engine), "it is seen", 20, 0.5)
    assert move["ordered_by"] == "somebody else" and (move["from"], move["to"]) == ("hostA", "hostC")
    assert engine.guest("web1")["frozen"] and engine.events("second-balancer")
    cluster.check()


class Counter:
    """What an interface has sent, several times a second, until close()."""

    def __init__(self, lab, member: str):
        self.samples: list[tuple[float, int]] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(lab, member))
        self._thread.start()

    def _run(self, lab, member) -> None:
        while not self._ends.wait(0.2):
            before = time.monotonic()
            sent = lab.link.bytes_from(member)
            self.samples.append(((before + time.monotonic()) / 2, sent))

    def close(self) -> None:
        self._ends.set()
        self._thread.join()

    def rates(self, seconds: float = 2.0, since: float = 0.0):
        """(begin, bytes/s) of each window of that length that begins after *since*."""
        for at, sent in self.samples:
            later = next(((end, total) for end, total in self.samples if end - at >= seconds), None)
            if at >= since and later:
                yield at, (later[1] - sent) / (later[0] - at)


class Flood:
    """Packets for a guest, of its size and at its rate; it takes them and says nothing."""

    def __init__(self, namespace, address: str, bytes_per_s: float):
        self._socket = namespace.socket(kind=socket.SOCK_DGRAM)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address, bytes_per_s))
        self._thread.start()

    def _run(self, address, bytes_per_s) -> None:
        size, begun, sent = 1400, time.monotonic(), 0
        while not self._ends.wait(0.01):
            while sent < (time.monotonic() - begun) * bytes_per_s:
                self._socket.sendto(bytes(size), (address, 9))
                sent += size

    def close(self) -> None:
        self._ends.set()
        self._thread.join()
        self._socket.close()


@pytest.mark.long
def test_a_move_follows_what_guests_leave_free(cluster, make_engine):
    """On links of 40 Mbit/s, as its interface counts it: at most 5 % over its cap at any time, and less while a guest at
    the destination has much traffic."""
    link = 5e6
    cap = link / 2
    for size in cluster.sizes:
        size.set_cpus(8)
    cluster.lab.link.shape("40mbit")
    cluster.run("hostA", "web1", memory_mb=128, arena_mb=48)
    cluster.run("hostB", "db1")
    engine = make_engine(engine={"automatic": "false"})
    wait_until(lambda: engine.host("hostB")["usable"] and engine.guest("web1"), "figures", 20, 0.5)

    def rate() -> float:
        activity = cluster["hostA"].status(cluster.guests["web1"])["activity"]
        return activity["progress"]["bandwidth"] if activity else 0

    counter = Counter(cluster.lab, "hostA")
    try:
        engine.vmferry("cluster", "move", "web1", "hostB").require()
        wait_until(lambda: rate() > cap * 0.8, "it begins", 15)
        time.sleep(4)  # on its own
        flood = Flood(cluster.lab.client, cluster.guests["db1"].ip, link * 0.75)
        try:
            wait_until(lambda: 0 < rate() < cap * 0.6, "it gives way", 10)
            gave_way = time.monotonic()
            time.sleep(5)
        finally:
            flood.close()
        came_back = time.monotonic()
        wait_until(lambda: rate() > cap * 0.85, "it has its share again", 25)
        time.sleep(3)
    finally:
        counter.close()
    most = max(value for _, value in counter.rates())
    assert most <= cap * 1.05, f"{most:.0f} bytes/s, of {cap:.0f}"
    meanwhile = [value for at, value in counter.rates(since=gave_way) if at + 2.5 < came_back]
    assert meanwhile and max(meanwhile) <= cap * 0.7, meanwhile
    [move] = wait_until(lambda: ended(engine), "it ends", 90, 0.5)
    assert move["state"] == "completed" and cluster.place("web1") == ["hostB"]
    print(f"at most {most / cap:.3f} of its cap; {max(meanwhile) / cap:.3f} meanwhile")
    cluster.check()
