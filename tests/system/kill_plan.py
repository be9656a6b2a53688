"""What a fault-injection campaign does to one move, drawn from a seed alone, and its table.

Nothing here touches a process: kill_campaign.py carries a plan out.  An injection is one or two
faults at a moment of a move.  Each fault has a kind, a target and a time after which it is
repaired (a link restored, a process continued, a killed agent started again).  The same seed and
the same list of fault points make the same injection.  There are two campaigns: into pre-copies, and
into moves whose guest runs at its destination before its memory is all there.
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


BEGIN, SPLIT = "begin", "split"

AT_DESTINATION = ("destination.", "checkpoint.cut", "checkpoint.send", "checkpoint.seal",
                  "checkpoint.release")


@dataclass(frozen=True)
class Moment:
    """While an agent stands still at a fault point, or some time after it went on from there;
    without a point: that long after the move began, or the guest's memory was split."""

    point: str | None
    delay_s: float
    since: str = BEGIN
    side: str | None = None  # whose point it is, where its name does not tell
    visit: int = 1           # it stands still when it comes there for the nth time
    behind: float | None = None  # so long after the split the destination's QEMU was killed before

    def __str__(self):
        if self.behind is not None:
            return f"kill destination QEMU at split + {self.behind:.2f} s, {self._where()}"
        return self._where()

    def _where(self) -> str:
        if not self.point:
            return ("split + " if self.since == SPLIT else "") + f"{self.delay_s:.2f} s"
        where = f"{self.side}: {self.point}" if self.side else self.point
        where += f" ({self.visit})" if self.visit > 1 else ""
        return where + (f" + {self.delay_s * 1e3:.0f} ms" if self.delay_s else "")

    @property
    def agent(self) -> str | None:
        """Whose fault point it is."""
        if not self.point:
            return None
        return self.side or (DESTINATION_AGENT if self.point.startswith(AT_DESTINATION)
                             else SOURCE_AGENT)


@dataclass(frozen=True)
class Pace:
    """A kind of move: options, about how long it takes, and what the guest does meanwhile."""

    name: str
    options: tuple[str, ...]
    seconds: float
    pages_per_second: int = 0  # whole pages of new content; 0: as the guest does anyway
    split_s: float = 0         # of these the guest's memory is split


@dataclass(frozen=True, eq=False)
class Campaign:
    """What the injections of a table are drawn from, and how often each is."""

    paces: dict[Pace, int]
    weights: dict[tuple[str, str], int]
    splits: bool = False
    protects: bool = False


PRECOPY = Campaign(
    paces={
        Pace("plain", (), 1.2): 5,
        Pace("verified", ("--verify",), 1.5): 3,
        Pace("slow", ("--bandwidth", "8M"), 5): 4,
        Pace("uffd-sync", ("--tracker", "uffd-sync"), 1.5): 2,
        Pace("throttled", ("--bandwidth", "8M", "--throttle", "duty", "--max-downtime", "100",
                           "--downtime-cap", "150"), 8, 5000): 2,
    },
    weights={
        (KILL, SOURCE_AGENT): 12, (KILL, DESTINATION_AGENT): 12,
        (KILL, SOURCE_GUARD): 4, (KILL, DESTINATION_GUARD): 4,
        (KILL, SOURCE_QEMU): 3, (KILL, DESTINATION_QEMU): 6,
        (FREEZE, SOURCE_AGENT): 6, (FREEZE, DESTINATION_AGENT): 6,
        (FREEZE, SOURCE_GUARD): 2, (FREEZE, DESTINATION_GUARD): 2,
        (FREEZE, SOURCE_QEMU): 4, (FREEZE, DESTINATION_QEMU): 4,
        (CUT, LINK): 8, (CUT, LINK_TO_SOURCE): 6, (CUT, LINK_TO_DESTINATION): 6,
        (READ_ONLY, IMAGE): 5, (LOCK, IMAGE): 5,
    })

