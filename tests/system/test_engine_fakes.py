"""The engine with agents that are none (fake_agents.py): what it believes, decides, writes down and takes up again."""

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fake_agents import ENGINE_POINTS, GIB, LINK, FakeCluster, free_port
from vmferry_lab import Engine, wait_until

# As fast as a test wants it.
FAST = {"engine": {"interval": "100ms"}, "hot": {"reading": "100ms"}}
PATIENT = {**FAST, "engine": {"interval": "100ms", "automatic": "false"}}


@pytest.fixture
def cluster(tmp_path):
    cluster = FakeCluster(tmp_path, "hosta", "hostb", "hostc")
    yield cluster
    cluster.close()


@pytest.fixture
def make_engine(tmp_path, cluster):
    """make_engine(settings): one that is ready; gone after the test, without complaint of any sanitizer."""
    engines = []

    def make(settings=None, *, env=None, ready=True):
        engine = Engine(tmp_path, cluster.spec, free_port(), settings or FAST)
        engines.append(engine)
        engine.start(env)
        return engine.wait_ready() if ready else engine

    yield make
    for engine in engines:
        if engine.process.poll() is None:
            assert engine.stop() == 0, engine.log()
        assert "Sanitizer" not in engine.log() and "CRITICAL" not in engine.log(), engine.log()


def usable(engine):
    wait_until(lambda: all(host["usable"] for host in engine.show("hosts")["hosts"]), "hosts", 10)
    return engine


def heat(cluster):
    """hosta suffers, and hostb is the best place."""
    for name, cpu in (("web1", 0.9), ("web2", 0.7), ("web3", 0.5)):
        cluster["hosta"].add(name, cpu)
    cluster["hostc"].add("db1", 0.8)


def is_stopped(engine):
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    return "State:\tT" in status


def settled(engine, count=1):
    def look():
        moves = engine.moves()
        done = [move for move in moves if move["state"] not in ("intended", "under-way")]
        return moves if len(done) >= count else None
    return wait_until(look, f"{count} moves have ended", 25, 0.2)


# ---- it sees, decides, moves, explains ----

def test_relieves_a_hot_host_by_itself(cluster, make_engine):
    heat(cluster)
    cluster.estimates = {name: {"ms": 900.0, "bytes": 5000, "pause_ms": 12.0}
                         for name in ("web1", "web2", "web3")}
    engine = make_engine()
    move = settled(engine)[0]
    assert move["state"] == "completed" and move["ordered_by"] == "engine"
    assert (move["from"], move["to"]) == ("hosta", "hostb")
    assert cluster.done == [(move["guest"], "hosta", "hostb")]
    # What was expected, by what its agent had told, and what came of it.
    assert move["forecast"]["ms"] == 900.0 and move["forecast"]["guessed"] is False
    assert move["outcome"]["downtime_ms"] == 11.0
    reason = move["explanation"]
    assert reason["trigger"]["host"] == "hosta" and reason["trigger"]["kind"] == "cpu"
    assert reason["destination_after"]["cpu"] < 0.85 and reason["runners_up"]
    text = engine.vmferry("cluster", "explain", move["id"]).require().stdout
    assert "hosta -> hostb" in text and "a pause of 11" in text and "Expected: 900" in text
    # The guest rests now, and one move was enough.
    assert engine.guest(move["guest"])["cooldown_ms"] > 60000
    wait_until(lambda: engine.show("status")["hot"] == 0, "nothing is hot", 10)
    assert engine.show("plan")["moves"] == [] and "nothing is hot" in engine.show("plan")["nothing"]
    assert len(cluster.orders) == 1


def test_a_plan_does_nothing(cluster, make_engine):
    heat(cluster)
    engine = usable(make_engine(PATIENT))
    wait_until(lambda: engine.show("plan")["moves"], "there is a plan", 10)
    url = f"http://127.0.0.1:{engine.port}/v1/plan"
    for _ in range(1000):
        with urllib.request.urlopen(url) as answer:
            plan = json.load(answer)
    move = plan["moves"][0]
    assert move["from"] == "hosta" and move["text"] and plan["expires_at"] > plan["made_at"]
    for host in cluster.hosts.values():
        assert host.requests and host.changes == []
    assert engine.moves() == []
    text = engine.vmferry("cluster", "plan").require().stdout
    assert "hosta" in text and move["guest"] in text


def test_nothing_to_gain_is_said(cluster, make_engine):
    cluster["hosta"].add("web1", 0.5)
    engine = usable(make_engine())
    wait_until(lambda: engine.show("plan")["made_at"], "a plan")
    assert "nothing is hot" in engine.vmferry("cluster", "plan").require().stdout
    assert cluster.orders == []


def test_a_spike_moves_nobody(cluster, make_engine):
    heat(cluster)
    for guest in cluster["hosta"].guests.values():
        guest.cpu /= 2
    engine = usable(make_engine())
    for _ in range(3):
        time.sleep(0.8)
        cluster["hosta"].lies = {"cpu_used": 1.99}
        time.sleep(0.11)
        cluster["hosta"].lies = {}
    assert cluster.orders == [] and engine.moves() == []


