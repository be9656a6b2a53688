"""What a fault-injection campaign does to one move, drawn from a seed alone, and its table.

Nothing here touches a process: kill_campaign.py carries a plan out.  An injection is one or two
faults at a moment of a move.  Each fault has a kind, a target and a time after which it is
repaired (a link restored, a process continued, a killed agent started again).  The same seed and
the same list of fault points make the same injection.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

KILL, FREEZE, CUT = "kill", "freeze", "cut"
READ_ONLY, LOCK = "make read-only", "lock"  # of the image: `cont` fails at the destination

SOURCE_AGENT, DESTINATION_AGENT = "source agent", "destination agent"
SOURCE_GUARD, DESTINATION_GUARD = "source guard", "destination guard"
SOURCE_QEMU, DESTINATION_QEMU = "source QEMU", "destination QEMU"
LINK, LINK_TO_SOURCE, LINK_TO_DESTINATION = "link", "link to source", "link to destination"
IMAGE = "image at the destination"

AGENTS = (SOURCE_AGENT, DESTINATION_AGENT)
PROCESSES = (*AGENTS, SOURCE_GUARD, DESTINATION_GUARD, SOURCE_QEMU, DESTINATION_QEMU)
LINKS = (LINK, LINK_TO_SOURCE, LINK_TO_DESTINATION)

# How often each is drawn.
WEIGHTS = {
    (KILL, SOURCE_AGENT): 12, (KILL, DESTINATION_AGENT): 12,
    (KILL, SOURCE_GUARD): 4, (KILL, DESTINATION_GUARD): 4,
    (KILL, SOURCE_QEMU): 3, (KILL, DESTINATION_QEMU): 6,
    (FREEZE, SOURCE_AGENT): 6, (FREEZE, DESTINATION_AGENT): 6,
    (FREEZE, SOURCE_GUARD): 2, (FREEZE, DESTINATION_GUARD): 2,
    (FREEZE, SOURCE_QEMU): 4, (FREEZE, DESTINATION_QEMU): 4,
    (CUT, LINK): 8, (CUT, LINK_TO_SOURCE): 6, (CUT, LINK_TO_DESTINATION): 6,
    (READ_ONLY, IMAGE): 5, (LOCK, IMAGE): 5,
}


@dataclass(frozen=True)
class Fault:
    kind: str
    target: str
    after_s: float  # behind the injection's moment
    hold_s: float   # from then until it is repaired

    def __str__(self):
        later = f" {self.after_s:.2f} s later" if self.after_s else ""
        held = "" if self.is_final else f" for {self.hold_s:.1f} s"
        return f"{self.kind} {self.target}{later}{held}"

    @property
    def is_final(self) -> bool:
        """Nobody repairs a QEMU or a guard that was killed."""
        return self.kind == KILL and self.target not in AGENTS


@dataclass(frozen=True)
class Moment:
    """While an agent stands still at a fault point, or some time after it went on from there;
    without a point: that long after the move began."""

    point: str | None
    delay_s: float

    def __str__(self):
        if not self.point:
            return f"{self.delay_s:.2f} s"
        return self.point + (f" + {self.delay_s * 1e3:.0f} ms" if self.delay_s else "")

    @property
    def agent(self) -> str | None:
        """Whose fault point it is."""
        if not self.point:
            return None
        return DESTINATION_AGENT if self.point.startswith("destination.") else SOURCE_AGENT


@dataclass(frozen=True)
class Pace:
    """A kind of move: options, about how long it takes, and what the guest does meanwhile."""

    name: str
    options: tuple[str, ...]
    seconds: float
    pages_per_second: int = 0  # whole pages of new content; 0: as the guest does anyway


PACES = [
    Pace("plain", (), 1.2),
    Pace("verified", ("--verify",), 1.5),
    Pace("slow", ("--bandwidth", "8M"), 5),
    Pace("uffd-sync", ("--tracker", "uffd-sync"), 1.5),
    Pace("throttled", ("--bandwidth", "8M", "--throttle", "duty", "--max-downtime", "100",
                       "--downtime-cap", "150"), 8, 5000),
]
PACE_WEIGHTS = [5, 3, 4, 2, 2]

# Reached only where another point has failed before.
BEHIND = {"source.image-token": "source.image-lock=fail"}


@dataclass(frozen=True)
class Injection:
    seed: int
    pace: Pace
    moment: Moment
    faults: tuple[Fault, ...]

    def __str__(self):
        return f"{self.pace.name} move, {self.moment}: {', '.join(map(str, self.faults))}"

    @property
    def environment(self) -> dict[str, str] | None:
        """Of the agent whose fault point it is."""
        if not self.moment.point:
            return None
        settings = [BEHIND.get(self.moment.point), f"{self.moment.point}=stop@1"]
        return {"VMFERRY_FAULT": ",".join(filter(None, settings))}

    def has(self, kind: str, target: str) -> bool:
        return any((fault.kind, fault.target) == (kind, target) for fault in self.faults)


def plan(seed: int, points: list[str]) -> Injection:
    """The injection of that seed; *points*: all fault points, in any order."""
    draw = random.Random(seed)
    pace = draw.choices(PACES, PACE_WEIGHTS)[0]
    kinds = [_kind(draw)]
    if draw.random() < 0.4:
        kinds.append(_another(draw, kinds[0]))
    needs_cont = any(target == IMAGE for _, target in kinds)
    moment = _moment(draw, pace, sorted(filter(is_late, points) if needs_cont else points),
                     always_point=needs_cont)
    faults = [_fault(draw, *kinds[0], after_s=0.0)]
    if len(kinds) > 1:
        after_s = 0.0 if needs_cont or draw.random() < 0.5 else round(draw.uniform(0, 3), 2)
        faults.append(_fault(draw, *kinds[1], after_s=after_s))
    return Injection(seed, pace, moment, tuple(faults))


def is_late(point: str) -> bool:
    """Near the instant at which the destination runs the guest."""
    return point.startswith("destination.") or point in (
        "source.decided", "source.paused", "source.device-state-saved", "source.before-start")


def compatible(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether a copy of the guest can survive both, and they do not mean the same thing."""
    targets = {one[1], other[1]}
    if one[1] == other[1] or targets <= set(LINKS):
        return False
    # Without the source's QEMU, the destination's has to go on.
    return not ((KILL, SOURCE_QEMU) in (one, other)
                and targets & {DESTINATION_QEMU, IMAGE})


