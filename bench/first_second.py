#!/usr/bin/python3
"""What takes the guest's time in the first second of pre-copy: faults of the write protection,
waiting for its core while pages are packed, or waiting while the destination touches memory.

Moves with vmferry, with and without packing, and with QEMU, in turns.  What the guest's vCPU
thread did is read from /proc every few ms, from the first megabyte on the wire on.  Prints one
line a move, and writes all of it to bench/results/.
"""

import argparse
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

import contenders  # noqa: E402
from contenders import CONTENDERS, move_with_vmferry  # noqa: E402
from measure import Ruler  # noqa: E402
from subject import LIMIT_S, Subject  # noqa: E402
from vmferry_lab import Lab, clean, qemu_pids  # noqa: E402
from workloads import WORKLOADS  # noqa: E402

LOOK_SECONDS = 0.005
WINDOW_SECONDS = 1.0
FIRST_BYTES = 1 << 20  # on the wire: pre-copy has begun
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class ThreadTimes:
    """Of one thread, since it began; seconds."""

    user: float
    system: float
    waited: float  # able to run, with no core to run on
    faults: int

    def __sub__(self, other: "ThreadTimes") -> "ThreadTimes":
        return ThreadTimes(self.user - other.user, self.system - other.system,
                           self.waited - other.waited, self.faults - other.faults)


def thread_times(folder: Path) -> ThreadTimes:
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    waited = int((folder / "schedstat").read_text().split()[1]) / 1e9
    return ThreadTimes(int(fields[11]) / TICK, int(fields[12]) / TICK, waited, int(fields[7]))


def busiest_thread(pid: int) -> Path:
    """The vCPU of a guest that has one and uses it."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return max(tasks, key=lambda task: thread_times(task).user)


def tree_seconds(pids: list[int]) -> float:
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += (int(fields[11]) + int(fields[12])) / TICK
    return total


class Watch:
    """Looks at a move from its order on, in a thread."""

    def __init__(self, ruler: Ruler, guest):
        self.ruler = ruler
        self.guest = guest
        self.vcpu = busiest_thread(ruler.source_pid)
        self.before = thread_times(self.vcpu)
        self.since = time.monotonic()
        self.rows: list[dict] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _look(self) -> dict:
        lab = self.ruler.lab
        source, *others = self.ruler.helpers
        there = [*(others or [source]), *qemu_pids(lab.host_b, self.guest)]
        here = [source] if others else []
        return {"at_ms": time.monotonic() * 1e3, "bytes": self.ruler._all_bytes(),
                "vcpu": thread_times(self.vcpu), "here_cpu": tree_seconds(here),
                "there_cpu": tree_seconds(list(dict.fromkeys(there)))}

    def _run(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            try:
                self.rows.append(self._look())
            except (FileNotFoundError, ProcessLookupError):
                return

    def finish(self) -> None:
        self._done.set()
        self._thread.join()

    def first_second(self, interval_ms: float) -> dict:
        first_bytes = self.rows[0]["bytes"]
        rows = [row for row in self.rows if row["bytes"] - first_bytes >= FIRST_BYTES]
        rows = [row for row in rows if row["at_ms"] <= rows[0]["at_ms"] + WINDOW_SECONDS * 1e3]
        begin, end = rows[0], rows[-1]
        ms = end["at_ms"] - begin["at_ms"]
        beats = [beat for beat in self.ruler.heartbeat.beats
                 if begin["at_ms"] <= beat.arrival_ms <= end["at_ms"]]
        free = [beat for beat in self.ruler.heartbeat.beats
                if begin["at_ms"] - 3000 <= beat.arrival_ms <= self.rows[0]["at_ms"]]
        rate = (free[-1].written - free[0].written) / (free[-1].arrival_ms - free[0].arrival_ms)
        did = (beats[-1].written - beats[0].written) / (beats[-1].arrival_ms - beats[0].arrival_ms)
        gaps = sorted((later.arrival_ms - one.arrival_ms - interval_ms
                       for one, later in zip(beats, beats[1:])), reverse=True)
        used = end["vcpu"] - begin["vcpu"]
        return {"ms": ms, "free_pages_per_ms": rate, "pages_per_ms": did,
                "lost": 1 - did / rate if rate else None, "vcpu": asdict(used),
                "here_cpu": end["here_cpu"] - begin["here_cpu"],
                "there_cpu": end["there_cpu"] - begin["there_cpu"],
                "gaps_ms": gaps[:5],
                "before": asdict(begin["vcpu"] - self.before),
                "before_ms": begin["at_ms"] - self.since * 1e3}


def variants(pki=None):
    def with_options(*options):
        def move(lab, guest, prepare, own, limit_s):
            return move_with_vmferry(lab, guest, prepare, pki, (*own, *options), limit_s)
        return move

    def with_qemu(name):
        def move(lab, guest, prepare, own, limit_s):
            return CONTENDERS[name].move(lab, guest, prepare, pki, own, limit_s)
        return move

    return {"vmferry": with_options(), "vmferry, no packing": with_options("--compress", "none"),
            "xbzrle": with_qemu("xbzrle"), "multifd": with_qemu("multifd")}


def run_once(workload: str, link: str, move) -> dict:
    watches = []

    class WatchingRuler(Ruler):
        def start(self):
            super().start()
            watches.append(Watch(self, subject.guest))

        def stop(self, destination_pids):
            watches[0].finish()
            super().stop(destination_pids)

    contenders.Ruler = WatchingRuler
    with Lab() as lab:
        lab.link.shape(link)
        subject = Subject(WORKLOADS[workload], link, lab)
        sample = move(lab, subject.guest, subject.prepare, subject.workload.options, LIMIT_S[link])
        result = watches[0].first_second(10) | {"sample": asdict(sample)}
        subject.finish(sample)
    return result


def line(name: str, row: dict) -> str:
    vcpu, seconds = row["vcpu"], row["ms"] / 1e3
    lost = "-" if row["lost"] is None else f"{100 * row['lost']:.0f} %"
    per_fault = 1e6 * vcpu["system"] / vcpu["faults"] if vcpu["faults"] > 500 else 0
    gaps = " ".join(f"{gap:.0f}" for gap in row["gaps_ms"][:3])
    return (f"  {name:22} lost {lost:>6}; of each second, vCPU: user "
            f"{vcpu['user'] / seconds:.2f}, "
            f"system {vcpu['system'] / seconds:.2f} ({vcpu['faults']} faults, {per_fault:.0f} us), "
            f"waited {vcpu['waited'] / seconds:.2f}; CPU here {row['here_cpu'] / seconds:.2f}, "
            f"there {row['there_cpu'] / seconds:.2f}; gaps {gaps} ms; "
            f"whole move {row['sample']['total_ms'] / 1e3:.1f} s, "
            f"gap {row['sample']['gap_ms']:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2, help="moves of each kind")
    parser.add_argument("--link", choices=LIMIT_S, default="1gbit")
    parser.add_argument("--workload", choices=WORKLOADS, action="append")
    parser.add_argument("--contender", choices=variants(), action="append")
    arguments = parser.parse_args()
    clean()
    rows = []
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs")
    for workload in arguments.workload or ("sparse", "text", "intensive"):
        print(f"{workload}: {WORKLOADS[workload].does}", flush=True)
        for _ in range(arguments.runs):
            for name in arguments.contender or variants():
                row = run_once(workload, arguments.link, variants()[name])
                rows.append({"workload": workload, "contender": name} | row)
                print(line(name, row), flush=True)
    path = HERE / "results" / time.strftime("first-second-%Y%m%d-%H%M%S.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"All samples: {path}")


if __name__ == "__main__":
    main()