def test_an_sla_that_is_missed(cluster, make_engine):
    cluster["hosta"].add("web1", 0.3, wait=0.3)
    engine = usable(make_engine())
    assert engine.guest("web1")["sla_met"] is None
    engine.vmferry("sla", "web1", "--cpu-wait", "5%", "--network", "200mbit", "--swap", "0").require()
    assert engine.show("guests")["guests"][0]["sla"] == {
        "cpu_wait": 0.05, "network_bytes_per_s": 25000000, "no_swap": True}
    wait_until(lambda: engine.guest("web1")["sla_met"] is False, "missed")
    assert any("web1" in text for text in
               wait_until(lambda: engine.host("hosta")["hot"], "hot", 10))
    assert "25" in engine.vmferry("sla").require().stdout


# ---- figures that cannot be used ----

@pytest.mark.parametrize("change, problem", [
    ({"lies": {"cpu_used": -1}}, "\"cpu_used\" is negative"),
    ({"lies": {"pressure": {"cpu": {"some": 7}}}}, "more than can be"),
    ({"lies": {"guests": "none"}}, "\"guests\" is not a list"),
    ({"lies": {"memory_bytes": 1 << 20, "memory_available_bytes": 0}}, "in memory, of 1 MiB"),
    ({"version": "0.9.0"}, "version 0.9.0"),
    ({"wall_off": 300.0}, "ahead of ours"),
    ({"wall_off": -300.0}, "behind ours"),
], ids=["negative", "share", "list", "memory", "version", "ahead", "behind"])
def test_bad_figures(cluster, make_engine, change, problem):
    """A host that is hot, if its word was good."""
    heat(cluster)
    for key, value in change.items():
        setattr(cluster["hosta"], key, value)
    engine = make_engine()
    wait_until(lambda: problem in (engine.host("hosta")["problem"] or ""), problem, 15)
    assert engine.host("hosta")["stale"] and not engine.host("hosta")["usable"]
    wait_until(lambda: engine.host("hostb")["usable"], "the others")
    time.sleep(1.5)
    assert cluster.orders == []
    assert problem in engine.vmferry("cluster", "hosts").require().stdout


def test_a_host_that_hangs_delays_nobody(cluster, make_engine):
    heat(cluster)
    cluster["hostc"].hangs.set()
    engine = make_engine()
    move = settled(engine)[0]
    assert (move["from"], move["to"]) == ("hosta", "hostb")
    assert not engine.host("hostc")["usable"] and engine.host("hosta")["usable"]


def test_figures_that_stand_still_grow_old(cluster, make_engine):
    engine = usable(make_engine(PATIENT))
    cluster["hosta"].stands_still = True
    wait_until(lambda: "s old" in (engine.host("hosta")["problem"] or ""), "stale", 20)
    assert engine.host("hosta")["age_ms"] >= 10000
    cluster["hosta"].stands_still = False
    wait_until(lambda: engine.host("hosta")["usable"], "fresh again")


def test_the_same_guest_on_two_hosts(cluster, make_engine):
    heat(cluster)
    cluster["hostb"].guests["web1"] = cluster["hosta"].guests["web1"]
    engine = make_engine()
    wait_until(lambda: "so has" in (engine.host("hosta")["problem"] or ""), "told", 10)
    assert "has guest web1" in engine.host("hostb")["problem"]
    time.sleep(1.5)
    assert cluster.orders == []


# ---- what was written down, and what was not ----

@pytest.mark.parametrize("point", ENGINE_POINTS)
@pytest.mark.parametrize("seconds", [0.2, 4.0], ids=["short", "long"])
def test_killed_in_a_move(cluster, make_engine, point, seconds):
    """A move is neither lost nor doubled: what was ordered is followed, what was not is not ordered again."""
    heat(cluster)
    cluster.move_seconds = seconds
    engine = make_engine(env={"VMFERRY_FAULT": f"{point}=kill"}, ready=False)
    engine.wait_end()
    ordered = len(cluster.orders)
    assert ordered == (1 if point == "engine.ordered" else 0)
    time.sleep(0.3)
    engine.settings["engine"]["automatic"] = "false"
    engine.start().wait_ready()
    assert len(engine.moves()) == 1
    move = settled(engine)[0]
    assert move["state"] == ("completed" if ordered else "abandoned")
    assert len(cluster.orders) == len(cluster.done) == ordered
    assert all(len(cluster.place(guest)) == 1 for guest in ("web1", "web2", "web3"))
    # It was ours, so nobody is frozen for it.
    assert not any(guest["frozen"] for guest in engine.show("guests")["guests"])
    if ordered:
        assert move["outcome"]["status"] == "completed"


def test_killed_while_one_is_under_way(cluster, make_engine):
    heat(cluster)
    cluster.move_seconds = 3
    engine = make_engine()
    wait_until(lambda: [move for move in engine.moves() if move["state"] == "under-way"], "a move", 15)
    engine.kill()
    engine.start().wait_ready()
    move = settled(engine)[0]
    assert move["state"] == "completed" and len(cluster.orders) == 1