def _kind(draw: random.Random) -> tuple[str, str]:
    return draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]


def _another(draw: random.Random, first: tuple[str, str]) -> tuple[str, str]:
    while True:
        second = _kind(draw)
        if compatible(first, second):
            return second


def _moment(draw: random.Random, pace: Pace, points: list[str], always_point: bool) -> Moment:
    where = draw.uniform(0.4 if always_point else 0, 1)
    if where < 0.4:
        return Moment(None, round(draw.uniform(0, pace.seconds), 2))
    delay_s = 0.0 if where < 0.8 else round(draw.uniform(0, 0.05), 3)
    return Moment(draw.choice(points), delay_s)


def _fault(draw: random.Random, kind: str, target: str, after_s: float) -> Fault:
    return Fault(kind, target, after_s, round(_hold(draw, kind, target), 1))


def _hold(draw: random.Random, kind: str, target: str) -> float:
    """Peers wait 5 s for each other, 15 s for STARTED."""
    if kind in (READ_ONLY, LOCK):
        return draw.uniform(2, 7)
    if kind == KILL and target not in AGENTS:
        return 0
    span = draw.choices([(0, 2), (5.5, 8), (15.5, 18)], [6, 4, 1 if kind == CUT else 0])[0]
    return draw.uniform(*span)


# ---- what the samples of two counters tell ----

@dataclass(frozen=True)
class Sample:
    """Packets that a guest had sent so far, seen at the taps of the two hosts."""

    seconds: float
    packets: tuple[int, int]


SOME_PACKETS = 3


def double_run(samples: list[Sample]) -> float | None:
    """When both copies sent at once, in two intervals one after the other; None: never.

    In one interval both may send where one stops and the other starts.
    """
    before = False
    for last, sample in zip(samples, samples[1:]):
        both = all(now - then >= SOME_PACKETS
                   for now, then in zip(sample.packets, last.packets))
        if both and before:
            return sample.seconds
        before = both
    return None


# ---- the table ----

STAYED, MOVED, ENDED, MISSED = "stayed", "moved", "ended", "missed"


@dataclass
class Record:
    """What came of one injection."""

    seed: int
    injection: str
    outcome: str             # one of the above
    move: str                # what `vmferry migrate` said
    recovered_s: float       # from the last repair until the guest ran (again)
    gap_s: float             # longest silence of its heartbeat
    problem: str | None      # why it failed

    def row(self) -> str:
        cells = [str(self.seed), self.injection, self.outcome, self.move,
                 f"{self.recovered_s:.1f}", f"{self.gap_s:.1f}", self.problem or ""]
        return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


HEAD = """# Fault injections into moves

Written by `make check-kill`. Each injection is drawn from its seed: one or two faults at a moment of a move (a
time after its begin, or a fault point at which an agent stands still), repaired after a while. Then exactly one
copy of the guest must run, unharmed, with its connection whole and nothing of ours left in it or beside it, and
the next move must work. `make check-kill SEED=n COUNT=1` runs one of them again.

- *stayed*, *moved*: where the guest runs afterwards.
- *ended*: the injection itself killed the QEMU that owned the guest; both hosts say that it is gone. (Where it
  had just been committed and nobody saw it run, an operator has to say so: `vmferry resolve --keep there`.)
- *missed*: what was to be hit was not there at that moment, or the fault point was not reached.
- *recovered*: seconds from the repair until the guest ran again (0: it ran already). *gap*: the longest silence of
  its heartbeat, the time until the repair included.
"""


def table(records: list[Record]) -> str:
    """docs/kill-campaign.md."""
    counts = {outcome: sum(record.outcome == outcome for record in records)
              for outcome in (STAYED, MOVED, ENDED, MISSED)}
    failed = [record for record in records if record.problem]
    recovered = sorted(record.recovered_s for record in records)
    lines = [HEAD, "| injections | stayed | moved | ended by the injection | missed | failed | "
             "recovered in: half, nine tenths, all |", "|---|---|---|---|---|---|---|"]
    if records:
        times = ", ".join(f"{recovered[min(len(recovered) - 1, int(len(recovered) * share))]:.1f} s"
                          for share in (0.5, 0.9, 1))
        lines.append(f"| {len(records)} | {counts[STAYED]} | {counts[MOVED]} | {counts[ENDED]} | "
                     f"{counts[MISSED]} | {len(failed)} | {times} |")
    lines += ["", "| seed | injection | outcome | the command said | recovered s | gap s | problem |",
              "|---|---|---|---|---|---|---|"]
    lines += [record.row() for record in sorted(records, key=lambda record: record.seed)]
    return "\n".join(lines) + "\n"