POSTCOPY = Campaign(
    paces={
        Pace("post-copy", ("--mode", "postcopy"), 1.2, split_s=0.3): 3,
        Pace("slow post-copy", ("--mode", "postcopy", "--bandwidth", "8M"), 6, split_s=5): 5,
        Pace("hybrid", ("--mode", "hybrid", "--bandwidth", "8M", "--max-downtime", "50ms"),
             12, 3000, split_s=1.5): 3,
    },
    weights={
        (KILL, SOURCE_AGENT): 12, (KILL, DESTINATION_AGENT): 12,
        (KILL, SOURCE_QEMU): 3, (KILL, DESTINATION_QEMU): 6,
        (KILL, DESTINATION_GUARD): 2,
        (FREEZE, SOURCE_AGENT): 8, (FREEZE, DESTINATION_AGENT): 8,
        (FREEZE, SOURCE_QEMU): 2, (FREEZE, DESTINATION_QEMU): 3,
        (CUT, LINK): 12, (CUT, LINK_TO_SOURCE): 5, (CUT, LINK_TO_DESTINATION): 5,
    },
    splits=True)

FULL = Campaign(
    paces={
        Pace("full", ("--mode", "postcopy", "--safety", "full"), 1.5, split_s=0.5): 2,
        Pace("slow full", ("--mode", "postcopy", "--safety", "full", "--bandwidth", "8M"),
             6, split_s=5): 6,
        Pace("hybrid full", ("--mode", "hybrid", "--safety", "full", "--bandwidth", "8M",
                             "--max-downtime", "50ms"), 12, 3000, split_s=1.5): 2,
    },
    weights={
        (KILL, SOURCE_AGENT): 10, (KILL, DESTINATION_AGENT): 10,
        (KILL, SOURCE_QEMU): 2, (KILL, DESTINATION_QEMU): 14,
        (KILL, DESTINATION_GUARD): 2,
        (FREEZE, SOURCE_AGENT): 8, (FREEZE, DESTINATION_AGENT): 8,
        (FREEZE, SOURCE_QEMU): 2, (FREEZE, DESTINATION_QEMU): 3,
        (CUT, LINK): 10, (CUT, LINK_TO_SOURCE): 4, (CUT, LINK_TO_DESTINATION): 4,
    },
    splits=True, protects=True)

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
        settings = [BEHIND.get(self.moment.point), f"{self.moment.point}=stop@{self.moment.visit}"]
        return {"VMFERRY_FAULT": ",".join(filter(None, settings))}

    def has(self, kind: str, target: str) -> bool:
        return any((fault.kind, fault.target) == (kind, target) for fault in self.faults)


def plan(seed: int, points: list[str], campaign: Campaign = PRECOPY) -> Injection:
    """The injection of that seed; *points*: all fault points, in any order."""
    draw = random.Random(seed)
    pace = draw.choices(list(campaign.paces), list(campaign.paces.values()))[0]
    kinds = [_kind(draw, campaign)]
    if draw.random() < 0.4:
        kinds.append(_another(draw, kinds[0], campaign))
    needs_cont = any(target == IMAGE for _, target in kinds)
    if campaign.splits:
        moment = _moment_of_split(draw, pace, points, campaign)
    else:
        points = [point for point in points if not is_of_full(point)]
        moment = _moment(draw, pace, sorted(filter(is_late, points) if needs_cont else points),
                         always_point=needs_cont)
    faults = [_fault(draw, *kinds[0], after_s=0.0, campaign=campaign)]
    if moment.behind is not None:
        while not _may_follow_death(faults[0]):
            faults = [_fault(draw, *_kind(draw, campaign), after_s=0.0, campaign=campaign)]
        return Injection(seed, pace, moment, tuple(faults))
    if len(kinds) > 1:
        after_s = 0.0 if needs_cont or draw.random() < 0.5 else round(draw.uniform(0, 3), 2)
        faults.append(_fault(draw, *kinds[1], after_s=after_s, campaign=campaign))
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