def test_an_order_that_is_not_answered(cluster, make_engine):
    """The agent takes it and goes away: nobody knows, until it is asked."""
    heat(cluster)
    cluster.move_seconds = 2
    cluster["hosta"].drops_orders = True
    engine = make_engine()
    move = settled(engine)[0]
    assert move["state"] == "completed" and len(cluster.orders) == 1 and move["activity"]


def test_an_order_that_comes_late(cluster, make_engine):
    """Who asks what came of it, meanwhile, has the agent's word that it does not begin any more."""
    heat(cluster)
    engine = make_engine(env={"VMFERRY_FAULT": "engine.before-order=stop@1"}, ready=False)
    wait_until(lambda: is_stopped(engine), "it stands still", 20)
    cluster["hosta"].slept_ms = 11000
    engine.process.send_signal(signal.SIGCONT)
    move = settled(engine.wait_ready())[0]
    assert move["state"] == "refused" and "the order has expired" in move["problem"]
    assert len(cluster["hosta"].late) == 1 and cluster.place(move["guest"]) == ["hosta"]


def test_the_source_agent_dies_in_a_move(cluster, make_engine):
    heat(cluster)
    cluster.move_seconds = 2
    engine = make_engine()
    wait_until(lambda: [move for move in engine.moves() if move["state"] == "under-way"], "a move", 15)
    cluster["hosta"].stop()
    wait_until(lambda: cluster.done, "it moves nevertheless")
    time.sleep(0.5)
    assert engine.moves()[-1]["state"] == "under-way"
    cluster["hosta"].start()
    assert settled(engine)[0]["state"] == "completed"


def test_a_move_that_fails(cluster, make_engine):
    heat(cluster)
    cluster.fail_moves = "the destination has no room"
    cluster.move_seconds = 0.1
    engine = make_engine()
    move = settled(engine)[0]
    assert move["state"] == "failed" and move["problem"] == "the destination has no room"
    # It is not tried over and over.
    time.sleep(2)
    assert len([one for one in engine.moves() if one["guest"] == move["guest"]]) == 1


def test_a_move_that_is_refused(cluster, make_engine):
    heat(cluster)
    for guest in cluster["hosta"].guests.values():
        guest.not_movable = "it has a device of the host"
    engine = make_engine()
    move = settled(engine)[0]
    assert move["state"] == "refused" and "device of the host" in move["problem"]
    time.sleep(1)
    assert cluster.orders == [] and len(engine.moves()) <= 6


def readings(engine) -> dict:
    """Of each guest that the store knows: how many readings of its CPUs, in all hours of the day."""
    with contextlib.closing(sqlite3.connect(engine.store)) as store:
        rows = store.execute("SELECT guest, figures FROM daily").fetchall()
    return {guest: sum(hour[0] for hour in json.loads(figures)["cpu"]["hours"] if hour)
            for guest, figures in rows}


def test_hours_of_the_day_outlive_a_restart(cluster, make_engine):
    here, gone = cluster["hosta"].add("web1", 0.5), cluster["hosta"].add("web2", 0.5)
    engine = usable(make_engine(PATIENT))
    wait_until(lambda: len(engine.show("guests")["guests"]) == 2, "guests")
    time.sleep(1)
    assert engine.stop() == 0
    before = readings(engine)
    assert set(before) == {here.id, gone.id} and before[here.id] > 3
    del cluster["hosta"].guests["web2"]
    engine.start().wait_ready()
    wait_until(lambda: engine.guest("web1"), "the guest")
    assert engine.stop() == 0
    after = readings(engine)
    # Counted on, and what is not there now is not forgotten.
    assert after[here.id] > before[here.id] and after[gone.id] == before[gone.id]


def test_a_store_that_cannot_be_used(cluster, make_engine, tmp_path):
    (tmp_path / "engine.db").write_text("not a database, but long enough to look at; " * 20)
    engine = make_engine(ready=False)
    assert engine.wait_end() == 1
    assert "is damaged, or not a database" in engine.log() and "move it aside" in engine.log()


def test_one_engine_for_one_store(cluster, make_engine):
    make_engine()
    second = make_engine(ready=False)
    assert second.wait_end() == 1 and "another engine has it" in second.log()


# ---- what users say ----

def test_freeze(cluster, make_engine):
    engine = make_engine(PATIENT)
    assert engine.show("status")["frozen"] is False
    engine.vmferry("freeze").require()
    engine.stop()
    heat(cluster)
    engine.settings["engine"]["automatic"] = "true"
    engine.start().wait_ready()  # it is still frozen
    assert "a user has frozen it" in engine.vmferry("cluster", "status").require().stdout
    wait_until(lambda: engine.show("status")["hot"], "hot", 10)
    time.sleep(1)
    assert cluster.orders == [] and all(not host.changes for host in cluster.hosts.values())
    engine.vmferry("thaw").require()
    assert settled(engine)[0]["state"] == "completed"


