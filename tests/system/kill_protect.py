"""A campaign of random faults around a protected guest: drawn from a seed, carried out, looked at.

One or two faults at a moment (some time after the guest is protected, while it begins to be, while it goes
on at its standby, or while an agent stands still at a fault point), repaired after a while.  Then exactly one
copy of the guest must run, with its memory and disk, its heartbeat's connection whole, a client's
conversation with it never gone back, and nothing of ours left in it or beside it.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from dataclasses import dataclass

from kill_campaign import _continue, _stands, packets_counted, send_signal
from kill_full import Talker
from kill_plan import CUT, ENDED, FREEZE, KILL, MISSED, MOVED, STAYED, Record, double_run
from live import check_disk
from protection import begin, epochs, overlays, progress, protect
from scene import Scene
from test_postcopy_witness import cut_between, join_again
from vmferry_lab import LabError, qemu_pids, run_pids, wait_until

QEMU, AGENT, HOST = "QEMU", "agent", "host"  # of the protected guest
STANDBY, STANDBY_HOST, WITNESS = "standby's agent", "standby's host", "witness"
LINK, LINK_TO_HOST, LINK_TO_STANDBY = "link between them", "host's link", "standby's link"

WEIGHTS = {
    (KILL, QEMU): 8, (KILL, HOST): 8, (KILL, AGENT): 8, (KILL, STANDBY): 8,
    (KILL, STANDBY_HOST): 4, (KILL, WITNESS): 4,
    (FREEZE, QEMU): 4, (FREEZE, AGENT): 4, (FREEZE, HOST): 4, (FREEZE, STANDBY): 4,
    (CUT, LINK): 7, (CUT, LINK_TO_HOST): 6, (CUT, LINK_TO_STANDBY): 5,
}
# Two at once of these leave a copy that can go on, now or after the repair.
OURS = {QEMU, AGENT, HOST}
THEIRS = {STANDBY, STANDBY_HOST}

# Whose agent comes by a point, and when.
HOST_POINTS = ["checkpoint.cut", "checkpoint.send", "checkpoint.seal", "checkpoint.release"]
STANDBY_POINTS = ["checkpoint.commit", "checkpoint.committed"]
TAKEOVER_POINTS = ["takeover.begun", "takeover.disks-written", "takeover.launched",
                   "takeover.loaded", "takeover.become"]
# Before the standby has the epoch.
FIRST_EPOCH_POINTS = ["checkpoint.cut", "checkpoint.send", "checkpoint.seal"]

RECOVERY_S = 90
POINT_S = 30


@dataclass(frozen=True)
class Fault:
    kind: str
    target: str
    after_s: float  # behind the moment
    hold_s: float   # until it is repaired

    def __str__(self):
        later = f" {self.after_s:.2f} s later" if self.after_s else ""
        held = "" if (self.kind, self.target) == (KILL, QEMU) else f" for {self.hold_s:.1f} s"
        return f"{self.kind} {self.target}{later}{held}"


@dataclass(frozen=True)
class Injection:
    seed: int
    beginning: bool      # while the guest begins to be protected
    point: str | None    # an agent stands still there
    visit: int
    delay_s: float
    faults: tuple[Fault, ...]

    def __str__(self):
        where = f"{self.point} ({self.visit})" if self.point else f"{self.delay_s:.2f} s"
        return f"{'beginning, ' if self.beginning else ''}{where}: {', '.join(map(str, self.faults))}"

    def has(self, *targets: str) -> bool:
        return any(fault.kind == KILL and fault.target in targets for fault in self.faults)


def plan(seed: int) -> Injection:
    """The same for the same seed."""
    draw = random.Random(seed)
    beginning = draw.random() < 0.15
    point, visit = None, 1
    if not beginning and draw.random() < 0.45:
        point = draw.choice([*HOST_POINTS, *STANDBY_POINTS, *TAKEOVER_POINTS])
        visit = 1 if point in TAKEOVER_POINTS else draw.randint(1, 20)
    first = _fault(draw, _kind(draw), 0.0)
    if point in TAKEOVER_POINTS:  # the guest has gone from its host by then
        while first.target in OURS:
            first = _fault(draw, _kind(draw), 0.0)
    faults = [first]
    if draw.random() < 0.35:
        second = _fault(draw, _kind(draw), round(draw.choice([0, draw.uniform(0, 3)]), 2))
        if _compatible(first, second) and point not in TAKEOVER_POINTS:
            faults.append(second)
    delay_s = round(draw.uniform(0, 2.5 if beginning else 1.5), 2)
    return Injection(seed, beginning, point, visit, delay_s, tuple(faults))


def _kind(draw: random.Random) -> tuple[str, str]:
    return draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]


def _fault(draw: random.Random, kind: tuple[str, str], after_s: float) -> Fault:
    if kind[0] == CUT:
        hold = draw.choice([0.2, 1.0, 5.0, draw.uniform(8, 14)])
    else:
        hold = draw.choice([draw.uniform(0, 2), draw.uniform(3, 10)])
    return Fault(*kind, after_s, round(hold, 1))


def _compatible(one: Fault, other: Fault) -> bool:
    """A guest and its standby must not both be killed."""
    targets = {one.target, other.target}
    if one.target == other.target or targets <= OURS or targets <= THEIRS:
        return False
    if one.kind == other.kind == CUT:
        return False
    killed = {fault.target for fault in (one, other) if fault.kind == KILL}
    return not (killed & {QEMU, HOST} and targets & THEIRS)


class ProtectInjector:
    """One injection around `scene.guest`, which runs, protected or not."""

    def __init__(self, scene: Scene, witness, injection: Injection):
        self.scene, self.witness, self.injection = scene, witness, injection
        self.guest = scene.guest
        self.here, self.there = scene.here(self.guest), scene.there(self.guest)
        self.hit: list[Fault] = []
        self._repairs = {}

    def run(self) -> Record:
        record = Record(self.injection.seed, str(self.injection), MISSED, "", 0, 0, None)
        begun_ms = time.monotonic() * 1e3
        beats = self.scene.beats[self.guest.name]
        self._talker = Talker(self.guest)
        try:
            self._perform(record)
        except (AssertionError, LabError, OSError, subprocess.SubprocessError) as error:
            record.problem = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            print(self._state())
        finally:
            self._repair_all()
            self._talker.close()
        record.gap_s = beats.largest_gap_ms(begun_ms) / 1e3
        return record

    def _perform(self, record: Record) -> None:
        pid = self._begin()
        with packets_counted(self.scene, self.guest) as samples:
            self._inject()
            self._repair_all()
            repaired = time.monotonic()
            record.outcome = wait_until(lambda: self._look(pid), "one copy runs", RECOVERY_S)
            record.recovered_s = time.monotonic() - repaired
        at = double_run(samples)
        assert at is None, f"DOUBLE: both copies sent packets at {at:.1f} s"
        self._check(record.outcome)
        if not self.hit and record.outcome == STAYED:
            record.outcome = MISSED

    # ---- the faults ----

    def _begin(self) -> int:
        point = self.injection.point
        if point:
            agent = self.here if point in HOST_POINTS else self.there
            self.scene.restart(agent, {"VMFERRY_FAULT": f"{point}=stop@{self.injection.visit}"},
                               finds_guests=agent is self.here)
        if not self.injection.beginning:
            done = begin(self.scene, self.guest, self.witness, "--overwrite", "--detach")
            assert done.exit_code == 0, done.stderr
            if not point or point in TAKEOVER_POINTS:
                wait_until(lambda: self._has_epochs(), "epochs", 60)
        return self.here.guest_pid(self.guest)

    def _has_epochs(self) -> bool:
        said = progress(self.here, self.guest)
        return said.get("phase") == "protected" and said["checkpoints"]["epochs"] > 3

    def _inject(self) -> None:
        injection = self.injection
        if injection.beginning:
            self._protecting = begin(self.scene, self.guest, self.witness, "--overwrite",
                                     "--detach")
        standing = None
        if injection.point:
            if injection.point in TAKEOVER_POINTS:
                self._strike(Fault(KILL, QEMU, 0, 0))
            agent = self.here if injection.point in HOST_POINTS else self.there
            wait_until(lambda: _stands(agent.pid), injection.point, POINT_S)
            standing = agent
        else:
            time.sleep(injection.delay_s)
        start = time.monotonic()
        actions = [(fault.after_s, 0, fault) for fault in injection.faults]
        actions += [(fault.after_s + fault.hold_s, 1, fault) for fault in injection.faults]
        for seconds, is_repair, fault in sorted(actions, key=lambda action: action[:2]):
            if standing and (seconds > 0 or is_repair):
                self._let_go(standing)
                standing = None
            time.sleep(max(0.0, start + seconds - time.monotonic()))
            if is_repair:
                self._repair(fault)
            else:
                self._strike(fault)
        if standing:
            self._let_go(standing)

    def _let_go(self, agent) -> None:
        frozen = {AGENT: self.here, HOST: self.here, STANDBY: self.there}
        if agent.process.running and not any(
                fault.kind == FREEZE and frozen.get(fault.target) is agent for fault in self.hit):
            agent.thaw()

    def _strike(self, fault: Fault) -> None:
        {KILL: self._kill, FREEZE: self._freeze, CUT: self._cut}[fault.kind](fault)
        self.hit.append(fault)

    def _agent_of(self, target: str):
        return {AGENT: self.here, STANDBY: self.there, HOST: self.here, STANDBY_HOST: self.there,
                WITNESS: self.witness}[target]

    def _kill(self, fault: Fault) -> None:
        if fault.target == QEMU:
            send_signal(qemu_pids(self.here.host, self.guest), signal.SIGKILL)
            return
        agent = self._agent_of(fault.target)
        if fault.target in (HOST, STANDBY_HOST):
            # As if its power had gone, but for its files.
            send_signal(agent.host.namespace.pids(), signal.SIGKILL)
        if agent.process.running:
            agent.kill()
        self._repairs[fault] = agent.start

    def _freeze(self, fault: Fault) -> None:
        if fault.target == QEMU:
            pids = qemu_pids(self.here.host, self.guest)
        elif fault.target == HOST:
            pids = self.here.host.namespace.pids()
        else:
            pids = [self._agent_of(fault.target).pid]
        frozen = send_signal(pids, signal.SIGSTOP)
        self._repairs[fault] = lambda: _continue(frozen)

    def _cut(self, fault: Fault) -> None:
        link = self.scene.lab.link
        if fault.target == LINK:
            cut_between(self.scene)
            self._repairs[fault] = lambda: join_again(self.scene)
            return
        link.cut((self.here if fault.target == LINK_TO_HOST else self.there).host.name)
        self._repairs[fault] = link.restore

    def _repair(self, fault: Fault) -> None:
        repair = self._repairs.pop(fault, None)
        if repair:
            repair()

    def _repair_all(self) -> None:
        for fault in list(self._repairs):
            self._repair(fault)

    # ---- what came of it ----

    def _role(self, agent) -> str | None:
        status = agent.vmferry("status", self.guest.name, "--json")
        return status.json["role"] if status.exit_code == 0 else None

    def _look(self, pid: int) -> str | None:
        copies = [(agent, found) for agent in (self.here, self.there)
                  for found in run_pids(agent.host, self.guest)]
        if not copies and self._may_have_ended():
            gone = all(self.guest.name not in agent.guest_names()
                       for agent in (self.here, self.there))
            return ENDED if gone else None
        if len(copies) != 1 or self.scene.beats[self.guest.name].is_silent(0.2):
            return None
        agent, found = copies[0]
        other = self.there if agent is self.here else self.here
        role, rest = self._role(agent), self._role(other)
        if (role, rest) not in (("ours", None), ("postcopy", "postcopy-source")):
            return None
        if role == "postcopy" and not progress(agent, self.guest).get("standby_connected"):
            return None
        return STAYED if found == pid else MOVED

    def _state(self) -> str:
        """What a reader of a failure wants to know."""
        lines = []
        for agent in (self.here, self.there):
            said = agent.vmferry("status", self.guest.name, "--json")
            lines.append(f"{agent.host.name}: QEMU {qemu_pids(agent.host, self.guest)}, "
                         f"{said.stdout or said.stderr}")
            lines += agent.log().splitlines()[-40:]
        silent = self.scene.beats[self.guest.name].is_silent(0.2)
        return "\n".join([*lines, f"heartbeat silent: {silent}"])

    def _may_have_ended(self) -> bool:
        """It had no standby with an epoch when it was killed: it was the first, or is where it went on."""
        injection = self.injection
        killed = {fault.target for fault in self.hit if fault.kind == KILL}
        if injection.beginning or (injection.point in FIRST_EPOCH_POINTS and injection.visit == 1):
            return bool(killed & {QEMU, HOST})
        return injection.point == "takeover.become" and STANDBY_HOST in killed

    def _check(self, outcome: str) -> None:
        if outcome == ENDED:
            return
        if outcome == MOVED:
            assert any(fault.target in (*OURS, LINK, LINK_TO_HOST) for fault in self.hit), \
                "its standby went on, and its host was well"
            self.scene.place[self.guest.name] = self.there
        self._talker.finish()
        here = self.scene.here(self.guest)
        for agent in (self.here, self.there):
            agent.process.running or agent.start()
        if here.status(self.guest)["role"] == "postcopy":
            here.vmferry("unprotect", self.guest.name).require()
        if self.injection.point:
            self.scene.restart(self.here if self.injection.point in HOST_POINTS else self.there,
                               finds_guests=False)
        self.scene.check(self.guest)
        check_disk(self.guest)
        for agent in (self.here, self.there):
            wait_until(lambda agent=agent: not overlays(agent), f"overlays on {agent.host.name}", 15)


HEAD = """# Fault injections around protected guests

