"""The engine with real agents and real guests on three hosts: it sees which one suffers, and relieves it."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from load import make_group, mount_groups
from scene import SMALL
from vmferry_lab import Agent, Engine, qemu_pids, wait_until

# A guest that does nothing but answer its heartbeat takes about 0.08 CPUs: three of them are too many for such a host.
CPUS = 0.28
SETTINGS = {"engine": {"interval": "1s"},
            "hot": {"reading": "1s", "cpu": "70%"},
            "limits": {"least-profit": "0.1", "destination-cpu": "100%", "memory-reserve": "1%"}}
PORT = 4750


class SmallHost:
    """What is to be an agent's host: a control group whose use is real, and that says it has few CPUs.  The machine may
    have no controller that limits them."""

    def __init__(self, lab, root: Path, name: str):
        self.group = make_group(lab, root, name)
        self.folder = lab.directory / f"{name}-figures"
        self.folder.mkdir()
        self.set_cpus(CPUS)
        (self.folder / "cgroup.procs").write_text("")
        self._ends = threading.Event()
        self._copy()
        thread = threading.Thread(target=self._run)
        thread.start()
        lab.at_close(lambda: (self._ends.set(), thread.join()))

    def set_cpus(self, cpus: float) -> None:
        (self.folder / "cpu.max").write_text(f"{int(cpus * 100000)} 100000\n")

    def _copy(self) -> None:
        for name in ("cpu.stat", "cpu.pressure", "memory.pressure", "io.pressure"):
            if (self.group / name).exists():
                new = self.folder / f".{name}"
                shutil.copyfile(self.group / name, new)
                os.replace(new, self.folder / name)

    def _run(self) -> None:
        while not self._ends.wait(0.1):
            self._copy()


class Cluster:
    """Three hosts with an agent each, and guests."""

    def __init__(self, lab, pki, prepare=lambda agent: None):
        """*prepare*: called with each agent before it starts."""
        self.lab = lab
        lab.hosts = [*lab.hosts, lab.third_host()]  # each maps the folders of all others
        root = mount_groups(lab)
        self.agents, self.sizes = {}, []
        for host in lab.hosts:
            small = SmallHost(lab, root, host.name)
            self.sizes.append(small)
            agent = Agent(lab, host, pki.folder(host.name))
            agent.metrics_root = small.folder
            agent.wrapper = ["sh", "-c", f"echo $$ >{small.group}/cgroup.procs && exec \"$@\"", "sh"]
            lab.at_close(lambda agent=agent: agent.process and agent.process.kill())
            prepare(agent)
            self.agents[host.name] = agent.start()
        self.guests, self.beats = {}, {}

    def __getitem__(self, name) -> Agent:
        return self.agents[name]

    @property
    def spec(self) -> str:
        return ",".join(f"{name}=unix:{agent.socket}" for name, agent in self.agents.items())

    def run(self, host: str, *names: str, **options) -> None:
        for name in names:
            self.guests[name] = self.lab.guest(name, **{**SMALL, "check": 0, **options})
            self[host].run(self.guests[name])
            self.beats[name] = self.guests[name].heartbeat(20)

    def place(self, name) -> list[str]:
        return [host for host, agent in self.agents.items()
                if qemu_pids(agent.host, self.guests[name])]

    def check(self) -> None:
        """Each guest runs once, and is unharmed."""
        for name, guest in self.guests.items():
            wait_until(lambda name=name: len(self.place(name)) == 1, f"one {name}", 20)
            self.beats[name].wait(5)
            self.beats[name].check()
            guest.check()


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
