"""Three hosts with agents and guests for an engine; tests and bench/engine.py use it."""

import os
import shutil
import threading
from pathlib import Path

from load import make_group, mount_groups
from scene import SMALL
from vmferry_lab import Agent, qemu_pids, wait_until

# A guest that does nothing but answer its heartbeat takes about 0.08 CPUs: three of them are too many for such a host.
CPUS = 0.28
SETTINGS = {"engine": {"interval": "1s"},
            "hot": {"reading": "1s", "cpu": "70%"},
            "limits": {"least-profit": "0.1", "destination-cpu": "100%", "memory-reserve": "1%"}}


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
