"""Several engines for one cluster, with a real etcd and agents that are none (fake_agents.py): one leads, another takes
over, and whatever happens in between no move is begun twice."""

import json
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import suppress

import pytest

from fake_agents import FakeCluster, free_port
from vmferry_lab import Engine, wait_until

pytestmark = pytest.mark.skipif(not shutil.which("etcd"), reason="there is no etcd on this machine")

LEASE = 2.0
OPEN = ("intended", "under-way")


class LocalEtcd:
    """An etcd of one member, on this machine."""

    def __init__(self, folder):
        self.folder, self.port, self.peer = folder, free_port(), free_port()
        self.process = None
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "LocalEtcd":
        peer = f"http://127.0.0.1:{self.peer}"
        with (self.folder / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["etcd", "--name", "e", "--data-dir", str(self.folder / "etcd"),
                 "--listen-client-urls", self.address, "--advertise-client-urls", self.address,
                 "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                 "--initial-cluster", f"e={peer}", "--logger", "zap", "--log-level", "error"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self.is_healthy, "etcd", 30)
        return self

    def is_healthy(self) -> bool:
        with suppress(OSError, ValueError), urllib.request.urlopen(f"{self.address}/health", timeout=2) as answer:
            return json.load(answer).get("health") == "true"
        return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def etcd(tmp_path):
    etcd = LocalEtcd(tmp_path)
    yield etcd
    etcd.kill()


@pytest.fixture
def cluster(tmp_path):
    cluster = FakeCluster(tmp_path, "hosta", "hostb", "hostc")
    yield cluster
    cluster.close()


@pytest.fixture
def make_engine(tmp_path, cluster, etcd):
    """make_engine(name, settings): one of several; gone after the test, without complaint of any sanitizer."""
    engines = []

    def make(name, *, env=None, ready=True, **engine_settings):
        folder = tmp_path / name
        folder.mkdir()
        settings = {"engine": {"interval": "100ms", "name": name, **engine_settings},
                    "hot": {"reading": "100ms"},
                    "store": {"etcd": etcd.address, "lease": f"{LEASE:.0f}s"}}
        engine = Engine(folder, cluster.spec, free_port(), settings)
        engines.append(engine)
        engine.start(env)
        return engine.wait_ready() if ready else engine

    yield make
    for engine in engines:
        if engine.process.poll() is None:
            with suppress(ProcessLookupError):
                engine.process.send_signal(signal.SIGCONT)
            assert engine.stop() == 0, engine.log()
        assert "Sanitizer" not in engine.log() and "CRITICAL" not in engine.log(), engine.log()


def heat(cluster):
    """hosta suffers, and hostb is the best place."""
    for name, cpu in (("web1", 0.9), ("web2", 0.7), ("web3", 0.5)):
        cluster["hosta"].add(name, cpu)
    cluster["hostc"].add("db1", 0.8)


def leads(engine) -> bool:
    return engine.show("status")["leader"]


def wait_leads(engine, timeout=3 * LEASE):
    wait_until(lambda: leads(engine), "it leads", timeout)
    return engine


def settled(engine, count=1, timeout=25):
    def look():
        moves = engine.moves()
        done = [move for move in moves if move["state"] not in OPEN]
        return moves if len(done) >= count else None
    return wait_until(look, f"{count} moves have ended", timeout, 0.2)


def under_way(engine, timeout=20):
    return wait_until(lambda: [move for move in engine.moves() if move["state"] == "under-way"],
                      "a move", timeout)


def stop_process(engine):
    engine.process.send_signal(signal.SIGSTOP)


def is_stopped(engine):
    with open(f"/proc/{engine.process.pid}/status", encoding="ascii") as status:
        return "State:\tT" in status.read()


def check_once(cluster, guests):
    """What was ordered has been done, nothing else, and nothing twice."""
    assert all(len(cluster.place(guest)) == 1 for guest in guests)
    taken = [order for host in cluster.hosts.values() for order in host.orders]
    assert len(taken) == len(cluster.done), (taken, cluster.done)


# ---- who leads ----

def test_one_leads_and_both_show(cluster, make_engine):
    heat(cluster)
    first = wait_leads(make_engine("one", automatic="false"))
    second = make_engine("two", automatic="false")
    wait_until(lambda: second.show("status")["led_by"] == "one", "it knows who leads", 10)
    status = second.show("status")
    assert not status["leader"] and status["hold"] == "engine one leads" and status["lease_ms"] is None
    assert status["frozen"] is False
    assert 0 < first.show("status")["lease_ms"] <= LEASE * 1000
    text = second.vmferry("cluster", "status").require().stdout
    assert "no, one does" in text and "etcd" in text
    # It plans, but orders nothing, not for a user either.
    wait_until(lambda: second.show("plan")["moves"], "it plans", 10)
    refused = second.vmferry("cluster", "move", "db1", "hostb")
    assert refused.exit_code == 1 and "engine one leads" in refused.stderr
    # What users say may be said to any of them.
    rule = json.loads(second.vmferry("rule", "add", "apart", "web1", "web2", "--json").require().stdout)
    second.vmferry("freeze", "web1").require()
    second.vmferry("freeze").require()
    wait_until(lambda: first.show("status")["frozen"], "the one that leads knows it", 5)
    assert first.guest("web1")["rules"] == [rule["id"]] and first.guest("web1")["frozen"]
    first.vmferry("thaw").require()
    first.vmferry("rule", "remove", rule["id"]).require()
    wait_until(lambda: not second.guest("web1")["rules"], "and the other way", 5)
    # A move of the one that leads is shown by the other one.
    answer = json.loads(first.vmferry("cluster", "move", "db1", "hostb", "--json").require().stdout)
    wait_until(lambda: [move for move in second.moves() if move["state"] == "completed"], "shown", 15)
    assert second.moves()[0]["id"] == answer["id"] and cluster.place("db1") == ["hostb"]
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{second.port}/metrics").read().decode()
    assert "vmferry_engine_leader 0\n" in metrics
    # One that ends gives the lease back: nobody waits for it to run out.
    assert first.stop() == 0
    start = time.monotonic()
    wait_leads(second)
    assert time.monotonic() - start < LEASE


def test_the_leader_is_killed(cluster, make_engine):
    """With a move under way: the other one follows it to its end, and goes on."""
    heat(cluster)
    cluster.move_seconds = 4
    first = wait_leads(make_engine("one"))
    second = make_engine("two")
    move = under_way(first)[0]
    start = time.monotonic()
    first.kill()
    wait_leads(second, 3 * LEASE)
    assert time.monotonic() - start < 3 * LEASE
    moves = settled(second)
    assert moves[0]["id"] == move["id"] and moves[0]["state"] == "completed"
    assert moves[0]["outcome"]["status"] == "completed"
    assert not any(guest["frozen"] for guest in second.show("guests")["guests"])
    # It acts.
    cluster.move_seconds = 0.1
    second.vmferry("cluster", "move", "db1", "hostb").require()
    assert settled(second, 2)[1]["guest"] == "db1" and cluster.place("db1") == ["hostb"]
    check_once(cluster, ("web1", "web2", "web3", "db1"))


@pytest.mark.long
@pytest.mark.parametrize("late", [False, True], ids=["in-time", "late"])
def test_an_order_outlives_its_leader(cluster, make_engine, late):
    """The leader dies while its order is on the way, and another one leads by the time it arrives.  It counts for as long
    as the new one asks for it; later the agent refuses it."""
    heat(cluster)
    cluster.move_seconds = 1
    cluster["hosta"].holds_orders.set()
    first = wait_leads(make_engine("one"))
    second = make_engine("two", automatic="false")
    wait_until(lambda: cluster.orders, "an order", 20)
    first.kill()
    wait_leads(second)
    if late:
        cluster["hosta"].slept_ms = 11000
    time.sleep(1)
    cluster["hosta"].holds_orders.clear()
    move = settled(second)[0]
    assert move["state"] == ("abandoned" if late else "completed") and len(second.moves()) == 1
    assert len(cluster["hosta"].late) == late and len(cluster.done) == (not late)
    assert not any(guest["frozen"] for guest in second.show("guests")["guests"])


@pytest.mark.long
def test_a_leader_that_stood_still(cluster, make_engine):
    """Stopped right before it orders, for longer than its lease: what it wakes up with is refused."""
    heat(cluster)
    first = make_engine("one", env={"VMFERRY_FAULT": "engine.before-order=stop@1"}, ready=False)
    wait_until(lambda: is_stopped(first), "it stands still", 30)
    second = wait_leads(make_engine("two", automatic="false"), 10)
    first.process.send_signal(signal.SIGCONT)
    wait_until(lambda: first.show("status")["led_by"] == "two", "it has seen that", 10)
    assert not leads(first) and cluster.orders == []
    # The record that it has left is settled by the new one.
    move = settled(second, timeout=30)[0]
    assert move["state"] == "abandoned" and cluster.orders == []
    assert first.moves() == second.moves() and first.show("status")["moves"] == 0
    assert first.events("stand-by")
    # Its turn again: it plans anew, and nothing is left of what it was about to do.
    assert second.stop() == 0
    moves = settled(wait_leads(first), 2)
    assert moves[0] == move and moves[1]["state"] == "completed"
    check_once(cluster, ("web1", "web2", "web3"))


# ---- etcd is away ----

def test_etcd_is_away(cluster, make_engine, etcd):
    heat(cluster)
    cluster.move_seconds = 4
    engine = wait_leads(make_engine("one"))
    move = under_way(engine)[0]
    etcd.kill()
    wait_until(lambda: not leads(engine), "it is not sure any more", 2 * LEASE)
    wait_until(lambda: cluster.done, "the move goes on", 15)
    # Another reason to move, and nothing happens.
    cluster["hosta"].add("web9", 1.2)
    wait_until(lambda: engine.show("plan")["hot"], "hot", 10)
    time.sleep(2.5)
    status = engine.show("status")
    assert len(cluster.orders) == 1 and "etcd" in status["hold"] and status["store_problem"]
    assert "etcd" in engine.vmferry("cluster", "status").require().stdout
    refused = engine.vmferry("freeze")
    assert refused.exit_code == 1 and "etcd" in refused.stderr
    etcd.start()
    wait_leads(engine, 10)
    done = wait_until(lambda: [one for one in engine.moves() if one["id"] == move["id"]
                               and one["state"] == "completed"], "it is written down", 15)
    assert done[0]["outcome"]["status"] == "completed"


def test_begins_without_etcd(cluster, make_engine, etcd):
    etcd.kill()
    engine = make_engine("one")
    status = engine.show("status")
    assert not status["leader"] and "etcd" in status["hold"]
    wait_until(lambda: engine.host("hosta")["usable"], "it looks", 10)
    assert engine.moves() == []
    etcd.start()
    wait_leads(engine, 10)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
                                    b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", b""],
                         ids=["empty", "unavailable", "silent"])
def test_an_etcd_that_is_none(cluster, tmp_path, make_engine, etcd, answer):
    """It stands by, and says why."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        etcd.kill()
        etcd.port = server.getsockname()[1]

        def serve():
            with suppress(OSError):
                while True:
                    peer = server.accept()[0]
                    peers.append(peer)
                    if answer:
                        with peer:
                            peer.recv(1 << 16)
                            peer.sendall(answer)
        peers = []
        threading.Thread(target=serve, daemon=True).start()
        engine = make_engine("one")
        wait_until(lambda: "etcd: " in (engine.show("status")["hold"] or ""), "said", 10)
        assert not leads(engine)
        assert engine.stop() == 0


# ---- anything may happen at any time ----

@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
def test_engines_die_with_moves_in_flight(cluster, make_engine, seed):
    """Two engines; the one that leads is killed or stopped again and again while a host is drained.  Each move arrives
    once, and all is written down."""
    chance = random.Random(seed)
    cluster.move_seconds = chance.uniform(0.1, 1.5)
    guests = [f"web{i}" for i in range(4)]
    for guest in guests:
        cluster["hosta"].add(guest, 0.2)
    engines = [make_engine(name, automatic="false") for name in ("one", "two")]
    leader = wait_until(lambda: next(filter(leads, engines), None), "one leads", 10)
    wait_until(lambda: len(leader.show("guests")["guests"]) == 4, "guests")
    leader.vmferry("drain", "hosta").require()
    for _ in range(3):
        time.sleep(chance.uniform(0, 1.5))
        if chance.random() < 0.6:
            leader.kill()
            time.sleep(chance.uniform(0, LEASE))
            leader.start()
        else:
            stop_process(leader)
            time.sleep(chance.uniform(0, 2 * LEASE))
            leader.process.send_signal(signal.SIGCONT)
        for engine in engines:
            engine.wait_ready()
        leader = wait_until(lambda: next(filter(leads, engines), None), "one leads", 20)
    wait_until(lambda: not cluster["hosta"].guests, "hosta is empty", 60)
    wait_until(lambda: all(move["state"] not in OPEN for move in leader.moves()), "all is settled", 30)
    check_once(cluster, guests)
    done = [move for move in leader.moves() if move["state"] == "completed"]
    assert len(done) == len(cluster.done) == 4
    assert {(move["guest"], move["from"], move["to"]) for move in done} == set(cluster.done)
    assert all(move["ordered_by"] == "drain" for move in leader.moves())
