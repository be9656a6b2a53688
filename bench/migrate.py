#!/usr/bin/python3
"""vmferry and QEMU's own `migrate` on the same guest and link, in turns.

Prints medians and ratios, and writes all samples to bench/results/.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

from contenders import move_with_qemu, move_with_vmferry, settle  # noqa: E402
from vmferry_lab import Lab, LabError, Pki, backports_qemu  # noqa: E402

MEMORY_MB = 1024
HEARTBEAT_MS = 10
HOSTS = {"hostA": "10.66.0.1", "hostB": "10.66.0.2"}

LOADS = {
    "idle": {"arena_mb": 16, "load": None},
    "dense": {"arena_mb": 256,
              "load": {"pattern": "dense", "mb_per_second": 60, "span_mb": 256}},
}
# vmferry over plain TCP as QEMU does, vmferry as users run it, QEMU 10.0.
CONTENDERS = ("vmferry", "tls", "qemu")
LINKS = {"1gbit": "1gbit", "unlimited": None}

# What a median of ours may be at most, as a multiple of QEMU's.
TARGETS = {
    "gap_ms": {"1gbit": 0.3, "unlimited": 0.3},
    "downtime_ms": {"1gbit": 0.3, "unlimited": 0.3},
    "total_ms": {"1gbit": 1.0, "unlimited": 0.7},
    "whole_cpu_s": {"1gbit": 1.2, "unlimited": 1.2},
}
MEMORY_LIMIT = (32 << 20) + (MEMORY_MB << 20) // 16

ROWS = [
    ("total_ms", "total time", "ms", 1),
    ("wall_ms", "total as the user sees it", "ms", 1),
    ("gap_ms", "downtime, heartbeat's gap", "ms", 1),
    ("lost_ms", "guest's own work lost", "ms", 1),
    ("downtime_ms", "downtime, self-reported", "ms", 1),
    ("wire_bytes", "bytes on the wire", "MB", 1e-6),
    ("whole_cpu_s", "CPU, destination's start too", "s", 1),
    ("cpu_s", "CPU from the order on", "s", 1),
    ("rounds", "rounds", "", 1),
    ("peak_memory_bytes", "agent's peak memory", "MiB", 1 / (1 << 20)),
]


def run_once(contender: str, link: str, load: str, pki: Pki, options: list[str]):
    spec = LOADS[load]
    with Lab() as lab:
        lab.link.shape(LINKS[link])
        guest = lab.guest("bench", memory_mb=MEMORY_MB, qemu=backports_qemu(), check=0,
                          arena_mb=spec["arena_mb"])

        def prepare(guest):
            return settle(guest, spec["load"], HEARTBEAT_MS)

        if contender == "qemu":
            sample = move_with_qemu(lab, guest, prepare)
        else:
            sample = move_with_vmferry(lab, guest, prepare, pki if contender == "tls" else None,
                                       options)
        guest.check()
    if not sample.finished:
        raise LabError(f"{contender}: {sample.reason}")
    return sample


def medians(samples: list) -> dict[str, float]:
    """Zero where there is no such figure: an idle guest has no work to lose."""
    return {key: statistics.median(getattr(sample, key) or 0 for sample in samples)
            for key, *_ in ROWS}


def verdict(key: str, link: str, ratio: float) -> str:
    target = TARGETS.get(key, {}).get(link)
    if target is None:
        return ""
    return f"{'ok  ' if ratio <= target else 'MISS'} at most {target:.1f} x"


def compare(us: float, them: float) -> str:
    return f"{us / them:7.2f}" if them > 0 else " " * 7


def print_table(link: str, load: str, medians_of: dict[str, dict], runs: int) -> None:
    plain, tls, qemu = (medians_of[name] for name in CONTENDERS)
    print(f"\n{load} guest, {MEMORY_MB} MiB, link {link}; medians of {runs} moves each\n")
    print(f"  {'':32}{'vmferry':>10}{'TLS':>10}{'QEMU':>10}{'ratio':>7}{'TLS':>7}   "
          "target for the first")
    for key, title, unit, scale in ROWS:
        note = verdict(key, link, plain[key] / qemu[key]) if qemu[key] > 0 else ""
        if key == "peak_memory_bytes":
            note = ("ok  " if tls[key] <= MEMORY_LIMIT else "MISS") + \
                f" at most {MEMORY_LIMIT >> 20} MiB"
        print(f"  {title:28}{unit:>4}{plain[key] * scale:10.2f}{tls[key] * scale:10.2f}"
              f"{qemu[key] * scale:10.2f}{compare(plain[key], qemu[key])}"
              f"{compare(tls[key], qemu[key])}   {note}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="moves of each contender")
    parser.add_argument("--link", choices=LINKS, action="append")
    parser.add_argument("--load", choices=LOADS, action="append")
    parser.add_argument("--json", action="store_true", help="samples and medians on stdout")
    parser.add_argument("--option", action="append", default=[],
                        help="one more word for `vmferry migrate`")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    results = []
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        pki = Pki(Path(folder), HOSTS)
        for link in arguments.link or LINKS:
            for load in arguments.load or LOADS:
                samples = {name: [] for name in CONTENDERS}
                for number in range(arguments.runs):
                    for contender, list_ in samples.items():
                        print(f"{load}, {link}: {contender} {number + 1}/{arguments.runs}",
                              file=sys.stderr)
                        list_.append(run_once(contender, link, load, pki, arguments.option))
                figures = {name: medians(list_) for name, list_ in samples.items()}
                results.append({"link": link, "load": load, "medians": figures,
                                "samples": {name: [dataclasses.asdict(one) for one in list_]
                                            for name, list_ in samples.items()}})
                if not arguments.json:
                    print_table(link, load, figures, arguments.runs)
    text = json.dumps(results, indent=2)
    output = HERE / "results" / time.strftime("migrate-%Y%m%d-%H%M%S.json")
    output.parent.mkdir(exist_ok=True)
    output.write_text(text + "\n")
    print(text if arguments.json else f"\nAll samples: {output.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