Written by `make check-kill-protect`. Each injection is drawn from its seed: one or two faults, while a guest is
protected, begins to be, or goes on at its standby, repaired after a while; a host that is killed loses all of its
processes. Then exactly one copy of the guest must run, with its memory and its disk, its connection whole, a client's
conversation with it never gone back, and nothing of ours left; then it is protected anew, towards where it came from.
`make check-kill-protect SEED=n COUNT=1` runs one of them again.

- *stayed*, *moved*: where the guest runs afterwards; its standby has gone on with it.
- *ended*: the injection killed it before its standby had an epoch.
- *missed*: what was to be hit was not there.
- *recovered*: seconds from the repair until it was known to all where it runs. *gap*: the longest silence of its
  heartbeat, the time until the repair included.
"""


def table(records: list[Record]) -> str:
    outcomes = [STAYED, MOVED, ENDED, MISSED]
    failed = sum(record.problem is not None for record in records)
    gaps = sorted(record.gap_s for record in records if record.outcome == MOVED)
    lines = [HEAD, f"| injections | {' | '.join(outcomes)} | failed | gap where it moved: half, nine tenths |",
             "|---|---|---|---|---|---|---|"]
    counts = [sum(record.outcome == outcome for record in records) for outcome in outcomes]
    quantiles = ", ".join(f"{gaps[int(len(gaps) * share)]:.1f} s" for share in (0.5, 0.9)) if gaps else ""
    lines.append(f"| {len(records)} | {' | '.join(map(str, counts))} | {failed} | {quantiles} |")
    lines += ["", "| seed | injection | outcome | recovered s | gap s | problem |", "|---|---|---|---|---|---|"]
    for record in sorted(records, key=lambda record: record.seed):
        cells = [str(record.seed), record.injection, record.outcome, f"{record.recovered_s:.1f}",
                 f"{record.gap_s:.1f}", record.problem or ""]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
