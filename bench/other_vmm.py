#!/usr/bin/python3
"""The same guest between two QEMUs and between QEMU and Bochs, in turns.

Prints medians, and writes all samples to bench/results/.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "lab"), str(HERE.parent / "tests" / "system")]

from other_vmm import BEAT, PC, Beat  # noqa: E402
from vmferry_lab import Agent, GuestHarmed, Lab, LabError, Pki, wait_until  # noqa: E402

HOSTS = {"hostA": "10.66.0.1", "hostB": "10.66.0.2"}
GUEST = {**PC, "pages_per_second": 100}
PAGES_PER_MS = GUEST["pages_per_second"] / 1e3
BEATS_BEFORE = 3
BEATS_AFTER = 3
LOOK_S = 0.005

# In this order the guest is where the next one begins: words for `vmferry migrate`, and what it is in afterwards.
MOVES = {
    "own": ([], "qemu"),
    "neutral": (["--vmm", "qemu"], "qemu"),
    "to-bochs": (["--vmm", "bochs"], "bochs"),
    "from-bochs": (["--vmm", "qemu"], "qemu"),
}
TITLES = ("QEMU-QEMU", "neutral", "QEMU-Bochs", "Bochs-QEMU")
LOADING = "prepare_ms"  # of the downtime's parts: the destination loads the state

# What the downtime may be at most, as a multiple of the first one's.
DOWNTIME_LIMIT = 1.1

PARTS = ("pause_ms", "disks_ms", "pages_ms", "save_ms", "verify_ms", "prepare_ms", "start_ms")
ROWS = [
    ("total_ms", "total time", "ms"),
    ("downtime_ms", "downtime, self-reported", "ms"),
    ("rest_ms", "  without the loading", "ms"),
    *((part, f"  {part.removesuffix('_ms')}", "ms") for part in PARTS),
    ("gap_ms", "guest's clock stood, by its beats", "ms"),
    ("lost_ms", "guest's own work lost", "ms"),
    ("rounds", "rounds", ""),
    ("wire_mb", "bytes on the wire", "MB"),
    ("moments", "moments waited for", ""),
]


class Console:
    """What the guest says, with the time at which it was heard."""

    def __init__(self, guest):
        self._files = {"qemu": guest.console, "bochs": guest.console.with_name(guest.console.name + ".bochs")}
        self.heard: list[tuple[float, Beat]] = []
        self._known: set[Beat] = set()
        self._ends = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ends = True
        self._thread.join()

    def wait(self, beats: int) -> None:
        wanted = len(self.heard) + beats
        wait_until(lambda: len(self.heard) >= wanted, f"{beats} beats", 120)

    def _listen(self) -> None:
        sizes = {}
        while not self._ends:
            for path in self._files.values():
                size = path.stat().st_size if path.exists() else 0
                if sizes.get(path, 0) != size:
                    sizes[path] = size
                    self._take(path.read_text(errors="replace"))
            time.sleep(LOOK_S)

    def _take(self, text: str) -> None:
        """A file holds beats that were heard before."""
        now = time.monotonic() * 1e3
        for match in BEAT.finditer(text[:text.rfind("\n") + 1]):
            beat = Beat(*map(int, match.groups()))
            if beat not in self._known:
                self._known.add(beat)
                self.heard.append((now, beat))


@dataclass
class Sample:
    move: str
    total_ms: float
    downtime_ms: float
    parts: dict
    gap_ms: float
    lost_ms: float
    rounds: int
    wire_bytes: int
    moments: int

    def figures(self) -> dict[str, float]:
        return {**{part: self.parts[part] for part in PARTS}, "total_ms": self.total_ms,
                "downtime_ms": self.downtime_ms, "rest_ms": self.downtime_ms - self.parts[LOADING],
                "gap_ms": self.gap_ms, "lost_ms": self.lost_ms, "rounds": self.rounds,
                "wire_mb": self.wire_bytes / 1e6, "moments": self.moments}


class Subject:
    """A guest, its two agents, and where it is."""

    def __init__(self, lab: Lab, pki: Pki):
        self.here, self.there = (Agent(lab, host, pki.folder(host.name)) for host in lab.hosts)
        for agent in (self.here, self.there):
            lab.at_close(lambda agent=agent: agent.process and agent.process.kill())
            agent.start()
        self.guest = lab.guest("web1", **GUEST)
        self.here.run(self.guest)
        self.console = Console(self.guest)
        lab.at_close(self.console.close)

    def move(self, name: str) -> Sample:
        words, vmm = MOVES[name]
        self.console.wait(BEATS_BEFORE)
        first = len(self.console.heard) - 1
        result = self.here.migrate(self.guest, self.there, *words)
        if result.exit_code:
            raise LabError(f"{name}: {result.stdout}{result.stderr}")
        self.here, self.there = self.there, self.here
        if self.here.status(self.guest)["vmm"] != vmm:
            raise LabError(f"{name}: it does not run in {vmm}")
        self.console.wait(BEATS_AFTER)
        report = result.json
        return Sample(name, report["total_ms"], report["downtime_ms"], report["downtime_parts"],
                      *self._gap_and_loss(first), len(report["rounds"]), report["wire_bytes"],
                      (report.get("neutral") or {}).get("moments", 0))

    def _gap_and_loss(self, first: int) -> tuple[float, float]:
        """From the last beat before the order on: how much longer than the guest's own clock says two beats
        were apart at most; how much less it wrote than it should have by its own clock."""
        heard = self.console.heard[first:]
        self._check([beat for _, beat in heard])
        gaps = [(late - early) - (after.guest_ms - before.guest_ms)
                for (early, before), (late, after) in zip(heard, heard[1:])]
        begin, end = heard[0][1], heard[-1][1]
        missing = (end.guest_ms - begin.guest_ms) * PAGES_PER_MS - (end.written - begin.written)
        return max(0.0, *gaps), max(0.0, missing / PAGES_PER_MS)

    @staticmethod
    def _check(beats: list[Beat]) -> None:
        for before, after in zip(beats, beats[1:]):
            if after.errors or not 0 < after.guest_ms - before.guest_ms < 4000:
                raise GuestHarmed(f"{before}, then {after}")


def medians(samples: list[Sample]) -> dict[str, float]:
    figures = [sample.figures() for sample in samples]
    return {key: statistics.median(one[key] for one in figures) for key, *_ in ROWS}


def print_table(of: dict[str, dict], runs: int) -> None:
    print(f"\n{GUEST['memory_mb']} MiB, {GUEST['pages_per_second']} pages/s, TLS; medians of {runs} moves each\n")
    print(f"  {'':38}" + "".join(f"{title:>12}" for title in TITLES))
    for key, title, unit in ROWS:
        print(f"  {title:34}{unit:>4}" + "".join(f"{of[name][key]:12.2f}" for name in MOVES))
    for name in list(MOVES)[1:]:
        figure = "rest_ms" if name == "to-bochs" else "downtime_ms"
        ratio = of[name][figure] / of["own"]["downtime_ms"]
        print(f"  {'ok  ' if ratio <= DOWNTIME_LIMIT else 'MISS'} {name}: downtime {ratio:.2f} x that of two QEMUs "
              f"by their own form (at most {DOWNTIME_LIMIT} x; loading in Bochs left out)")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="moves of each kind")
    parser.add_argument("--json", action="store_true", help="samples and medians on stdout")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    samples = {name: [] for name in MOVES}
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder, Lab() as lab:
        subject = Subject(lab, Pki(Path(folder), HOSTS))
        for number in range(arguments.runs):
            for name, list_ in samples.items():
                print(f"{name} {number + 1}/{arguments.runs}", file=sys.stderr)
                list_.append(subject.move(name))
    figures = {name: medians(list_) for name, list_ in samples.items()}
    text = json.dumps({"medians": figures, "samples": {
        name: [dataclasses.asdict(one) for one in list_] for name, list_ in samples.items()}}, indent=2)
    output = HERE / "results" / time.strftime("other-vmm-%Y%m%d-%H%M%S.json")
    output.parent.mkdir(exist_ok=True)
    output.write_text(text + "\n")
    if arguments.json:
        print(text)
    else:
        print_table(figures, arguments.runs)
        print(f"\nAll samples: {output.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
