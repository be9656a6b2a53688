"""Carries an injection (kill_plan.py) out on a move, and looks at what comes of it."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from findings import error_text
from kill_plan import (CUT, DESTINATION_AGENT, DESTINATION_GUARD, DESTINATION_QEMU, ENDED, FREEZE,
                       KILL, LINK, LINK_TO_SOURCE, LOCK, MISSED, MOVED, READ_ONLY,
                       SOURCE_AGENT, SOURCE_GUARD, SOURCE_QEMU, SPLIT, STAYED, Fault, Injection, Record,
                       Sample, double_run)
from postcopy import is_split
from scene import BUSY, Scene, is_stopped
from vmferry_lab import Agent, Guest, LabError, qemu_pids, wait_until

MACHINE = {"machine": "pc-i440fx-7.2", **BUSY}

POINT_S = 60      # until a move comes by a fault point, or has ended
TARGET_S = 1      # until what is to be hit is there
MOVE_S = 150      # until a move has ended after everything was repaired
SAMPLE_S = 0.1


class Injector:
    """One injection into one move of `scene.guest`."""

    RECOVERY_S = 45  # until the guest runs, in one place, and both agents know where
    NEXT_MOVE = ()   # its options

    def __init__(self, scene: Scene, injection: Injection):
        self.scene = scene
        self.injection = injection
        self.guest = scene.guest
        self.here, self.there = scene.here(self.guest), scene.there(self.guest)
        self.move = None
        self._last_event = {agent: _last_event(agent) for agent in (self.here, self.there)}
        self.hit: list[Fault] = []
        self._was_over = False  # the move, when its source QEMU was killed
        self._repairs = {}

    def run(self) -> Record:
        """All of it: the move, the faults, the repair, the checks and the next move.  What
        went wrong is in the record."""
        record = Record(self.injection.seed, str(self.injection), MISSED, "", 0, 0, None)
        begun_ms = time.monotonic() * 1e3
        beats = self.scene.beats[self.guest.name]
        try:
            self._perform(record)
        except (AssertionError, LabError, OSError, subprocess.SubprocessError) as error:
            record.problem = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        finally:
            self._repair_all()
        record.gap_s = beats.largest_gap_ms(begun_ms) / 1e3
        return record

    def _perform(self, record: Record) -> None:
        pid = self.here.guest_pid(self.guest)
        self._begin()
        with packets_counted(self.scene, self.guest) as samples:
            self._inject()
            repaired_ms = time.monotonic() * 1e3
            result = self.move.finish(MOVE_S)
            record.move = _words(result)
            record.outcome = self._await_outcome(pid)
            record.recovered_s = self._recovery_s(record.outcome, repaired_ms)
        at = double_run(samples)
        assert at is None, f"DOUBLE: both copies sent packets at {at:.1f} s"
        self._drop_unused_fault_point()
        if self._check_outcome(record.outcome, result) and not self.hit:
            record.outcome = MISSED

    def _check_outcome(self, outcome: str, result) -> bool:
        """False: the guest has ended, and another has taken its place."""
        if outcome == ENDED:
            self._check_ended(result)
            return False
        self._check_runs(outcome)
        return True

    # ---- the move and the faults ----

    def _begin(self) -> None:
        agent = self._agent_of(self.injection.moment.agent)
        if agent:
            self.scene.restart(agent, self.injection.environment)
        if self.injection.pace.pages_per_second:
            with self.guest.control() as control:
                control.write("dense", pages_per_second=self.injection.pace.pages_per_second)
        self.move = self.here.begin_migrate(self.guest, self.there, *self.injection.pace.options)

    def _agent_of(self, name: str | None) -> Agent | None:
        return {SOURCE_AGENT: self.here, DESTINATION_AGENT: self.there}.get(name)

    def _inject(self) -> None:
        moment = self.injection.moment
        if moment.since == SPLIT and not self._await_split():
            return
        standing = self._agent_of(moment.agent)
        if standing and not self._await_point(standing):
            return
        if standing and moment.delay_s:
            standing.thaw()
            standing = None
        time.sleep(moment.delay_s)
        start = time.monotonic()
        actions = [(fault.after_s, 0, fault) for fault in self.injection.faults]
        actions += [(fault.after_s + fault.hold_s, 1, fault) for fault in self.injection.faults]
        for seconds, is_repair, fault in sorted(actions, key=lambda action: action[:2]):
            if standing and (seconds > 0 or is_repair):
                self._let_go(standing)
                standing = None
            time.sleep(max(0.0, start + seconds - time.monotonic()))
            if is_repair:
                self._repair(fault)
            else:
                self._strike(fault, may_wait=standing is None)
        if standing:
            self._let_go(standing)

    def _await_point(self, agent: Agent) -> bool:
        """Whether the agent stands still at the fault point, and the move did not end before."""
        wait_until(lambda: _stands(agent.pid) or self.move.popen.poll() is not None,
                   self.injection.moment.point, POINT_S)
        # The destination comes by its last ones when the command has ended.
        deadline = time.monotonic() + TARGET_S
        while agent is self.there and not _stands(agent.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        return _stands(agent.pid)

    def _await_split(self) -> bool:
        """Whether the guest runs there before its memory is all there."""
        return wait_until(lambda: is_split(self.scene) or self.move.popen.poll() is not None,
                          "split", POINT_S) and is_split(self.scene)

    def _let_go(self, agent: Agent) -> None:
        """It goes on from its fault point, unless a fault freezes it."""
        name = SOURCE_AGENT if agent is self.here else DESTINATION_AGENT
        if not any((fault.kind, fault.target) == (FREEZE, name) for fault in self.hit):
            agent.thaw()

    def _strike(self, fault: Fault, may_wait: bool) -> None:
        """Makes the fault come true where its target is there."""
        strike = {KILL: self._kill, FREEZE: self._freeze, CUT: self._cut,
                  READ_ONLY: self._make_read_only, LOCK: self._lock}[fault.kind]
        deadline = time.monotonic() + (TARGET_S if may_wait else 0)
        over = self.move.popen.poll() is not None
        while not strike(fault):
            if time.monotonic() > deadline or self.move.popen.poll() is not None:
                return
            time.sleep(0.02)
        self.hit.append(fault)
        if (fault.kind, fault.target) == (KILL, SOURCE_QEMU):
            self._was_over = over

    def _repair(self, fault: Fault) -> None:
        repair = self._repairs.pop(fault, None)
        if repair:
            repair()

    def _repair_all(self) -> None:
        for fault in list(self._repairs):
            self._repair(fault)

    def _processes(self, target: str) -> list[int]:
        if target in (SOURCE_QEMU, DESTINATION_QEMU):
            return qemu_pids((self.here if target == SOURCE_QEMU else self.there).host, self.guest)
        agent = self.here if target in (SOURCE_AGENT, SOURCE_GUARD) else self.there
        if target in (SOURCE_GUARD, DESTINATION_GUARD):
            return guards(agent)
        return [agent.pid] if agent.process.running else []

    def _kill(self, fault: Fault) -> bool:
        agent = self._agent_of(fault.target)
        if agent:
            if not agent.process.running:
                return False
            agent.kill()
            self._repairs[fault] = agent.start
            return True
        return self._signal(fault.target, signal.SIGKILL) != []

    def _freeze(self, fault: Fault) -> bool:
        frozen = self._signal(fault.target, signal.SIGSTOP)
        if frozen:
            self._repairs[fault] = lambda: _continue(frozen)
        return frozen != []

    def _signal(self, target: str, number: int) -> list[int]:
        """Sends it to all processes of that kind; their pidfds."""
        return send_signal(self._processes(target), number)

    def _cut(self, fault: Fault) -> bool:
        link = self.scene.lab.link
        if fault.target == LINK:
            link.cut()
        else:
            link.cut_to((self.here if fault.target == LINK_TO_SOURCE else self.there).host.name)
        self._repairs[fault] = link.restore
        return True

    def _make_read_only(self, fault: Fault) -> bool:
        """For the destination's processes only."""
        if not self.there.process.running:
            return False
        namespace = os.open(f"/proc/{self.there.pid}/ns/mnt", os.O_RDONLY)
        # Made beside it first: nobody must open the image between these steps.
        place = self.there.host.path("read-only")
        place.touch()
        _in_mount_namespace(namespace, "mount", "--bind", self.guest.disk, place)
        _in_mount_namespace(namespace, "mount", "-o", "remount,bind,ro", place)
        _in_mount_namespace(namespace, "mount", "--bind", place, self.guest.disk)

        def undo():
            for path in (self.guest.disk, place):
                _in_mount_namespace(namespace, "umount", "--lazy", path)
            os.close(namespace)
        self._repairs[fault] = undo
        return True

    def _lock(self, fault: Fault) -> bool:
        """As QEMU locks an image that nobody else may write to; who has it open already goes on."""
        image = os.open(self.guest.disk, os.O_RDONLY)
        flock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, QEMU_UNSHARED_WRITE, 1, 0)
        fcntl.fcntl(image, F_OFD_SETLK, flock)
        self._repairs[fault] = lambda: os.close(image)
        return True

    # ---- what came of it ----

    def _await_outcome(self, pid: int) -> str:
        """Waits until one copy runs, or both hosts know that there is none."""
        try:
            return wait_until(lambda: self._look(pid), "one copy runs", self.RECOVERY_S)
        except LabError as error:
            raise AssertionError(f"{self._diagnosis()}: {self._states()}; {error}") from None

    def _look(self, pid: int) -> str | None:
        """The outcome, if it is one yet; *pid*: the source's copy."""
        copies = self._copies()
        if len(copies) == 1 and not self.scene.beats[self.guest.name].is_silent(0.2):
            return STAYED if copies[0] == pid else MOVED
        if not copies and self._may_have_ended():
            return ENDED
        self._decide_as_operator()
        return None

    def _decide_as_operator(self) -> None:
        """A destination whose committed QEMU the injection killed cannot tell whether it ran."""
        if not self.injection.has(KILL, DESTINATION_QEMU):
            return
        status = self.here.vmferry("status", self.guest.name, "--json")
        if status.exit_code == 0 and "vmferry resolve" in (status.json.get("problem") or ""):
            self.here.vmferry("resolve", self.guest.name, "--keep", "there")

    def _copies(self) -> list[int]:
        return [pid for agent in (self.here, self.there)
                for pid in qemu_pids(agent.host, self.guest)]

    def _diagnosis(self) -> str:
        copies = self._copies()
        return ("LOST" if not copies else "LEFT PAUSED" if len(copies) == 1 else "TWO COPIES")

    def _states(self) -> str:
        """What both agents say."""
        said = []
        for agent in (self.here, self.there):
            result = agent.vmferry("status", self.guest.name, "--json")
            state = result.json if result.exit_code == 0 else {"state": "unknown there"}
            said.append(f"{agent.host.name}: {state['state']} {state.get('trouble') or ''}".strip())
        return "; ".join(said)

    def _may_have_ended(self) -> bool:
        """The injection killed a QEMU that owned the guest or was about to."""
        return any(fault.kind == KILL and fault.target in (SOURCE_QEMU, DESTINATION_QEMU)
                   for fault in self.hit)

    def _recovery_s(self, outcome: str, repaired_ms: float) -> float:
        """Until the first beat after the repair; a silence too long is an error."""
        if outcome == ENDED:
            return 0.0
        beats = self.scene.beats[self.guest.name].beats
        first_ms = next(beat.arrival_ms for beat in beats if beat.arrival_ms >= repaired_ms)
        seconds = (first_ms - repaired_ms) / 1e3
        assert seconds <= self.RECOVERY_S, f"LEFT PAUSED for {seconds:.0f} s after the repair"
        return seconds if seconds > 0.2 else 0.0

    def _drop_unused_fault_point(self) -> None:
        agent = self._agent_of(self.injection.moment.agent)
        if agent and (not self.hit or "," in self.injection.environment["VMFERRY_FAULT"]):
            self.scene.restart(agent, finds_guests=False)

    def _check_runs(self, outcome: str) -> None:
        """Unharmed, nothing left, and the next move works."""
        if outcome == MOVED:
            self.scene.place[self.guest.name] = self.there
        if self.injection.pace.pages_per_second:
            with self.guest.control() as control:
                control.write(BUSY["pattern"], pages_per_second=BUSY["pages_per_second"])
        self.scene.check(self.guest)
        _check_unlimited(self.scene.here(self.guest).guest_pid(self.guest))
        self.scene.move(self.guest, *self.NEXT_MOVE)

    def _check_ended(self, result) -> None:
        """Lost by the injection, and nobody says anything else; another guest follows."""
        owner = self.there if result.exit_code == 0 or self._arrived() else self.here
        killed = DESTINATION_QEMU if owner is self.there else SOURCE_QEMU
        assert self.injection.has(KILL, killed), f"LOST: it was at the {owner.host.name}"
        for agent in (self.here, self.there):
            wait_until(lambda agent=agent: self.guest.name not in agent.guest_names(),
                       f"{agent.host.name} knows that it has ended", 15)
        wait_until(lambda: self._events(owner) & {"ended", "lost"}, "the owner says so", 15)
        if owner is self.here and not self._was_over and not self.injection.has(KILL, SOURCE_AGENT):
            self._check_says_ended(result)
        self._replace()

    def _replace(self) -> None:
        """It has ended; another guest follows."""
        self.scene.forget(self.guest)
        self.scene.run(f"web{time.monotonic_ns() % 1000000}", **MACHINE)

    def _check_says_ended(self, result) -> None:
        """One that had ended before its move began is refused instead."""
        text = error_text(result)
        if result.exit_code == 4:
            assert result.json["status"] == "ended" and "has ended" in text, text
        else:
            assert result.exit_code == 1 and ("no guest" in text or "not run" in text), text

    def _events(self, agent: Agent) -> set[str]:
        """What the agent has told of the guest since the injection began."""
        return {event["type"] for event in agent.events()
                if event.get("guest") == self.guest.name
                and event["seq"] > self._last_event[agent]}

    def _arrived(self) -> bool:
        return bool(self._events(self.there) & {"arrived", "recovered"})


