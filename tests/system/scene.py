"""A guest between two agents, watched by a client all the time."""

import time
from contextlib import contextmanager
from pathlib import Path

from findings import check_completed, left_files, strangers_on, traces_in
from vmferry_lab import Agent, Guest, GuestHarmed, Lab, Pki, qemu_pids, wait_until

# A guest whose device state, disk and memory all change while it moves.
BUSY = {"pattern": "mixed", "pages_per_second": 300, "disk_mb": 16, "disk_rate": 20}
SMALL = {"memory_mb": 128, "arena_mb": 16, "check": 256}


class Scene:
    """Two hosts with an agent each, and guests; each guest's heartbeat is held from its start."""

    def __init__(self, lab: Lab, pki: Pki | None):
        self.lab = lab
        self.a, self.b = (Agent(lab, host, pki.folder(host.name) if pki else None)
                          for host in lab.hosts)
        for agent in (self.a, self.b):
            lab.at_close(lambda agent=agent: agent.process and agent.process.kill())
            agent.start()
        self.beats = {}
        self.place: dict[str, Agent] = {}
        self.guest: Guest | None = None  # the first one

    # ---- guests ----

    def run(self, name="web1", agent: Agent | None = None, **options) -> Guest:
        """`vmferry run` of a guest, on host A unless told otherwise."""
        guest = self.lab.guest(name, **{**SMALL, **options})
        (agent or self.a).run(guest)
        return self.watch(guest, agent or self.a)

    def adopt(self, name="web1", wrapper=(), **options) -> Guest:
        """A guest that runs on host A without vmferry, then `vmferry adopt`."""
        guest = self.lab.guest(name, **{**SMALL, **options})
        process = self.start(guest, wrapper)
        self.a.adopt(guest, process)
        return self.watch(guest, self.a)

    def watch(self, guest: Guest, agent: Agent) -> Guest:
        """From now on *agent* is where it should be, and its heartbeat is held."""
        self.place[guest.name] = agent
        self.beats[guest.name] = guest.heartbeat(20)
        self.guest = self.guest or guest
        return guest

    def forget(self, guest: Guest) -> None:
        """It has ended, and nothing of it may be left; another may take its place."""
        self.place.pop(guest.name)
        self.beats.pop(guest.name).close()
        if self.guest is guest:
            self.guest = None
        for agent in (self.a, self.b):
            assert not qemu_pids(agent.host, guest) and guest.name not in agent.guest_names()
        self._check_hosts_clean()

    def start(self, guest: Guest, wrapper=()):
        """Its QEMU on host A, under *wrapper*, without vmferry."""
        argv = [*wrapper, *guest.command_with_qmp(guest.qmp_path(self.lab.host_a))]
        process = self.lab.host_a.start_orphan(argv, f"{guest.name}.qemu")
        process.require(guest.is_ready, f"guest {guest.name}", timeout=90)
        return process

    def here(self, guest: Guest) -> Agent:
        return self.place[guest.name]

    def there(self, guest: Guest) -> Agent:
        return self.b if self.here(guest) is self.a else self.a

    # ---- moves ----

    def migrate(self, guest: Guest, *options):
        """Tries to move it to the other host; what came of it is not looked at."""
        return self.here(guest).migrate(guest, self.there(guest), *options)

    def move(self, guest: Guest, *options) -> dict:
        """Moves it to the other host and checks everything; the report."""
        verified = True if "--verify" in options else None
        report = check_completed(self.migrate(guest, *options), verified=verified)
        self.has_moved(guest)
        return report

    def has_moved(self, guest: Guest) -> None:
        """It must run at the other host by now, and only there."""
        self.place[guest.name] = self.there(guest)
        self.check(guest)

    # ---- what must hold after whatever happened ----

    def check(self, guest: Guest) -> None:
        """Exactly one copy runs, here; it is unharmed; nothing is left anywhere."""
        here, there = self.here(guest), self.there(guest)
        wait_until(lambda: not qemu_pids(there.host, guest), "end of the other copy", 15)
        self.beats[guest.name].wait(5)
        self.beats[guest.name].check()
        assert len(qemu_pids(here.host, guest)) == 1
        wait_until(lambda: self._is_settled(guest), "agents agree where the guest is", 15)
        pid = here.guest_pid(guest)
        assert qemu_pids(here.host, guest) == [pid]
        self.check_clean(pid)
        guest.check()
        self.beats[guest.name].check()

    def require_silence(self, guest: Guest, seconds: float = 0.5) -> None:
        """No copy of the guest may run: no beat comes any more."""
        beats = self.beats[guest.name]
        start = time.monotonic() * 1e3
        if not beats.is_silent(seconds):
            late = [round(beat.arrival_ms - start) for beat in beats.beats[-10:]]
            raise GuestHarmed(f"the guest runs: beats at {late} ms")

    def _is_settled(self, guest: Guest) -> bool:
        status = self.here(guest).vmferry("status", guest.name, "--json")
        return (status.exit_code == 0 and status.json["state"] == "running"
                and guest.name not in self.there(guest).guest_names())

    def check_clean(self, pid: int) -> None:
        """Nothing may be left; what ends by itself has a moment to do so."""
        self._wait_empty(lambda: traces_in(pid), f"QEMU {pid}")
        self._check_hosts_clean()

    def _check_hosts_clean(self) -> None:
        for agent in (self.a, self.b):
            self._wait_empty(lambda agent=agent: left_files(agent), f"{agent.host.name}: files")
            self._wait_empty(lambda agent=agent: strangers_on(agent, *self._guests()),
                             f"{agent.host.name}: processes")

    @staticmethod
    def _wait_empty(look, where: str) -> None:
        try:
            wait_until(lambda: not look(), where, 5)
        except Exception:
            raise AssertionError(f"left in {where}: {look()}") from None

    def _guests(self) -> list[Guest]:
        return [_Named(name) for name in self.place]

    # ---- changes to the agents ----

    def restart(self, agent: Agent, env: dict | None = None, *, finds_guests=True) -> None:
        """A restart; the guests that are there are found again before this returns."""
        if agent.process.running:
            agent.stop()
        agent.start(env)
        for name, place in self.place.items():
            if place is agent and finds_guests:
                wait_until(lambda name=name: _runs(agent, name), f"{name} is found again", 30)

    @contextmanager
    def changed(self, agent: Agent, *, settings=None, rules=None, env=None):
        """The agent runs with other settings, map rules or environment for a while."""
        before = dict(agent.settings), dict(agent.rules)
        agent.settings.update(settings or {})
        agent.rules.update(rules or {})
        try:
            self.restart(agent, env)
            yield agent
        finally:
            agent.settings, agent.rules = before
            self.restart(agent)


