#!/usr/bin/python3
"""vmferry's post-copy beside QEMU's own, with and without postcopy-preempt.

Contenders move the same guest over the same link in turns within one run: some switch over after a
pass of pre-copy or when they see fit, some at once.  Prints a table with targets for each workload
and link; bench/results/ gets all samples as JSON.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

from contenders import Contender, Tuning  # noqa: E402
from plan import Plan  # noqa: E402
from table import View, ratio_line, table  # noqa: E402
from targets import Target  # noqa: E402
from workloads import POSTCOPY_ONLY  # noqa: E402

POSTCOPY = ("postcopy-ram",)
PREEMPT = ("postcopy-ram", "postcopy-preempt")
CONTENDERS = {
    "hybrid": Contender("vmferry, hybrid", mode="hybrid"),
    "preempt": Contender("QEMU, preempt, after a pass", Tuning(PREEMPT, passes=1)),
    "qemu": Contender("QEMU, after a pass", Tuning(POSTCOPY, passes=1)),
    "postcopy": Contender("vmferry, postcopy", mode="postcopy"),
    "full": Contender("vmferry, hybrid, protected", mode="hybrid", safety="full"),
    "full-now": Contender("vmferry, postcopy, protected", mode="postcopy", safety="full"),
    "stored": Contender("vmferry, postcopy, with a store", mode="postcopy", store=True),
    "preempt-now": Contender("QEMU, preempt, at once", Tuning(PREEMPT, passes=0)),
    "qemu-now": Contender("QEMU, at once", Tuning(POSTCOPY, passes=0)),
}
# Whose memory is away when the guest goes on.
AT_ONCE = ("postcopy", "full-now", "stored", "preempt-now", "qemu-now")
RIVALS = {"hybrid": ("preempt", "qemu"), "postcopy": ("preempt-now", "qemu-now"),
          "full": ("hybrid",), "full-now": ("postcopy",), "stored": ("postcopy",)}
# Beside the one without it, not in a run that compares all.
ASKED_FOR = ("full", "full-now", "stored")
COLUMNS = ("total_ms", "whole_total_ms", "gap_ms", "lost_ms", "work_share", "work_per_s",
           "downtime_ms", "wire_bytes", "whole_cpu_s")
# No guest does more than when it is left alone, but for noise.
MOST_WORK = 1.1

# Nobody touches a page later than a first pass of pre-copy has sent it, unless somebody writes.
WRITERS = ("sparse", "dense", "intensive")


def _guest_first(us: str, them: str) -> list[Target]:
    return [Target("gap_ms", 0.25, them, us), Target("work_per_s", 1.2, them, us),
            Target("downtime_ms", 20, "", us)]


_WRITER = [Target("total_ms", 0.95, "preempt", "hybrid"), *_guest_first("hybrid", "preempt"),
           *_guest_first("postcopy", "preempt-now"), Target("total_ms", 1.05, "hybrid", "full"),
           Target("total_ms", 1.05, "postcopy", "full-now"),
           Target("total_ms", 1.05, "postcopy", "stored")]
TARGETS = {
    **dict.fromkeys(WRITERS, _WRITER),
    "touch": [Target("touch_p50_ms", 0.7, "preempt-now", "postcopy"),
              Target("touch_p99_ms", 0.7, "preempt-now", "postcopy")],
}


def _ratios(figures: dict, columns: list[str]) -> list[str]:
    return [ratio_line(f"{us} / {them}", figures[us], figures[them], columns)
            for us, rivals in RIVALS.items() for them in rivals
            if us in figures and them in figures]


VIEW = View(CONTENDERS, COLUMNS, tuple(RIVALS), TARGETS, _ratios)


def _count(samples: dict, words: str, applies) -> list[str]:
    """A line for each contender that has such moves."""
    found = {name: sum(map(applies, list_)) for name, list_ in samples.items()}
    return [f"  {words}: {CONTENDERS[name].label}: {count} of {len(samples[name])}"
            for name, count in found.items() if count]


def _show(workload: str, link: str, samples: dict) -> str:
    return "\n".join([
        table(workload, link, samples, VIEW),
        *_count(samples, "pre-copy was enough",
                lambda one: one.finished and one.postcopy is None),
        *_count(samples, "the machine was busy before the order, work lost and done say little",
                lambda one: (one.work_share or 0) > MOST_WORK)])


def _suits(workload: str, contender: str) -> bool:
    return contender in AT_ONCE or workload not in POSTCOPY_ONLY


PLAN = Plan("postcopy", CONTENDERS, table=_show, suits=_suits,
            default_contenders=[name for name in CONTENDERS if name not in ASKED_FOR], default_workloads=[*WRITERS, *POSTCOPY_ONLY],
            default_links=["1gbit"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    PLAN.add_arguments(parser)
    PLAN.carry_out(parser.parse_args())


if __name__ == "__main__":
    main()
