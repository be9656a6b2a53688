#!/usr/bin/env python3
"""The control engine's policy against others' over simulated traces, and how long it takes to decide
(bench/README.md)."""

import argparse
import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRACES = ["diurnal", "bursts", "flapping", "hot-guest", "leak", "oscillation", "loss", "spikes", "idle"]
RIVALS = ["threshold", "proxmox", "sandpiper", "sandpiper-5s"]
TARGETS = {
    "violation": 0.5,  # of the best rival's
    "moves": 1.0,  # of that rival's
    "per_guest": 1,  # in a cool-down
    "spoiled": 0,
    "decide_ms": 1000,
    "peak_mib": 1024,
    "growth": 1.5,  # of the time per n log n, from the smallest cluster to the largest
}


def simulate(*arguments: str) -> list[dict]:
    program = ROOT / "build/src/sim/vmferry-sim"
    text = subprocess.run(
        [program, "cluster", "--json", *arguments], check=True, capture_output=True, text=True
    ).stdout
    return [json.loads(line) for line in text.splitlines()]


def play(trace: str, policy: str, seeds: int) -> dict:
    runs = [
        simulate("--trace", trace, "--policy", policy, "--seed", str(seed))[0]
        for seed in range(1, seeds + 1)
    ]
    return {
        "trace": trace,
        "policy": policy,
        "violation": sum(run["violation_s"] for run in runs),
        "moves": sum(run["moves"] for run in runs),
        "spoiled": sum(run["spoiled"] for run in runs),
        "per_guest": max(run["most_per_guest"] for run in runs),
    }


def ratio(ours: float, other: float) -> float:
    return ours / other if other else (0.0 if not ours else float("inf"))


def judge(trace: str, ours: dict, rivals: list[dict]) -> None:
    best = min(rivals, key=lambda row: (row["violation"], row["moves"]))
    violation, moves = ratio(ours["violation"], best["violation"]), ratio(ours["moves"], best["moves"])
    if trace in ("spikes", "idle"):
        good = ours["moves"] == 0
        print(f"  {trace}: {ours['moves']} moves, target 0: {'met' if good else 'MISSED'}")
        return
    nobody = best["violation"] == 0 and ours["violation"] == 0
    good = (nobody or violation <= TARGETS["violation"]) and (
        moves <= TARGETS["moves"] or ours["moves"] == 0
    )
    print(
        f"  {trace}: {violation:.3f} x the SLA seconds of {best['policy']} (target "
        f"{TARGETS['violation']}), {moves:.3f} x its moves: {'met' if good else 'MISSED'}"
    )
    for key in ("spoiled", "per_guest"):
        if ours[key] > TARGETS[key]:
            print(f"  {trace}: {key} {ours[key]}, target {TARGETS[key]}: MISSED")


def compare(seeds: int) -> None:
    print(f"{'trace':12} {'policy':12} {'SLA missed s':>13} {'moves':>7} {'spoiled':>8} {'most/guest':>10}")
    for trace in TRACES:
        rows = [play(trace, policy, seeds) for policy in ["engine", *RIVALS, "none"]]
        for row in rows:
            print(
                f"{trace:12} {row['policy']:12} {row['violation']:13.0f} {row['moves']:7} "
                f"{row['spoiled']:8} {row['per_guest']:10}",
                flush=True,
            )
        judge(trace, rows[0], rows[1:-1])


def scale() -> None:
    rows = simulate("--scale")
    for row in rows:
        print(
            f"{row['hosts']:6} hosts {row['guests']:7} guests {row['hotspots']:6} hot spots "
            f"{row['moves']:6} moves: {row['decide_ms']:8.1f} ms, {row['ns_per_n_log_n']:6.1f} ns per "
            f"n log n, {row['peak_mib']:6.0f} MiB"
        )
    last, growth = rows[-1], rows[-1]["ns_per_n_log_n"] / rows[0]["ns_per_n_log_n"]
    for name, value in (
        ("decide_ms", last["decide_ms"]),
        ("peak_mib", last["peak_mib"]),
        ("growth", growth),
    ):
        verdict = "met" if value <= TARGETS[name] else "MISSED"
        print(f"  {name}: {value:.2f}, target {TARGETS[name]}: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="traces of each kind (2)")
    parser.add_argument("--only", choices=["compare", "scale"])
    arguments = parser.parse_args()
    if arguments.only != "scale":
        compare(arguments.seeds)
    if arguments.only != "compare":
        scale()


if __name__ == "__main__":
    main()
