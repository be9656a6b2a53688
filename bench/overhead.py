#!/usr/bin/python3
"""What work that does not pay costs: looking for segments where whole pages are new, and trying
to pack what does not shrink.

Moves of vmferry with and without it, in turns; prints medians and ratios, and writes all samples
to bench/results/.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

from contenders import move_with_vmferry  # noqa: E402
from measure import Sample  # noqa: E402
from record import METRICS, Record, median_of  # noqa: E402
from subject import LIMIT_S, Subject  # noqa: E402
from vmferry_lab import Lab, LabError, clean  # noqa: E402
from workloads import WORKLOADS, Workload  # noqa: E402

SHOWN = ("total_ms", "wire_bytes", "whole_cpu_s")


@dataclass(frozen=True)
class Question:
    asks: str
    workload: Workload
    with_it: tuple[str, ...]     # options of `vmferry migrate`
    without_it: tuple[str, ...]
    at_most: dict[str, float]    # median with it, as a multiple of that without it
    base: Workload | None = None    # what the same guest costs without the data in question

    def sides(self) -> list[tuple[str, Workload, tuple[str, ...]]]:
        """The moves to compare: their name, their guest, and their options."""
        found = []
        for prefix, workload in (("", self.workload), ("base ", self.base)):
            if workload:
                found += [(f"{prefix}with", workload, self.with_it),
                          (f"{prefix}without", workload, self.without_it)]
        return found


# Packing pays for the guest's own programs and tables: they are taken off, so
# that the data that does not shrink is left.
QUESTIONS = {
    "segments": Question(
        "segments, where all that is written is whole new pages", WORKLOADS["dense"],
        ("--compress", "none"), ("--segments", "off", "--compress", "none"),
        {"wire_bytes": 1.01, "total_ms": 1.05}),
    "packing": Question(
        "packing, where nothing shrinks", Workload("an idle guest's 768 MiB of random bytes", 768),
        ("--compress", "auto"), ("--compress", "none"), {"whole_cpu_s": 1.03},
        WORKLOADS["idle"]),
}


def run_once(workload: Workload, link: str, options: tuple[str, ...]) -> Sample:
    with Lab() as lab:
        lab.link.shape(link)
        subject = Subject(workload, link, lab)
        sample = move_with_vmferry(lab, subject.guest, subject.prepare, None, options,
                                   LIMIT_S[link])
        subject.finish(sample)
    if not sample.finished:
        raise LabError(f"the move did not finish: {sample.reason}")
    return sample


def bytes_per_page(samples: list[Sample]) -> float:
    """Of all pages sent; how many those are does not matter here, as it does for the total."""
    rounds = [one for sample in samples for one in sample.round_reports]
    return sum(one["wire_bytes"] for one in rounds) / max(1, sum(one["pages"] for one in rounds))


def cost(samples: dict[str, list[Sample]], side: str, metric: str) -> float:
    """The median, less that of the base where there is one."""
    base = samples.get(f"base {side}")
    return median_of(samples[side], metric) - (median_of(base, metric) if base else 0)


def print_table(question: Question, link: str, samples: dict[str, list[Sample]]) -> None:
    less = ", less what the guest itself takes" if question.base else ""
    print(f"\nWhat it costs: {question.asks}\n{question.workload.does}{less}; link {link}; "
          f"medians of {len(samples['with'])} moves each\n")
    print(f"  {'':24}{'with':>10}{'without':>10}{'ratio':>8}")
    for metric in SHOWN:
        name, unit, scale = METRICS[metric]
        ours, theirs = (cost(samples, side, metric) for side in ("with", "without"))
        limit = question.at_most.get(metric)
        note = "" if limit is None else \
            f"   {'ok  ' if ours <= limit * theirs else 'MISS'} at most {limit:g} x"
        print(f"  {f'{name} {unit}':24}{ours / scale:10.2f}{theirs / scale:10.2f}"
              f"{ours / theirs if theirs else 0:8.3f}{note}")
    ours, theirs = (bytes_per_page(samples[side]) for side in ("with", "without"))
    print(f"  {'bytes a page sent':24}{ours:10.0f}{theirs:10.0f}{ours / theirs:8.3f}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="moves of each kind")
    parser.add_argument("--link", choices=LIMIT_S, default="1gbit")
    parser.add_argument("--question", choices=QUESTIONS, action="append")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    clean()
    load = os.getloadavg()[0]
    print(f"load average before: {load:.2f} on {os.cpu_count()} CPUs", file=sys.stderr)
    record = Record(HERE / "results" / time.strftime("overhead-%Y%m%d-%H%M%S.json"),
                    {"started": time.strftime("%F %T"), "load_average": load})
    for name in arguments.question or QUESTIONS:
        question = QUESTIONS[name]
        for number in range(arguments.runs):
            for side, workload, options in question.sides():
                print(f"{name}: {side} {number + 1}/{arguments.runs}", file=sys.stderr, flush=True)
                record.add(name, arguments.link, side, number,
                           run_once(workload, arguments.link, options))
        print_table(question, arguments.link, record.samples(name, arguments.link))
    print(f"\nAll samples: {record.path}")


if __name__ == "__main__":
    main()