def test_freeze_of_a_guest(cluster, make_engine):
    engine = usable(make_engine(PATIENT))
    for name in ("web1", "web2"):
        engine.vmferry("freeze", name).require()
    heat(cluster)
    engine.stop()
    engine.settings["engine"]["automatic"] = "true"
    engine.start().wait_ready()
    assert settled(engine)[0]["guest"] == "web3"


def test_rules(cluster, make_engine):
    heat(cluster)
    cluster["hostb"].add("web9", 0.1)
    engine = usable(make_engine(PATIENT))
    engine.vmferry("rule", "add", "apart", "web1", "web2", "web3", "web9").exit_code
    first = engine.vmferry("rule", "add", "hosts", "web1", "web2", "--on", "hosta,hostc").require()
    assert "Rule" in first.stdout
    refused = engine.vmferry("rule", "add", "hosts", "web1", "--on", "hostb")
    assert refused.exit_code == 1 and "contradict" in refused.stderr
    assert "no host hostx" in engine.vmferry("rule", "add", "hosts", "web1", "--on", "hostx").stderr
    rules = json.loads(engine.vmferry("rule", "list", "--json").require().stdout)["rules"]
    for rule in rules:
        engine.vmferry("rule", "remove", rule["id"]).require()
    engine.vmferry("rule", "add", "never", "web1", "web2").require()
    engine.stop()
    engine.settings["engine"]["automatic"] = "true"
    engine.start().wait_ready()
    move = settled(engine)[0]
    assert move["guest"] == "web3"
    assert engine.guest("web1")["rules"]


def test_drain(cluster, make_engine):
    heat(cluster)
    cluster["hosta"].guests["web2"].cpu = 0.2
    cluster["hosta"].guests["web2"].activity = {"id": "x", "kind": "protection", "progress": {}}
    cluster.move_seconds = 0.5
    engine = usable(make_engine(PATIENT))
    wait_until(lambda: len(engine.show("guests")["guests"]) == 4, "guests")
    told = engine.vmferry("drain", "hosta", "--dry-run")
    assert told.exit_code == 1 and "Cannot leave hosta:\n  web2: " in told.stdout
    assert "protection" in told.stdout and told.stdout.index("web2") < told.stdout.index("web1 ->")
    time.sleep(0.5)
    assert cluster.orders == [] and engine.host("hosta")["drained"] is False
    assert engine.vmferry("drain", "hosta").exit_code == 1
    wait_until(lambda: list(cluster["hosta"].guests) == ["web2"], "all that can have left", 20)
    assert {move["ordered_by"] for move in engine.moves()} == {"drain"}
    # Once it can, it leaves, too.
    cluster["hosta"].guests["web2"].activity = None
    wait_until(lambda: not cluster["hosta"].guests, "it is empty", 20)
    wait_until(lambda: "is empty and takes no guests" in engine.vmferry("drain", "hosta").stdout, "told")
    refused = engine.vmferry("cluster", "move", "web1", "hosta")
    assert refused.exit_code == 1 and "drain" in refused.stderr
    engine.vmferry("undrain", "hosta").require()
    assert engine.host("hosta")["drained"] is False


def test_a_drain_is_taken_up_again(cluster, make_engine):
    heat(cluster)
    cluster.move_seconds = 1
    engine = usable(make_engine(PATIENT))
    wait_until(lambda: len(engine.show("guests")["guests"]) == 4, "guests")
    engine.vmferry("drain", "hosta").require()
    wait_until(lambda: cluster.orders, "it begins", 10)
    engine.kill()
    engine.start().wait_ready()
    wait_until(lambda: not cluster["hosta"].guests, "it is empty", 25)
    assert len(cluster.orders) == len(cluster.done) == 3


def test_a_users_move(cluster, make_engine):
    heat(cluster)
    cluster.move_seconds = 30
    engine = usable(make_engine(PATIENT))
    wait_until(lambda: engine.guest("db1"), "guests")
    answer = json.loads(engine.vmferry("cluster", "move", "db1", "hostb", "--json").require().stdout)
    wait_until(lambda: engine.show("explain", answer["id"])["state"] == "under-way", "it begins")
    assert engine.show("explain", answer["id"])["progress"]["phase"] == "precopy"
    assert engine.vmferry("cluster", "move", "db1", "hostb").exit_code == 1
    engine.vmferry("cluster", "cancel", answer["id"]).require()
    move = settled(engine)[0]
    assert move["state"] == "cancelled" and move["ordered_by"] == "user"
    assert cluster.place("db1") == ["hostc"]


@pytest.mark.parametrize("seconds", [0.0, 1.5], ids=["unseen", "seen"])
def test_somebody_else_moves_a_guest(cluster, make_engine, seconds):
    cluster["hosta"].add("web1", 0.5)
    cluster.move_seconds = seconds
    engine = usable(make_engine())
    wait_until(lambda: engine.guest("web1"), "the guest")
    cluster.begin(cluster["hosta"], cluster["hosta"].guests["web1"], cluster["hostb"].moves_to)
    move = settled(engine)[0]
    assert move["ordered_by"] == "somebody else" and move["state"] == "completed"
    assert (move["from"], move["to"]) == ("hosta", "hostb")
    assert "somebody else" in engine.guest("web1")["frozen_why"]
    assert engine.events("second-balancer")
    engine.vmferry("thaw", "web1").require()
    assert engine.guest("web1")["frozen"] is False
    time.sleep(0.5)
    assert len(engine.moves()) == 1 and engine.guest("web1")["frozen"] is False


