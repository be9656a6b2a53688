"""All moves of a run, in a JSON file that is whole after every move."""

import dataclasses
import json
import math
import statistics
from pathlib import Path

from measure import Sample

# Figures whose medians are compared; how they are named, their unit, and what to divide by.
METRICS = {
    "total_ms": ("total", "s", 1e3),
    "whole_total_ms": ("with start", "s", 1e3),
    "wire_bytes": ("bytes", "MB", 1e6),
    "gap_ms": ("gap", "ms", 1),
    "lost_ms": ("work lost", "ms", 1),
    "downtime_ms": ("downtime", "ms", 1),
    "whole_cpu_s": ("CPU", "s", 1),
    "p50_ms": ("p50", "ms", 1),
    "p99_ms": ("p99", "ms", 1),
    "max_ms": ("max", "ms", 1),
    "late": ("late", "", 1),
    "move_p99_ms": ("p99 moving", "ms", 1),
    "later_share": ("bytes later", "", 1),
    "work_share": ("work done", "", 1),
    "work_per_s": ("work", "pages/s", 1),
    "touch_count": ("long touches", "", 1),
    "touch_p50_ms": ("touch p50", "ms", 1),
    "touch_p99_ms": ("touch p99", "ms", 1),
    "touch_max_ms": ("touch max", "ms", 1),
}
MORE_IS_BETTER = ("work_share", "work_per_s")


class Record:
    def __init__(self, path: Path, facts: dict):
        """*facts*: about the run as a whole."""
        self.path = path
        self.facts = facts
        self.moves: list[dict] = []

    @classmethod
    def load(cls, path: Path) -> "Record":
        data = json.loads(path.read_text())
        record = cls(path, data["facts"])
        for move in data["moves"]:
            record.moves.append(move | {"sample": Sample(**move["sample"])})
        return record

    def add(self, workload: str, link: str, contender: str, number: int, sample: Sample) -> None:
        self.moves.append({"workload": workload, "link": link, "contender": contender,
                           "number": number, "sample": sample})
        self._save()

    def has(self, workload: str, link: str, contender: str, number: int) -> bool:
        wanted = {"workload": workload, "link": link, "contender": contender, "number": number}
        return any(wanted.items() <= move.items() for move in self.moves)

    def _save(self) -> None:
        moves = [move | {"sample": dataclasses.asdict(move["sample"])} for move in self.moves]
        self.path.parent.mkdir(exist_ok=True)
        work = self.path.with_suffix(".part")
        work.write_text(json.dumps({"facts": self.facts, "moves": moves}, indent=1) + "\n")
        work.rename(self.path)

    def pairs(self) -> list[tuple[str, str]]:
        """(workload, link) of all moves, in the order they were made."""
        return list(dict.fromkeys((move["workload"], move["link"]) for move in self.moves))

    def samples(self, workload: str, link: str) -> dict[str, list[Sample]]:
        """By contender."""
        found: dict[str, list[Sample]] = {}
        for move in self.moves:
            if (move["workload"], move["link"]) == (workload, link):
                found.setdefault(move["contender"], []).append(move["sample"])
        return found


def later_share(sample: Sample) -> float | None:
    """Bytes sent after the first round, as a share of whole pages; None: no such round."""
    later = sample.round_reports[1:]
    pages = sum(one["pages"] for one in later)
    return sum(one["wire_bytes"] for one in later) / (4096 * pages) if pages else None


def figure(sample: Sample, metric: str) -> float | None:
    """One figure of a move; None where there is none, and the worst where it did not finish:
    infinite, or 0 where more is better."""
    if metric == "later_share":
        value = later_share(sample)
    elif metric == "move_p99_ms":
        value = sample.latency and sample.latency["while_moving"]["p99_ms"]
    elif metric in ("p50_ms", "p99_ms", "max_ms", "late"):
        value = sample.latency and sample.latency[metric]
    elif metric.startswith("touch_"):
        value = sample.touches and sample.touches[metric.removeprefix("touch_")]
    else:
        value = getattr(sample, metric)
    if sample.finished or value is None:
        return value
    return 0.0 if metric in MORE_IS_BETTER else math.inf


def median_of(samples: list[Sample], metric: str) -> float | None:
    """Infinite where half of the moves or more did not finish."""
    values = [value for one in samples if (value := figure(one, metric)) is not None]
    return statistics.median(values) if values else None


def medians(samples: list[Sample]) -> dict[str, float]:
    """All figures that there are."""
    found = {metric: median_of(samples, metric) for metric in METRICS}
    return {metric: value for metric, value in found.items() if value is not None}
