"""A guest that moves between QEMU and Bochs, and to whom something happens on the way."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

from findings import left_files, strangers_on, traces_in
from other_vmm import Journey, beats_of
from scene import is_stopped, wait_progress
from vmferry_lab import Agent, Command, GuestHarmed, LabError, Result, qemu_pids, wait_until

RECOVERY_S = 60  # until both agents know where it runs


def bochs_pids(agent: Agent) -> list[int]:
    """All Bochs of a host; each is in a network namespace of its own, and in a folder of its host's."""
    folder = f"{agent.host.path('run')}/"
    return [int(entry) for entry in os.listdir("/proc")
            if entry.isdigit() and _link(f"/proc/{entry}/exe").endswith("/bochs-bin")
            and f"{_link(f'/proc/{entry}/cwd')}/".startswith(folder)]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


class TroubledJourney(Journey):
    """Knows in what it runs, and what must hold wherever it ends."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.lab = self.guest.lab
        self.vmm = "qemu"
        self.over = False  # there is no guest any more
        self._began_ms = 0     # of the guest, when a move began
        self._console_at = 0   # where QEMU's file ended then

    # ---- processes ----

    def copies(self, agent: Agent) -> list[int]:
        return qemu_pids(agent.host, self.guest) + bochs_pids(agent)

    def kill_copy(self, agent: Agent) -> None:
        """Waits until there is one: a QEMU that a guest comes to from Bochs has a twin for a moment."""
        wait_until(lambda: len(self.copies(agent)) == 1, "one copy", 20)
        [pid] = self.copies(agent)
        os.kill(pid, signal.SIGKILL)

    # ---- moves ----

    @property
    def next_vmm(self) -> str:
        return "bochs" if self.vmm == "qemu" else "qemu"

    def be_in(self, vmm: str) -> "TroubledJourney":
        """Moves it, if it is in another."""
        if self.vmm != vmm:
            wait_until(self._is_known_here, f"{self.here.host.name} has found the guest again", 30)
            self.note()
            self.move(vmm)
            self.vmm = vmm
            self.check_runs()
        return self

    def note(self) -> None:
        """What is heard from now on tells where it ran."""
        self._take_all()
        self._began_ms = self.heard[-1].guest_ms
        self._console_at = len(self.guest.console_text())
        if self.vmm == "qemu":  # Bochs begins its file anew when it has something to say, not before
            self._bochs_file().unlink(missing_ok=True)

    def _bochs_file(self) -> Path:
        return self.guest.console.with_name(self.guest.console.name + ".bochs")

    def begin_move(self, *options) -> Command:
        wait_until(self._is_known_here, f"{self.here.host.name} has found the guest again", 30)
        self.note()
        return self.here.begin_migrate(self.guest, self.other(), "--vmm", self.next_vmm, *options)

    def begin_slow(self, *options) -> Command:
        """It would take many seconds, and some of it is sent already."""
        move = self.begin_move("--bandwidth", "2M", *options)
        wait_progress(self.here, self.guest, "precopy", 3_000_000)
        return move

    def move_until(self, agent: Agent, point: str) -> Command:
        """*agent*, which has the fault "stop" at that point, stands there."""
        move = self.begin_move()
        try:
            wait_until(lambda: is_stopped(agent.pid), point, 60)
        except LabError as error:
            raise LabError(f"{error}: {move.finish()} {agent.log()[-2000:]}") from None
        return move

    def fail_move(self, *options) -> Result:
        return self.begin_move(*options).finish()

    # ---- agents ----

    def restart(self, agent: Agent, fault: str | None = None) -> None:
        if agent.process.running:
            agent.thaw()
            agent.stop()
        agent.start({"VMFERRY_FAULT": fault} if fault else None)

    def _is_known_here(self) -> bool:
        status = self.here.vmferry("status", self.guest.name, "--json")
        return status.exit_code == 0 and status.json["state"] == "running"

    @contextmanager
    def fault(self, agent: Agent, text: str):
        """The agent has that VMFERRY_FAULT, and none afterwards, however it ends."""
        self.restart(agent, text)
        try:
            yield
        finally:
            self.lab.link.restore()
            self.restart(agent)

    # ---- what must hold ----

    def arrived(self) -> "TroubledJourney":
        """It must have moved."""
        self._take_all()
        self.here, self.vmm = self.other(), self.next_vmm
        self.follow(self.vmm)
        if self.vmm == "qemu":
            self.said = self._console_at
        return self

    def check_runs(self, beats: int = 2) -> None:
        """One copy runs, here and in this VMM; it is unharmed; nothing is left of another."""
        try:
            wait_until(self._is_settled, "one copy of the guest, where it should be", RECOVERY_S)
        except LabError as error:
            raise AssertionError(f"{error}: {self._diagnosis()}") from None
        self.hear(beats)
        self._check_silent_elsewhere()
        [pid] = self.copies(self.here)
        assert self.here.guest_pid(self.guest) == pid
        self._wait_nothing(lambda: traces_in(pid) if self.vmm == "qemu" else [], "in it")
        self.check_clean()

    def check_clean(self) -> None:
        for agent in (self.a, self.b):
            name = agent.host.name
            self._wait_nothing(lambda agent=agent: left_files(agent), f"files of {name}")
            self._wait_nothing(lambda agent=agent: strangers_on(agent, self.guest), name)
            self._wait_nothing(lambda agent=agent: self._left_folders(agent), f"folders of {name}")
        locks = list(self.lab.shared.glob("*.lock"))
        assert not locks, f"left: {locks}"

    def check_gone(self) -> None:
        """It has ended; nobody has it any more, and nothing is left of it."""
        for agent in (self.a, self.b):
            wait_until(lambda agent=agent: not self.copies(agent)
                       and self.guest.name not in agent.guest_names(), "it is gone", 20)
        self.check_clean()

    def _is_settled(self) -> bool:
        status = self.here.vmferry("status", self.guest.name, "--json")
        return (status.exit_code == 0 and status.json["state"] == "running"
                and status.json["vmm"] == self.vmm
                and self.copies(self.here) == [status.json["pid"]] and not self.copies(self.other())
                and self.guest.name not in self.other().guest_names())

    def _diagnosis(self) -> str:
        return "; ".join(
            f"{agent.host.name}: copies {self.copies(agent)}, "
            f"{agent.vmferry('status', self.guest.name, '--json')}, {agent.log()[-1500:]}"
            for agent in (self.a, self.b))

    def _check_silent_elsewhere(self) -> None:
        """The file that it does not write to has no beat from after the move's begin, but those it made before it went."""
        other = self._bochs_file() if self.vmm == "qemu" else self.guest.console
        text = other.read_text(errors="replace") if other.exists() else ""
        known = set(self.heard)
        doubled = [beat for beat in beats_of(text)
                   if beat.guest_ms > self._began_ms and beat not in known]
        if doubled:
            raise GuestHarmed(f"it has run twice: {doubled}")

    def _left_folders(self, agent: Agent) -> list[str]:
        """Of a Bochs or a twin of QEMU in the agent's runtime folder."""
        there = agent.host.path("run").rglob("*.bochs")
        wanted = agent is self.here and self.vmm == "bochs"
        found = [str(path) for path in there]
        return found if len(found) != wanted else []

    @staticmethod
    def _wait_nothing(look, where: str) -> None:
        try:
            wait_until(lambda: not look(), where, 5)
        except LabError:
            raise AssertionError(f"left: {where}: {look()}") from None