# ---- while a move runs ----

CAP = LINK / 2
TRICKLE = CAP * 0.02


def begin_move(cluster, engine, guest, to):
    """A user's; it has begun."""
    wait_until(lambda: engine.guest(guest), "the guest")
    usable(engine)
    engine.vmferry("cluster", "move", guest, to).require()
    wait_until(lambda: cluster.orders, "it is ordered")


def last_rate(cluster, host="hosta"):
    return cluster[host].rates[-1][2]


def test_a_move_takes_what_is_free(cluster, make_engine):
    """It falls at once where guests send more, comes back slowly, and is never beyond its cap by more than 5 %, although
    its agent takes 10 % more than it is told."""
    cluster["hosta"].add("web1", 0.3)
    cluster.move_seconds, cluster.overhead = 60, 1.1
    cluster["hostb"].traffic = LINK * 0.65
    engine = make_engine(PATIENT)
    begin_move(cluster, engine, "web1", "hostb")
    free = LINK * (0.95 - 0.65)
    assert last_rate(cluster) == pytest.approx(free, rel=0.01), "it begins with what is free"
    cluster["hostb"].traffic = LINK * 0.85
    wait_until(lambda: last_rate(cluster) <= LINK * 0.1 * 1.05, "it gives way", 2)
    cluster["hostb"].traffic = 0.0
    began, low = time.monotonic(), last_rate(cluster)
    wait_until(lambda: last_rate(cluster) > CAP * 0.85, "it has its share again", 20)
    took = time.monotonic() - began
    assert CAP * 0.85 / low < 1.3 ** (took + 2), f"it rose from {low} within {took} s"
    move = cluster.moves["web1"]
    before, at = move.sent, time.monotonic()
    time.sleep(2.5)
    assert (move.sent - before) / (time.monotonic() - at) <= CAP * 1.05
    assert all(rate * cluster.overhead <= CAP * 1.15 for _, _, rate in cluster["hosta"].rates)
    engine.vmferry("cluster", "cancel", engine.moves()[0]["id"]).require()
    assert settled(engine)[0]["state"] == "cancelled"


@pytest.mark.parametrize("where", ["hosta", "hostb"], ids=["source", "destination"])
def test_a_move_yields_to_a_guest_that_it_hurts(cluster, make_engine, where):
    """With the engine's own interval: agents look every two seconds, and what they have seen is known soon."""
    cluster["hosta"].add("web1", 0.3)
    hurt = cluster[where].add("web2", 0.3)
    cluster.move_seconds = 60
    engine = make_engine({"engine": {"automatic": "false"}})
    engine.vmferry("sla", "web2", "--cpu-wait", "5%").require()
    begin_move(cluster, engine, "web1", "hostb")
    time.sleep(2)  # it is well under way
    hurt.wait = 0.3
    wait_until(lambda: last_rate(cluster) <= TRICKLE * 1.01, "it yields", 2)
    if where == "hosta":
        return
    hurt.wait = 0.0
    yielded = time.monotonic()
    wait_until(lambda: last_rate(cluster) > TRICKLE * 2, "it comes back", 15)
    assert 4 < time.monotonic() - yielded and last_rate(cluster) <= CAP * 0.65
    assert engine.moves()[0]["state"] == "under-way"


def test_a_move_yields_where_no_link_tells_its_speed(cluster, make_engine):
    cluster["hosta"].add("web1", 0.3)
    hurt = cluster["hostb"].add("web2", 0.3)
    cluster.move_seconds = 60
    for host in cluster.hosts.values():
        host.lies = {"links": []}
    engine = make_engine(PATIENT)
    engine.vmferry("sla", "web2", "--cpu-wait", "5%").require()
    begin_move(cluster, engine, "web1", "hostb")
    assert cluster["hosta"].rates[0][2] == 0, "no limit"
    time.sleep(1)
    hurt.wait = 0.3
    wait_until(lambda: 0 < last_rate(cluster) <= 1e6, "it yields", 2)


def test_a_move_that_does_more_harm_than_good(cluster, make_engine):
    heat(cluster)
    hurt = [cluster["hostb"].add(f"db{number}", 0.05) for number in range(2, 8)]
    cluster.round_bytes, cluster.move_seconds = 100 * GIB, 60
    engine = make_engine(PATIENT)
    for guest in hurt:
        engine.vmferry("sla", guest.name, "--cpu-wait", "50%").require()
    engine.stop()
    engine.settings["engine"]["automatic"] = "true"
    engine.start().wait_ready()
    wait_until(lambda: cluster.orders, "it begins", 15)
    time.sleep(1)
    for guest in hurt:
        guest.wait = 0.9
    move = settled(engine)[0]
    assert move["state"] == "cancelled" and move["ordered_by"] == "engine"
    assert "more harm to other guests" in move["problem"]
    assert [path for _, path in cluster["hosta"].changes if path.endswith("/cancel")] == \
        [f"/v1/guests/{move['guest']}/cancel"]
    assert "more harm" in engine.vmferry("cluster", "explain", move["id"]).require().stdout
    assert engine.guest(move["guest"])["cooldown_ms"] > 60000, "it is not tried again soon"