def _kind(draw: random.Random, campaign: Campaign) -> tuple[str, str]:
    return draw.choices(list(campaign.weights), list(campaign.weights.values()))[0]


def _another(draw: random.Random, first: tuple[str, str], campaign: Campaign) -> tuple[str, str]:
    while True:
        second = _kind(draw, campaign)
        if compatible(first, second):
            return second


def _moment(draw: random.Random, pace: Pace, points: list[str], always_point: bool) -> Moment:
    where = draw.uniform(0.4 if always_point else 0, 1)
    if where < 0.4:
        return Moment(None, round(draw.uniform(0, pace.seconds), 2))
    delay_s = 0.0 if where < 0.8 else round(draw.uniform(0, 0.05), 3)
    return Moment(draw.choice(points), delay_s)


# The destination comes by these as well: the userfaultfd is made in its QEMU before the guest is
# accepted, and closed there when all pages have come.
INJECTIONS = 2


def is_of_split(point: str) -> bool:
    """No post-copy of a guest on shared storage comes by the others."""
    return not (point.startswith(("source.disks", "destination.disks", "destination.tak",
                                  "source.image")))


def is_of_full(point: str) -> bool:
    """Only a guest that is protected comes by it."""
    return (point.startswith(("checkpoint.", "takeover."))
            or point in ("source.given-up", "destination.held", "destination.ended"))


def is_of_store(point: str) -> bool:
    """Nobody comes by it without a store."""
    return (point.startswith(("source.store", "store."))
            or point in ("destination.fetch",))


MOST_EPOCHS = 20


def _moment_of_split(draw: random.Random, pace: Pace, points: list[str],
                     campaign: Campaign) -> Moment:
    where = draw.random()
    if where < 0.15:
        return Moment(None, round(draw.uniform(0, pace.seconds - pace.split_s), 2))
    if where < 0.45:
        return Moment(None, round(draw.uniform(0, pace.split_s), 2), SPLIT)
    points = sorted(filter(is_of_split, points))
    if campaign.protects:
        points = [point for point in points if not is_of_store(point)]
        # Half of them are where nobody else comes by.
        points += [point for point in points if is_of_full(point)]
    else:
        points = [point for point in points if not is_of_full(point)]
    point = draw.choice(points)
    delay_s = 0.0 if where < 0.8 else round(draw.uniform(0, 0.05), 3)
    if point.startswith("inject."):
        return Moment(point, delay_s, BEGIN, draw.choice(AGENTS), draw.randint(1, INJECTIONS))
    if point.startswith("checkpoint."):
        return Moment(point, delay_s, visit=draw.randint(1, MOST_EPOCHS))
    if point.startswith("takeover."):
        return Moment(point, delay_s, behind=round(draw.uniform(0, pace.split_s), 2))
    return Moment(point, delay_s)


def _may_follow_death(fault: Fault) -> bool:
    """The guest's last copy is at its source then."""
    return fault.target not in (SOURCE_QEMU, DESTINATION_QEMU, DESTINATION_GUARD)


def _fault(draw: random.Random, kind: str, target: str, after_s: float,
           campaign: Campaign) -> Fault:
    hold = _hold_of_split if campaign.splits else _hold
    return Fault(kind, target, after_s, round(hold(draw, kind, target), 1))


def _hold(draw: random.Random, kind: str, target: str) -> float:
    """Peers wait 5 s for each other, 15 s for STARTED."""
    if kind in (READ_ONLY, LOCK):
        return draw.uniform(2, 7)
    if kind == KILL and target not in AGENTS:
        return 0
    span = draw.choices([(0, 2), (5.5, 8), (15.5, 18)], [6, 4, 1 if kind == CUT else 0])[0]
    return draw.uniform(*span)


