#!/usr/bin/python3
"""This vmferry beside another build of it: the same moves in turns, and the ratios.

For changes that should cost nothing: make a second worktree at the commit before, build it, then
    bench/binaries.py ../before/build/src/cli/vmferry
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

from contenders import known_options, move_with_vmferry  # noqa: E402
from measure import Sample  # noqa: E402
from subject import HOSTS, LIMIT_S, Subject  # noqa: E402
from vmferry_lab import Lab, Pki, clean, vmferry_program  # noqa: E402
from workloads import WORKLOADS  # noqa: E402

DEFAULT_WORKLOADS = ["idle", "sparse", "dense", "intensive", "text"]
COLUMNS = {"total_ms": "total ms", "wire_bytes": "wire MB", "gap_ms": "gap ms", "cpu_s": "CPU s",
           "downtime_ms": "pause ms", "lost_ms": "work lost ms"}


def move(program: str, workload: str, link: str, pki: Pki) -> Sample:
    os.environ["VMFERRY"] = program
    with Lab() as lab:
        lab.link.shape(link)
        subject = Subject(WORKLOADS[workload], link, lab)
        sample = move_with_vmferry(lab, subject.guest, subject.prepare, pki,
                                   known_options(subject.workload.options), LIMIT_S[link])
        subject.finish(sample)
        return sample


def median(samples: list[Sample], name: str) -> float | None:
    values = [getattr(sample, name) for sample in samples]
    if any(value is None for value in values):
        return None
    return statistics.median(values) / (1e6 if name == "wire_bytes" else 1)


def rows(workload: str, ours: list[Sample], other: list[Sample]) -> None:
    for name, label in COLUMNS.items():
        here, there = median(ours, name), median(other, name)
        if here is not None and there is not None:
            ratio = f"{here / there:.2f}" if there else "–"
            print(f"| {workload} | {label} | {here:.2f} | {there:.2f} | {ratio} |", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", help="the other build's program")
    parser.add_argument("--runs", type=int, default=3, help="moves of each")
    parser.add_argument("--link", choices=LIMIT_S, default="1gbit")
    parser.add_argument("--workload", choices=WORKLOADS, action="append",
                        help=f"default: {', '.join(DEFAULT_WORKLOADS)}")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    programs = [vmferry_program(), arguments.other]
    clean()
    print("| guest | | this | other | ratio |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pki = Pki(Path(folder), HOSTS)
        for workload in arguments.workload or DEFAULT_WORKLOADS:
            samples = {program: [] for program in programs}
            for number in range(arguments.runs):
                for program in programs if number % 2 == 0 else programs[::-1]:
                    samples[program].append(move(program, workload, arguments.link, pki))
            rows(workload, samples[programs[0]], samples[programs[1]])


if __name__ == "__main__":
    main()