@pytest.mark.long
def test_a_noisy_reading_does_not_call_off_a_large_guests_move(cluster, make_engine):
    heat(cluster)
    hurt = cluster["hostb"].add("db2", 0.05)
    cluster.round_bytes, cluster.move_seconds = 4 * GIB, 60
    engine = make_engine(PATIENT)
    engine.vmferry("sla", "db2", "--cpu-wait", "50%").require()
    engine.stop()
    engine.settings["engine"]["automatic"] = "true"
    engine.start().wait_ready()
    wait_until(lambda: cluster.orders, "it begins", 15)
    time.sleep(1)
    hurt.wait = 0.9
    wait_until(lambda: last_rate(cluster) <= TRICKLE * 1.01, "it yields", 2)
    hurt.wait = 0.0
    wait_until(lambda: last_rate(cluster) > TRICKLE * 2, "it comes back", 15)
    assert engine.moves()[0]["state"] == "under-way"


@pytest.mark.long
def test_a_move_outlives_a_cool_moment(cluster, make_engine):
    heat(cluster)
    cluster.round_bytes, cluster.move_seconds = 4 * GIB, 6
    engine = make_engine()
    wait_until(lambda: cluster.orders, "it begins", 15)
    cluster["hosta"].lies = {"cpu_used": 1.0}
    wait_until(lambda: engine.show("status")["hot"] == 0, "nothing is hot", 5)
    assert settled(engine)[0]["state"] == "completed"


@pytest.mark.parametrize("helps", [True, False], ids=["hit", "miss"])
def test_what_came_of_the_forecast(cluster, make_engine, helps):
    heat(cluster)
    engine = make_engine({**FAST, "engine": {**FAST["engine"], "judge-after": "1s"}})
    assert engine.show("status")["hit_rate"] == {"hits": 0, "of": 0, "rate": None}
    wait_until(lambda: cluster.orders, "it begins", 15)
    for guest in cluster["hosta"].guests.values():
        guest.not_movable = None if guest.activity else "it stays"
        guest.cpu = guest.cpu if helps or guest.activity else 1.2
    move = settled(engine)[0]
    wait_until(lambda: engine.show("status")["hit_rate"]["of"], "it is judged", 10)
    assert engine.show("status")["hit_rate"] == {"hits": int(helps), "of": 1, "rate": float(helps)}
    move = engine.show("explain", move["id"])
    assert move["hit"] is helps and move["forecast"]["ms"] > 0 and move["outcome"]["total_ms"] > 0
    assert f"{int(helps)} of 1" in engine.vmferry("cluster", "status").require().stdout


# ---- swaps ----

def fill_for_swap(cluster, looks_every=0.0):
    """No host has room for one of hosta's; hostb has for it if one of its own goes the other way."""
    for host in cluster.hosts.values():
        host.cpus, host.looks_every = 16.0, looks_every
    for number in range(2):
        cluster["hosta"].add(f"big{number}", 7.5, vcpus=8)
    for number in range(3):
        cluster["hostb"].add(f"small{number}", 2.5, vcpus=4)
    cluster["hostc"].add("other", 11.8, vcpus=16)


@pytest.mark.parametrize("looks_every", [0.0, 0.7], ids=["at-once", "looks"])
def test_a_swap(cluster, make_engine, looks_every):
    """The second half follows the first, once the figures show that there is room."""
    fill_for_swap(cluster, looks_every)
    cluster.move_seconds = 0.5
    engine = make_engine()
    moves = settled(engine, 2)
    assert [move["state"] for move in moves] == ["completed"] * 2, moves
    first, second = moves
    assert {(first["from"], first["to"]), (second["from"], second["to"])} == \
        {("hosta", "hostb"), ("hostb", "hosta")}
    assert second["ordered_at"] >= first["ended_at"]
    assert first["explanation"]["swap"] and first["explanation"]["swap_with"] == second["guest"]
    assert second["explanation"]["swap_with"] == first["guest"]
    wait_until(lambda: engine.show("status")["hot"] == 0, "nothing is hot", 10)
    time.sleep(1)
    assert len(cluster.orders) == 2


def test_a_swap_whose_second_half_fails(cluster, make_engine):
    """It is told, and not tried again; what is hot then is relieved in another way."""
    fill_for_swap(cluster)
    cluster.move_seconds = 0.3
    engine = make_engine()
    wait_until(lambda: len(cluster.orders) == 1, "the first half", 15)
    partner = engine.moves()[0]["explanation"]["swap_with"]
    cluster.fail_moves, cluster.fail_guests = "it cannot leave", {partner}
    moves = settled(engine, 2)
    assert [move["state"] for move in moves[:2]] == ["completed", "failed"]
    assert moves[1]["guest"] == partner and moves[1]["problem"] == "it cannot leave"
    wait_until(lambda: engine.show("status")["hot"] == 0, "relieved nevertheless", 20)
    time.sleep(1)
    assert [move["guest"] for move in engine.moves()].count(partner) == 1
    assert len(cluster.orders) <= 4