def _hold_of_split(draw: random.Random, kind: str, target: str) -> float:
    """No break is too long: no side goes on alone."""
    if kind == KILL and target not in AGENTS:
        return 0
    if kind == CUT:
        return draw.choices([0.2, 5, draw.uniform(15.5, 18)], [5, 5, 1])[0]
    return draw.uniform(*draw.choices([(0, 2), (5.5, 10 if kind == FREEZE else 8)], [6, 4])[0])


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
TAKEN = "taken over"   # of a protected one: by its source, from an epoch
REVERTED = "reverted"  # of a post-copy whose destination died: kept at its source by an operator


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


HEAD = """# Fault injections into @MOVES@

Written by `make @TARGET@`. Each injection is drawn from its seed: one or two faults at a moment of a move (a
time after its begin, or a fault point at which an agent stands still), repaired after a while. Then exactly one
copy of the guest must run, unharmed, with its connection whole and nothing of ours left in it or beside it, and
the next move must work. `make @TARGET@ SEED=n COUNT=1` runs one of them again.

- *stayed*, *moved*: where the guest runs afterwards.
@ENDED@- *missed*: what was to be hit was not there at that moment, or the fault point was not reached.
- *recovered*: seconds from the repair until the guest ran again (0: it ran already). *gap*: the longest silence of
  its heartbeat, the time until the repair included.
"""


WORDS = {
    "@MOVES@": ("moves", "post-copy and hybrid moves", "post-copy moves at safety level `full`"),
    "@TARGET@": ("check-kill", "check-kill-postcopy", "check-kill-full"),
    "@ENDED@": ("""- *ended*: the injection itself killed the QEMU that owned the guest; both hosts say that it is gone. (Where it
  had just been committed and nobody saw it run, an operator has to say so: `vmferry resolve --keep there`.)
""", """- *ended*, *reverted*: the injection itself killed a QEMU while the guest's memory was split between two; that is
  not survived. An operator has ended the guest (`vmferry resolve --keep there`, or `vmferry stop` where pages
  will not come any more), or gone back to its state at the switchover (`--keep here`). Also *ended*, as in a
  pre-copy: what was killed was the only QEMU that had it.
""", """- *taken over*: the injection killed the destination's QEMU while the guest's memory was split; its source has gone
  on from the last epoch, and nothing that anybody had heard of it was forgotten.
- *ended*: the injection killed the QEMU that had all of the guest, or the source's while pages were needed.
"""),
}


def head(campaign: Campaign) -> str:
    text = HEAD
    for mark, words in WORDS.items():
        text = text.replace(mark, words[campaign.splits + campaign.protects])
    return text


def table(records: list[Record], campaign: Campaign = PRECOPY) -> str:
    """docs/kill-campaign.md, kill-campaign-postcopy.md or kill-campaign-full.md."""
    outcomes = {STAYED: "stayed", MOVED: "moved", ENDED: "ended by the injection"}
    if campaign.protects:
        outcomes |= {TAKEN: "taken over"}
    elif campaign.splits:
        outcomes |= {REVERTED: "reverted"}
    outcomes |= {MISSED: "missed"}
    failed = [record for record in records if record.problem]
    recovered = sorted(record.recovered_s for record in records)
    lines = [head(campaign), f"| injections | {' | '.join(outcomes.values())} | failed | "
             "recovered in: half, nine tenths, all |", "|---|---" + "|---" * (len(outcomes) + 1) + "|"]
    if records:
        times = ", ".join(f"{recovered[min(len(recovered) - 1, int(len(recovered) * share))]:.1f} s"
                          for share in (0.5, 0.9, 1))
        counts = [sum(record.outcome == outcome for record in records) for outcome in outcomes]
        lines.append(f"| {len(records)} | {' | '.join(map(str, counts))} | {len(failed)} | {times} |")
    lines += ["", "| seed | injection | outcome | the command said | recovered s | gap s | problem |",
              "|---|---|---|---|---|---|---|"]
    lines += [record.row() for record in sorted(records, key=lambda record: record.seed)]
    return "\n".join(lines) + "\n"
