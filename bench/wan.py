#!/usr/bin/python3
"""Moves over long ways: vmferry beside QEMU's own pre-copy over the same delays, losses and breaks.

Contenders take turns.  Prints a table for each link and guest, and writes all samples to
bench/results/.  What does not end within the limit is cancelled, and says so.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

from contenders import CONTENDERS, settle  # noqa: E402
from measure import Ruler, Sample  # noqa: E402
from vmferry_lab import (Agent, Lab, LabError, Pki, WanLink, backports_qemu, qemu_pids,  # noqa: E402
                         wait_until)
from workloads import Workload  # noqa: E402

HOSTS = {"hostA": "10.66.0.1", "hostB": "10.66.0.2"}
HEARTBEAT_MS = 20
LIMIT_S = 300.0
SEED = 1
MEMORY_MB = 512

# Delays are of one direction.
LINKS = {
    "100mbit": {"rate": "100mbit", "delay": "50ms", "loss": "0.5%"},
    "20mbit": {"rate": "20mbit", "delay": "100ms"},
    "1gbit": {"rate": "1gbit", "delay": "15ms"},
    "mobile": {"trace": "mobile", "delay": "40ms"},
    "breaks": {"rate": "100mbit", "delay": "50ms", "loss": "0.5%"},
}
BREAKS = {"break_": "5s", "break_every": "30s", "break_after": "4s"}

WORKLOADS = {
    "idle": Workload("nothing but its heartbeat; 64 MiB of random bytes", 64),
    # Long enough to see more than one break.
    "large": Workload("nothing but its heartbeat; 320 MiB of random bytes", 320),
    "sparse": Workload("8 bytes a page, 2,000 pages a second over 64 MiB", 64,
                       {"pattern": "sparse", "pages_per_second": 2000}),
    "text": Workload("2 MB/s of text over 64 MiB of text", 64,
                     {"pattern": "text", "mb_per_second": 2}, content="text"),
    "application": Workload("Redis with 20 MB, 100 requests a second, half SET, half GET", 16,
                            redis={"keys": 20_000, "value_bytes": 1000, "rate": 100}),
}

# The lab sets it to 0.
OPTIONS = ("--retry-for", "1m")
OURS = "vmferry-tls"
PEERS = ("multifd", "xbzrle")

# What a median of ours may be at most, as a multiple of the best peer's that finishes.
TARGETS = {"total_ms": 0.6, "gap_ms": 0.5}
BREAKS_TARGET = 1.3  # … and a move with breaks, of one without
SEED_TARGET = 0.3    # … and bytes of one with a seed, of one without

# A guest that was saved, and has written a fifth of its memory since.
SEED_ARENA_MB, SEED_REWRITTEN_MB = 200, 40

ROWS = [
    ("total_ms", "total time", "s", 1e-3),
    ("gap_ms", "downtime, heartbeat's gap", "ms", 1),
    ("lost_ms", "guest's own work lost", "ms", 1),
    ("wire_bytes", "bytes on the wire", "MB", 1e-6),
    ("rounds", "rounds", "", 1),
]


def run_once(contender: str, link: str, workload: str, pki: Pki) -> Sample:
    one = WORKLOADS[workload]
    with Lab(wan=WanLink(seed=SEED, **LINKS[link])) as lab:
        guest = lab.guest("bench", memory_mb=MEMORY_MB, qemu=backports_qemu(), check=0,
                          arena_mb=one.arena_mb, content=one.content, redis=one.redis is not None)

        def prepare(guest):
            # Clients are far away, too: a request is answered after the way there and back.
            if one.redis:
                guest.redis_load(**one.redis)
            return settle(guest, one.load, HEARTBEAT_MS)

        def begun():
            if link == "breaks":
                lab.wan.set(**BREAKS)

        sample = CONTENDERS[contender].move(lab, guest, prepare, pki, OPTIONS, LIMIT_S, begun)
        if link == "breaks":
            lab.wan.set(break_=0)
        if sample.finished:
            guest.check()
    return sample


def median(samples: list[Sample], key: str) -> float | None:
    """Of those that finished."""
    values = [getattr(sample, key) or 0 for sample in samples if sample.finished]
    return statistics.median(values) if values else None


def best(samples: dict[str, list[Sample]], key: str) -> float | None:
    values = [value for peer in PEERS
              if (value := median(samples.get(peer, []), key)) is not None]
    return min(values, default=None)


def verdict(key: str, ours: float | None, theirs: float | None) -> str:
    if ours is None:
        return "MISS did not finish"
    if theirs is None:
        return "ok   no peer finished" if key in TARGETS else ""
    ratio = f"{ours / theirs:6.2f}" if theirs > 0 else " " * 6
    if key not in TARGETS:
        return ratio
    return f"{ratio}   {'ok  ' if ours <= TARGETS[key] * theirs else 'MISS'} at most {TARGETS[key]}"


def show(value: float | None, scale: float) -> str:
    return f"{value * scale:12.1f}" if value is not None else f"{'-':>12}"


def print_table(link: str, workload: str, samples: dict[str, list[Sample]]) -> None:
    print(f"\n{workload} ({WORKLOADS[workload].does}), {MEMORY_MB} MiB, link {link}: "
          f"{' '.join(f'{key} {value}' for key, value in LINKS[link].items())}\n")
    print(f"  {'':32}" + "".join(f"{name:>12}" for name in samples) + "  ratio   target")
    for key, title, unit, scale in ROWS:
        values = {name: median(all_of, key) for name, all_of in samples.items()}
        print(f"  {title:28}{unit:>4}" + "".join(show(value, scale) for value in values.values())
              + "  " + verdict(key, values.get(OURS), best(samples, key)))
    for name, all_of in samples.items():
        for reason in {sample.reason for sample in all_of if not sample.finished}:
            print(f"  {name}: {reason or 'not finished in time'}")


def measure(link: str, workload: str, pki: Pki, runs: int,
            contenders: list[str]) -> dict[str, list[Sample]]:
    samples = {name: [] for name in contenders}
    for _ in range(runs):
        for name in contenders:
            try:
                samples[name].append(run_once(name, link, workload, pki))
            except LabError as error:
                print(f"{link} {workload} {name}: {error}", file=sys.stderr, flush=True)
    print_table(link, workload, samples)
    return samples


def print_breaks(record: dict) -> None:
    """Beside the same link without breaks."""
    for workload in WORKLOADS:
        with_breaks, without = (record.get(link, {}).get(workload) for link in ("breaks", "100mbit"))
        if not with_breaks or not without:
            continue
        ours, undisturbed = (median(samples[OURS], "total_ms") for samples in (with_breaks, without))
        if ours and undisturbed:
            ratio = ours / undisturbed
            print(f"\n{workload}: a break of 5 s every 30 s costs {ratio:.2f} x "
                  f"{'ok  ' if ratio <= BREAKS_TARGET else 'MISS'} at most {BREAKS_TARGET}")


# ---- with a seed ----

def rewrite(guest, megabytes: int) -> None:
    with guest.control() as control:
        before = int(control.status()["written"])
        control.write("dense", span_mb=megabytes, order="sequential")
        wait_until(lambda: int(control.status()["written"]) - before > 2 * megabytes * 256,
                   "pages to be written", 60)
        control.write("idle")


def move_seeded(link: str, pki: Pki, folder: Path, seeded: bool) -> dict:
    """One move of it; the image is on the other host already."""
    with Lab(wan=WanLink(seed=SEED, **LINKS[link])) as lab:
        guest = lab.guest("bench", memory_mb=MEMORY_MB, qemu=backports_qemu(), check=0,
                          arena_mb=SEED_ARENA_MB)
        a, b = (Agent(lab, host, pki.folder(host.name)).start() for host in lab.hosts)
        a.run(guest)
        image = folder / "bench.image"
        image.unlink(missing_ok=True)
        a.vmferry("save", guest.name, image, timeout=120).require()
        rewrite(guest, SEED_REWRITTEN_MB)
        heartbeat = settle(guest, {}, HEARTBEAT_MS)
        ruler = Ruler(lab, heartbeat, a.guest_pid(guest), [a.pid, b.pid])
        ruler.start()
        options = ("--seed", str(image)) if seeded else ()
        report = a.begin_migrate(guest, b, *OPTIONS, *options).finish().json
        ruler.stop(qemu_pids(lab.host_b, guest))
        if report.get("status") != "completed":
            raise LabError(f"vmferry migrate: {report}")
        guest.check()
        return {"total_ms": report["total_ms"], "wire_bytes": ruler.readings()["wire_bytes"],
                "gap_ms": ruler.readings()["gap_ms"], "seed": report["seed"]}


def measure_seed(link: str, pki: Pki, runs: int) -> list[dict]:
    """With and without it in turns."""
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            samples.append({"with": move_seeded(link, pki, Path(folder), True),
                            "without": move_seeded(link, pki, Path(folder), False)})
    print(f"\na seed with {1 - SEED_REWRITTEN_MB / SEED_ARENA_MB:.0%} of {SEED_ARENA_MB} MiB, "
          f"link {link}: {' '.join(f'{key} {value}' for key, value in LINKS[link].items())}\n")
    print(f"  {'':32}{'without':>12}{'with':>12}  ratio   target")
    for key, title, unit, scale in ROWS:
        if key not in samples[0]["with"]:
            continue
        values = [statistics.median(sample[which][key] for sample in samples)
                  for which in ("without", "with")]
        ratio = values[1] / values[0] if values[0] else 0
        target = ""
        if key == "wire_bytes":
            target = f"{'ok  ' if ratio <= SEED_TARGET else 'MISS'} at most {SEED_TARGET}"
        print(f"  {title:28}{unit:>4}" + "".join(show(value, scale) for value in values)
              + f"  {ratio:6.2f}   {target}")
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", action="append", choices=LINKS)
    parser.add_argument("--workload", action="append", choices=WORKLOADS)
    parser.add_argument("--contender", action="append", choices=(OURS, *PEERS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", action="store_true",
                        help="only moves with a saved image at the destination, beside ones without")
    arguments = parser.parse_args()
    record = {}
    with tempfile.TemporaryDirectory() as folder:
        pki = Pki(Path(folder), HOSTS)
        for link in (arguments.link or ("100mbit", "20mbit")) if arguments.seed else ():
            record.setdefault("seed", {})[link] = measure_seed(link, pki, arguments.runs)
        for link in () if arguments.seed else arguments.link or LINKS:
            for workload in arguments.workload or WORKLOADS:
                record.setdefault(link, {})[workload] = measure(
                    link, workload, pki, arguments.runs, arguments.contender or (OURS, *PEERS))
    print_breaks(record)
    results = HERE / "results" / time.strftime("wan-%Y%m%d-%H%M%S.json")
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(record, default=dataclasses.asdict, indent=1))
    print(f"\nSamples: {results.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