def test_a_swap_whose_first_half_fails(cluster, make_engine):
    fill_for_swap(cluster)
    cluster.move_seconds = 0.3
    engine = make_engine()
    wait_until(lambda: len(cluster.orders) == 1, "the first half", 15)
    [move] = engine.moves()
    partner, cluster.fail_moves = move["explanation"]["swap_with"], "no"
    cluster.fail_guests = {move["guest"]}
    assert settled(engine)[0]["state"] == "failed"
    cluster.fail_moves = None
    moves = settled(engine, 3)
    # The other guest did not go alone; hosta is relieved by another pair.
    assert moves[1]["explanation"]["swap_with"] == moves[2]["guest"] and move["guest"] not in \
        (moves[1]["guest"], moves[2]["guest"], moves[1]["explanation"]["swap_with"])


# ---- killed at any moment ----

def check_books(cluster, engine, guests):
    """Each guest is in one place, and each order is one record of the journal, with the outcome that it had."""
    assert all(len(cluster.place(guest)) == 1 for guest in guests), "a guest is lost, or there twice"
    moves = engine.moves()
    assert all(move["state"] not in ("intended", "under-way") for move in moves)
    activities = [move["activity"] for move in moves if move["activity"]]
    assert len(activities) == len(set(activities)), "one move was written down twice"
    came = [(move["guest"], move["from"], move["to"]) for move in moves if move["state"] == "completed"]
    assert sorted(came) == sorted(cluster.done)
    assert len(cluster.orders) == len(cluster.done) == len(activities)
    assert not any(guest["frozen"] for guest in engine.show("guests")["guests"])


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.long)])
def test_killed_at_random_moments(cluster, make_engine, kills):
    """A drain that goes on from engine to engine, and back: no move is lost, and none is made twice."""
    chance = random.Random(kills)
    guests = [f"web{number}" for number in range(6)]
    for name in guests:
        cluster["hosta"].add(name, 0.1)
    engine = usable(make_engine({**PATIENT, "limits": {"moves-per-host": "3"}}))
    wait_until(lambda: len(engine.show("guests")["guests"]) == len(guests), "guests")
    cluster.move_seconds = 0.4
    for number in range(kills):
        empty = "hosta" if number % 2 == 0 else "hostb"
        engine.vmferry("undrain", "hostb" if empty == "hosta" else "hosta").require()
        engine.vmferry("drain", empty)
        time.sleep(chance.uniform(0, 0.9))
        engine.kill()
        engine.start().wait_ready()
    wait_until(lambda: not cluster[empty].guests, "the last drain is done", 60)
    wait_until(lambda: not [move for move in engine.moves() if move["state"] in ("intended", "under-way")],
               "all is settled", 30)
    check_books(cluster, engine, guests)
    assert len(cluster.orders) >= len(guests)


# ---- a disk that is full ----

@pytest.fixture
def small_disk(tmp_path):
    """Ask for it before make_engine."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(path):
    """All but nothing of what is free."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1024)):
            pass


def test_a_full_disk(cluster, small_disk, make_engine):
    """What cannot be written down is not begun; the engine says so, and goes on when there is room."""
    engine = usable(make_engine({"engine": {**FAST["engine"], "store": small_disk / "engine.db"}}))
    fill(small_disk / "other")
    # What the store's log has taken before can be written again: only what is more than that needs room.
    wait_until(lambda: engine.vmferry("rule", "add", "never", "web7").exit_code, "a write that is refused", 30)
    heat(cluster)
    held = wait_until(lambda: engine.show("status")["hold"], "it is held", 15)
    assert "full" in held and "engine.db" in held
    time.sleep(2)  # and it stays so: no move now and then
    assert engine.show("status")["hold"] and engine.show("status")["frozen"]
    assert cluster.orders == [] and engine.moves() == []
    assert "full" in engine.vmferry("cluster", "status").require().stdout
    refused = engine.vmferry("rule", "add", "never", "web1")
    assert refused.exit_code == 1 and "full" in refused.stderr
    assert engine.log().count("no move is begun") <= 2
    (small_disk / "other").unlink()
    move = settled(engine)[0]
    assert move["state"] == "completed" and not engine.show("status")["frozen"]