# Bytes that QEMU locks in an image (block/file-posix.c): who may not share writing.
QEMU_UNSHARED_WRITE = 201
F_OFD_SETLK = 37


def _last_event(agent: Agent) -> int:
    return max((event["seq"] for event in agent.events()), default=0)


def guards(agent: Agent) -> list[int]:
    """The guard processes that this agent or one before it has forked."""
    return [pid for pid in agent.host.namespace.pids()
            if pid != agent.pid and _words_of(pid)[1:2] == ["agent"]]


def _words_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _stands(pid: int) -> bool:
    try:
        return is_stopped(pid)
    except OSError:
        return False


def send_signal(pids: list[int], number: int) -> list[int]:
    """The pidfds of those that were still there."""
    handles = []
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            continue
        handles.append(handle)
    return handles


def _continue(handles: list[int]) -> None:
    for handle in handles:
        try:
            signal.pidfd_send_signal(handle, signal.SIGCONT)
        except ProcessLookupError:
            pass
        os.close(handle)


def _in_mount_namespace(handle: int, *argv) -> None:
    subprocess.run(["nsenter", f"--mount=/proc/self/fd/{handle}", *map(str, argv)], check=True,
                   pass_fds=[handle], capture_output=True)


def _check_unlimited(pid: int) -> None:
    """No share of a control group is left, if it is in one that has such."""
    group = next(line[3:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
                 if line.startswith("0::"))
    limit = Path(f"/sys/fs/cgroup{group}/cpu.max")
    assert not limit.exists() or limit.read_text().startswith("max"), limit.read_text()


def _words(result) -> str:
    """What `vmferry migrate` said, in short."""
    status = result.json.get("status") if result.stdout.strip() else None
    return f"{status or 'error'}, {result.exit_code}"


@contextmanager
def packets_counted(scene: Scene, guest: Guest):
    """What the guest's copies send on each host meanwhile; yields a growing list of samples."""
    files = [host.namespace.open("/proc/thread-self/net/dev") for host in scene.lab.hosts]
    samples: list[Sample] = []
    done = threading.Event()

    def count() -> None:
        while not done.wait(SAMPLE_S):
            samples.append(Sample(time.monotonic(),
                                  tuple(_packets(file, guest.tap) for file in files)))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
        for file in files:
            file.close()


def _packets(file, interface: str) -> int:
    file.seek(0)
    for line in file.read().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == interface:
            return int(numbers.split()[1])
    return 0
