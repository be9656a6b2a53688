"""What vmferry's medians are held to, beside those of the other contenders."""

import math
from dataclasses import dataclass

from record import METRICS, MORE_IS_BETTER

OURS = "vmferry"
NOT_OTHERS = ("vmferry", "vmferry-tls")
XBZRLE = ("xbzrle", "xbzrle-half")
Figures = dict[str, dict[str, float]]  # contender, metric


@dataclass(frozen=True)
class Target:
    metric: str
    factor: float
    of: str = "best"  # "best" of all others, "xbzrle" (the better one), a contender; "": as it is
    us: str = OURS


@dataclass(frozen=True)
class Verdict:
    passed: bool | None  # None: who it is compared with was not run
    text: str


_AHEAD = [Target("total_ms", 1.0), Target("wire_bytes", 1.0)]
_INTENSIVE = [Target("total_ms", 0.6, "relaxed"), Target("wire_bytes", 0.55, "relaxed"),
              Target("gap_ms", 1.0, "relaxed")]
_GUEST = [Target("lost_ms", 1.0)]
TARGETS = {
    "idle": [*_AHEAD, Target("gap_ms", 70, "")],
    "sparse": [Target("total_ms", 0.6, "xbzrle"), Target("wire_bytes", 0.55, "xbzrle"),
               Target("gap_ms", 1.0, "xbzrle"), Target("later_share", 1 / 20, ""), *_GUEST],
    "dense": [*_AHEAD, Target("gap_ms", 0.5), *_GUEST],
    "intensive": [*_INTENSIVE, *_GUEST],
    "intensive-sequential": [*_INTENSIVE, *_GUEST],
    "text": [*_AHEAD, Target("gap_ms", 1.0), *_GUEST],
    "application": [*_AHEAD, Target("p99_ms", 1.0)],
}


def others(figures: Figures) -> list[str]:
    return [name for name in figures if name not in NOT_OTHERS]


def best_of(figures: Figures, names, metric: str) -> str | None:
    """Who of *names* has the least of it; None: none of them was run."""
    there = [name for name in names if metric in figures.get(name, {})]
    return min(there, key=lambda name: figures[name][metric], default=None)


def rival(figures: Figures, target: Target) -> str | None:
    if target.of == "best":
        return best_of(figures, others(figures), target.metric)
    if target.of == "xbzrle":  # one of them for all figures: the faster one
        return best_of(figures, XBZRLE, "total_ms")
    return target.of if target.of in figures else None


def _shown(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _whose(us: str) -> str:
    return "" if us == OURS else f"{us}: "


def judge(figures: Figures, target: Target) -> Verdict:
    name, unit, scale = METRICS[target.metric]
    us = figures[target.us].get(target.metric)
    if not target.of:
        text = f"{_whose(target.us)}{name} at most {target.factor / scale:g} {unit}".rstrip()
        return _verdict(text, us, target.factor, "" if us is None else f"{us / scale:.3g} {unit}")
    wanted = {"best": "the best other", "xbzrle": "the better xbzrle"}.get(target.of, target.of)
    bound = "at least" if target.metric in MORE_IS_BETTER else "at most"
    text = f"{_whose(target.us)}{name} {bound} {target.factor:g} x {wanted}"
    them = rival(figures, target)
    if them is None or us is None or target.metric not in figures[them]:
        return Verdict(None, f"{text}: not run")
    theirs = figures[them][target.metric]
    if target.metric in MORE_IS_BETTER:
        seen = f"{us / theirs:.2f} x" if theirs else "of nothing"
        return Verdict(us > 0 and us >= target.factor * theirs,
                       f"{text}: {_shown(us)}, theirs {_shown(theirs)}, {seen}")
    if math.isinf(theirs) and not math.isinf(us):
        return Verdict(True, f"{text}: {them} did not finish")
    return _verdict(text, us, target.factor * theirs,
                    f"{us / theirs:.2f} x {them}" if theirs and not math.isinf(us) else them)


def _verdict(text: str, us: float | None, limit: float, seen: str) -> Verdict:
    if us is None:
        return Verdict(None, f"{text}: no such figure")
    if math.isinf(us):
        return Verdict(False, f"{text}: did not finish")
    return Verdict(us <= limit, f"{text}: {seen}")


def _all_done(us: str, samples: list) -> Verdict:
    done = sum(sample.finished for sample in samples)
    return Verdict(done == len(samples), f"{_whose(us)}{done} of {len(samples)} moves finished")


def verdicts(workload: str, figures: Figures, samples: dict, ours=(OURS,),
             targets: dict[str, list[Target]] = TARGETS) -> list[Verdict]:
    """All targets of a workload, of each of *ours* that was run; with the first, that every move
    of it is done."""
    found = []
    for us in ours:
        if us in figures:
            found.append(_all_done(us, samples[us]))
            found += [judge(figures, target) for target in targets.get(workload, [])
                      if target.us == us]
    return found