@pytest.mark.long
def test_the_disk_fills_up_in_a_move(cluster, small_disk, make_engine):
    """What came of it is written down once there is room; until then nothing else is begun."""
    heat(cluster)
    cluster.move_seconds = 2
    engine = make_engine({"engine": {**FAST["engine"], "store": small_disk / "engine.db"}})
    wait_until(lambda: [move for move in engine.moves() if move["state"] == "under-way"], "a move", 15)
    fill(small_disk / "other")
    wait_until(lambda: cluster.done, "it ends", 15)
    wait_until(lambda: engine.show("status")["hold"], "it is held", 15)
    cluster["hosta"].add("web9", 1.5)  # hot again
    time.sleep(2)
    assert len(cluster.orders) == 1
    engine.kill()
    engine.start()
    time.sleep(1)
    (small_disk / "other").unlink()
    if engine.process.poll() is not None:
        assert "full" in engine.log()
        engine.start()
    engine.wait_ready()
    moves = settled(engine)
    assert moves[0]["state"] == "completed" and moves[0]["activity"]
    assert [order[1] for order in cluster.orders].count(cluster.orders[0][1]) == 1


# ---- its server ----

def ask(engine, path, method="GET", headers=None, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{engine.port}{path}", method=method,
                                     headers=headers or {}, data=body)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_no_change_by_other_sites(cluster, make_engine):
    engine = make_engine()
    own = f"http://127.0.0.1:{engine.port}"
    header = {"X-Vmferry": "1"}
    assert ask(engine, "/v1/freeze", "POST")[0] == 403
    assert ask(engine, "/v1/freeze", "POST", {**header, "Origin": "http://evil.example"})[0] == 403
    assert ask(engine, "/v1/freeze", "POST", {**header, "Origin": "null"})[0] == 403
    assert ask(engine, "/v1/cluster", headers={"Host": "evil.example"})[0] == 403
    assert engine.show("status")["frozen"] is False
    assert ask(engine, "/v1/freeze", "GET")[0] == 405
    assert ask(engine, "/v1/freeze", "POST", {**header, "Origin": own})[0] == 200
    assert engine.show("status")["frozen"] is True
    assert ask(engine, "/v1/freeze", "POST", header, b"{" * 10)[0] == 400
    assert ask(engine, "/v1/freeze", "POST", header, b" " * (1 << 17))[0] == 413
    assert ask(engine, "/v1/freeze", "POST", header, b'{"gest": "web1"}')[0] == 400
    assert ask(engine, "/v1/nothing")[0] == 404


def test_a_token(cluster, make_engine, tmp_path):
    (tmp_path / "token").write_text("correct horse battery\n")
    engine = make_engine({**FAST, "engine": {**FAST["engine"], "token-file": tmp_path / "token"}})
    assert engine.vmferry("freeze").exit_code == 1
    wrong = tmp_path / "wrong"
    wrong.write_text("correct horse batterz\n")
    assert engine.vmferry("freeze", "--token-file", wrong).exit_code == 1
    engine.vmferry("freeze", "--token-file", tmp_path / "token").require()


def test_history_and_metrics(cluster, make_engine):
    engine = usable(make_engine())
    wait_until(lambda: engine.show("history", "hostb")["cpu"], "history", 15)
    assert "no host nowhere" in engine.vmferry("cluster", "history", "nowhere").stderr
    status, text = ask(engine, "/metrics")
    assert status == 200 and 'vmferry_engine_host_usable{host="hosta"} 1\n' in text
    assert "vmferry_engine_leader 1\n" in text


def test_metrics_are_as_prometheus_wants_them(cluster, make_engine):
    engine = usable(make_engine())
    try:
        done = subprocess.run(["promtool", "check", "metrics"], input=ask(engine, "/metrics")[1],
                              capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("no promtool")
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_ends_while_a_move_is_checked(cluster, make_engine):
    """What the check looks at is still there."""
    heat(cluster)
    engine = usable(make_engine(PATIENT))
    wait_until(lambda: engine.guest("db1"), "guests")
    path = "/v1/guests/db1"
    cluster["hostc"].held.add(path)
    engine.vmferry("cluster", "move", "db1", "hostb").require()
    wait_until(lambda: ("GET", path) in cluster["hostc"].requests, "it is checked")
    engine.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    cluster["hostc"].held.clear()
    assert engine.wait_end() == 0, engine.log()


def test_ends_at_once(cluster, make_engine):
    """Also while a host hangs that it has asked something."""
    cluster["hostc"].hangs.set()
    engine = make_engine()
    wait_until(lambda: cluster["hostc"].requests, "it is asked")
    start = time.monotonic()
    assert engine.stop() == 0
    assert time.monotonic() - start < 2


def test_ends_while_an_order_is_not_answered(cluster, make_engine):
    """Whether its agent has taken it is not known then; the next start finds out."""
    heat(cluster)
    cluster.move_seconds = 5
    cluster.round_bytes = 10**10  # most of it is still to be done
    engine = make_engine()
    cluster["hosta"].hangs_after_orders = True
    wait_until(lambda: cluster.orders, "a move is ordered", 15)
    start = time.monotonic()
    assert engine.stop() == 0
    assert time.monotonic() - start < 2
    cluster["hosta"].hangs_after_orders = False
    cluster["hosta"].hangs.clear()
    # So slow that it does not know for some time whether the move is worth anything: it is not called off for that.
    engine.settings["engine"].update(automatic="false", interval="1s")
    engine.start().wait_ready()
    move = settled(engine)[0]
    assert move["state"] == "completed" and len(cluster.orders) == len(cluster.done) == 1