class _Named:
    """As much of a guest as qemu_pids() needs."""

    def __init__(self, name: str):
        self.name = name


def _runs(agent: Agent, name: str) -> bool:
    status = agent.vmferry("status", name, "--json")
    return status.exit_code == 0 and status.json["state"] in ("running", "in-doubt")


def move_progress(status: dict) -> dict | None:
    """Of the move that goes on with a guest of this status; None: there is none."""
    return (status.get("activity") or {}).get("progress")


def wait_progress(agent: Agent, guest: Guest, phase: str, wire_bytes: int = 0) -> dict:
    """Waits until a move is in *phase* and has sent that much; its progress."""
    def look():
        progress = move_progress(agent.status(guest))
        if progress and progress["phase"] == phase and progress["wire_bytes"] >= wire_bytes:
            return progress
        return None
    return wait_until(look, f"{phase} of {guest.name}", 30)


def is_stopped(pid: int) -> bool:
    """A process that has stopped itself at a fault point (action "stop")."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def move_until(scene, agent, point: str, *options):
    """Begins a move and waits until *agent* stops at a fault point; agent.thaw() lets it go on."""
    scene.restart(agent, {"VMFERRY_FAULT": f"{point}=stop"})
    move = scene.here(scene.guest).begin_migrate(scene.guest, scene.there(scene.guest), *options)
    wait_until(lambda: is_stopped(agent.pid), point)
    return move
