#!/usr/bin/python3
"""A guest and its local disk, moved by vmferry and by QEMU as libvirt drives it, in turns.

Prints medians and ratios, and writes all samples to bench/results/.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

from contenders import LIMIT_S, move_with_vmferry, settle  # noqa: E402
from measure import BASE_SECONDS, Sample  # noqa: E402
from mirror import move_with_mirror  # noqa: E402
from vmferry_lab import Control, Lab, LabError, Pki, backports_qemu, quantile  # noqa: E402
from vmferry_lab.images import fill_image  # noqa: E402

MEMORY_MB = 1024
ARENA_MB = 64
HEARTBEAT_MS = 10
LINK = "1gbit"
HOSTS = {"hostA": "10.66.0.1", "hostB": "10.66.0.2"}
CHECK_S = 180  # for the guest's self-check
RUN_IN_S = 2   # the load before the guest is watched

MIB = 1 << 20
PAGE = 4096
WRITTEN_MB = 64  # what the guest writes to: the first blocks (lab/guest/disk.c)
PIECE_MB = 4
SIZES_MB = {"full": (8192, 2048), "quick": (1024, 256)}  # the disk, and data on it

DISK_MB_PER_SECOND = 10
COMMIT_BLOCKS = 16
LOADS = {
    "idle": {"memory": None, "disk_mb_per_second": 0},
    # Some memory too, so that there is work in memory to lose.
    "writing": {"memory": {"pattern": "dense", "mb_per_second": 2},
                "disk_mb_per_second": DISK_MB_PER_SECOND},
}

OURS = "vmferry"
LABELS = {
    OURS: "vmferry",
    "vmferry-tls": "TLS",
    "background": "QEMU",
    "blocking": "QEMU sync",
}
PEERS = {"background": "background", "blocking": "write-blocking"}  # copy-mode
DEFAULT_CONTENDERS = (OURS, *PEERS)

# What a median of ours may be at most, as a multiple of the better peer's in that figure.
TARGETS = {"wall_ms": 0.8, "wire_bytes": 0.7, "gap_ms": 0.5, "p99_ms": 1.0}
ALLOCATION_LIMIT = 1.05  # of the source's


@dataclass(frozen=True)
class Disk:
    """The guest's disk: at the same place in each host's folder."""

    format: str
    bytes: int
    template: Path

    node = "disk0"

    def on(self, host) -> Path:
        return host.path(f"disk.{self.format}")

    def options(self, host) -> list[str]:
        """As libvirt has a disk with cache='none', but for the names of its nodes."""
        direct = {"direct": True, "no-flush": False}
        storage = {"driver": "file", "filename": str(self.on(host)), "node-name": "disk0-storage",
                   "auto-read-only": True, "discard": "unmap", "cache": direct}
        top = {"driver": self.format, "node-name": self.node, "read-only": False, "cache": direct,
               "file": "disk0-storage"}
        return ["-blockdev", json.dumps(storage), "-blockdev", json.dumps(top),
                "-device", f"virtio-blk-pci,drive={self.node},write-cache=on"]


def pieces(disk_mb: int, data_mb: int):
    """Data where the guest writes, and behind that in pieces with holes between them; half of it
    text, half dense, in turns."""
    count = (data_mb - WRITTEN_MB) // PIECE_MB
    stride = (disk_mb - WRITTEN_MB) // count
    starts = [*range(0, WRITTEN_MB, PIECE_MB),
              *(WRITTEN_MB + number * stride for number in range(count))]
    for number, start in enumerate(starts):
        yield start * MIB, PIECE_MB * MIB, ("text", "dense")[number % 2]


def make_disk(folder: Path, image_format: str, size: str) -> Disk:
    disk_mb, data_mb = SIZES_MB[size]
    raw = folder / "template.raw"
    with open(raw, "wb") as image:
        image.truncate(disk_mb * MIB)
    fill_image(raw, pieces(disk_mb, data_mb))
    path = raw
    if image_format != "raw":
        path = folder / f"template.{image_format}"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", image_format, raw, path],
                       check=True)
        raw.unlink()
    return Disk(image_format, disk_mb * MIB, path)


def behind_the_written(path: Path, image_format: str) -> str:
    return (f"driver=raw,offset={WRITTEN_MB * MIB},file.driver={image_format},"
            f"file.file.driver=file,file.file.filename={path}")


def allocated(descriptor: int) -> int:
    return os.fstat(descriptor).st_blocks * 512


def fsyncs(commits) -> dict:
    values = [commit.took_ms for commit in commits]
    return {"count": len(values), "p50_ms": quantile(values, 0.5), "p99_ms": quantile(values, 0.99),
            "max_ms": max(values, default=0.0)}


class Subject:
    """The guest and its disk, from its load before a move to the checks after it."""

    def __init__(self, lab, disk: Disk, load: str):
        self._lab = lab
        self._disk = disk
        self._load = LOADS[load]
        source = disk.on(lab.host_a)
        subprocess.run(["cp", "--reflink=auto", "--sparse=always", disk.template, source],
                       check=True)
        # The image gets another name with the move.
        self._source = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        lab.at_close(lambda: os.close(self._source))
        os.fsync(self._source)
        self.guest = lab.guest("bench", memory_mb=MEMORY_MB, qemu=backports_qemu(), check=0,
                               arena_mb=ARENA_MB, extra=disk.options(lab.host_a))

    def prepare(self, guest):
        """As the contenders want it: sets the load, returns a heartbeat."""
        self._heartbeat = settle(guest, self._load["memory"], HEARTBEAT_MS)
        blocks = round(self._load["disk_mb_per_second"] * 1e6 / PAGE)
        if blocks:
            with guest.control() as control:
                control.set(disk_batch=COMMIT_BLOCKS, disk_rate=blocks)
            time.sleep(RUN_IN_S)
        return self._heartbeat

    def finish(self, sample: Sample) -> None:
        """Adds the disk's figures; checks all memory, and all of the disk."""
        there = self._disk.on(self._lab.host_b)
        sample.disk = {"source_bytes": allocated(self._source),
                       "target_bytes": there.stat().st_blocks * 512}
        with Control(self._lab.client, self.guest.ip, CHECK_S) as control:
            if self._load["disk_mb_per_second"]:
                sample.disk |= self._look_at(sample, control.disk_commits())
            control.set(disk_rate=0)
            control.check()
            if self._load["disk_mb_per_second"]:
                control.check_disk()
        if "lab: BAD" in self.guest.console_text():
            raise LabError("the guest reported errors on its console")
        self._compare(there)

    def _look_at(self, sample: Sample, commits) -> dict:
        """Commits that ended during the move, and those before it."""
        order = self._heartbeat.guest_ms(sample.started_ms)
        end = self._heartbeat.guest_ms(sample.started_ms + sample.wall_ms)
        before = [one for one in commits if order - BASE_SECONDS * 1e3 <= one.end_ms < order]
        during = [one for one in commits if order <= one.end_ms <= end]
        scale = COMMIT_BLOCKS * PAGE / 1e6
        return {"before": fsyncs(before), "during": fsyncs(during),
                "before_mb_s": len(before) * scale / BASE_SECONDS,
                "during_mb_s": len(during) * scale / (sample.wall_ms / 1e3)}

    def _compare(self, there: Path) -> None:
        """What the guest does not write to is as it was made."""
        done = subprocess.run(
            ["qemu-img", "compare", "-U", "--image-opts",
             behind_the_written(self._disk.template, self._disk.format),
             behind_the_written(there, self._disk.format)], capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"the copy differs: {done.stdout}{done.stderr}")


def run_once(contender: str, disk: Disk, load: str, pki: Pki, options: list[str],
             limit_s: float) -> Sample:
    with Lab() as lab:
        lab.link.shape(LINK)
        subject = Subject(lab, disk, load)
        if contender in PEERS:
            sample = move_with_mirror(lab, subject.guest, subject.prepare, disk, PEERS[contender],
                                      limit_s)
        else:
            sample = move_with_vmferry(lab, subject.guest, subject.prepare,
                                       None if contender == OURS else pki,
                                       ["--disks", "copy", *options], limit_s)
        if not sample.finished:
            raise LabError(f"{contender}: {sample.reason}")
        subject.finish(sample)
    return sample


# ---- figures ----

def _of_disk(*keys):
    def figure(sample: Sample) -> float | None:
        value = sample.disk
        for key in keys:
            value = value.get(key) if value else None
        return value
    return figure


def _kept(sample: Sample) -> float | None:
    before = (sample.disk or {}).get("before_mb_s")
    return sample.disk["during_mb_s"] / before if before else None


# Name, title, unit, what to multiply it with, the figure itself.
ROWS = [
    ("wall_ms", "total, from the order on", "s", 1e-3, lambda sample: sample.wall_ms),
    ("total_ms", "total, self-reported", "s", 1e-3, lambda sample: sample.total_ms),
    ("copy_ms", "until the disk is in sync", "s", 1e-3,
     lambda sample: sample.copies[0]["copy_ms"] if sample.copies else None),
    ("wire_bytes", "bytes on the wire", "MB", 1e-6, lambda sample: sample.wire_bytes),
    ("gap_ms", "pause, heartbeat's gap", "ms", 1, lambda sample: sample.gap_ms),
    ("downtime_ms", "pause, self-reported", "ms", 1, lambda sample: sample.downtime_ms),
    ("disks_ms", "ending the copy, in the pause", "ms", 1,
     lambda sample: (sample.downtime_parts or {}).get("disks_ms")),
    ("lost_ms", "work in memory lost", "ms", 1, lambda sample: sample.lost_ms),
    ("kept", "written to disk, of before", "", 1, _kept),
    ("before_p50_ms", "fsync before, p50", "ms", 1, _of_disk("before", "p50_ms")),
    ("before_p99_ms", "fsync before, p99", "ms", 1, _of_disk("before", "p99_ms")),
    ("p50_ms", "fsync moving, p50", "ms", 1, _of_disk("during", "p50_ms")),
    ("p99_ms", "fsync moving, p99", "ms", 1, _of_disk("during", "p99_ms")),
    ("max_ms", "fsync moving, longest", "ms", 1, _of_disk("during", "max_ms")),
    ("allocation", "target / source allocation", "", 1,
     lambda sample: sample.disk["target_bytes"] / sample.disk["source_bytes"]),
    ("whole_cpu_s", "CPU, destination's start too", "s", 1, lambda sample: sample.whole_cpu_s),
]


def medians(samples: list[Sample]) -> dict[str, float]:
    """All figures that there are."""
    found = {}
    for name, *_, figure in ROWS:
        values = [value for one in samples if (value := figure(one)) is not None]
        if values:
            found[name] = statistics.median(values)
    return found


def verdict(name: str, figures: dict[str, dict]) -> str:
    """Of a row; empty where it has no target, or nothing to compare with."""
    ours = figures.get(OURS, {}).get(name)
    if ours is None:
        return ""
    if name == "allocation":
        return f"{'ok  ' if ours <= ALLOCATION_LIMIT else 'MISS'} at most {ALLOCATION_LIMIT}"
    theirs = [figures[peer][name] for peer in PEERS if name in figures.get(peer, {})]
    if name not in TARGETS or not theirs or min(theirs) <= 0:
        return ""
    kept = ours <= TARGETS[name] * min(theirs)
    return f"{'ok  ' if kept else 'MISS'} at most {TARGETS[name]} x"


def _number(value: float | None, scale: float = 1) -> str:
    return f"{'-':>11}" if value is None else f"{value * scale:11.2f}"


def _ratio(figures: dict[str, dict], name: str, peer: str) -> float | None:
    ours, theirs = figures[OURS].get(name), figures[peer].get(name)
    return ours / theirs if ours is not None and theirs and theirs > 0 else None


def table(title: str, figures: dict[str, dict]) -> str:
    """*figures*: medians by contender."""
    peers = [name for name in PEERS if OURS in figures and name in figures]
    head = [*(LABELS[name] for name in figures), *(f"/ {LABELS[name]}" for name in peers)]
    lines = [f"\n{title}\n", f"  {'':33}" + "".join(f"{word:>11}" for word in head)]
    for name, text, unit, scale, _ in ROWS:
        if not any(name in row for row in figures.values()):
            continue
        cells = [_number(row.get(name), scale) for row in figures.values()]
        cells += [_number(_ratio(figures, name, peer)) for peer in peers]
        lines.append(f"  {text:29}{unit:>4}{''.join(cells)}   {verdict(name, figures)}".rstrip())
    return "\n".join(lines)


# ---- the program ----

def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="moves of each contender")
    parser.add_argument("--format", choices=("raw", "qcow2"), action="append")
    parser.add_argument("--load", choices=LOADS, action="append")
    parser.add_argument("--contender", choices=LABELS, action="append")
    parser.add_argument("--quick", action="store_true", help="a disk of 1 GiB with 256 MiB of data")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds that a move may take")
    parser.add_argument("--json", action="store_true", help="samples and medians on stdout")
    parser.add_argument("--option", action="append", default=[],
                        help="one more word for `vmferry migrate`")
    return parser.parse_args()


def measure(disk: Disk, load: str, contenders, pki: Pki, arguments) -> dict:
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    for number in range(arguments.runs):
        for name, list_ in samples.items():
            print(f"{disk.format}, {load}: {name} {number + 1}/{arguments.runs}", file=sys.stderr)
            list_.append(run_once(name, disk, load, pki, arguments.option, arguments.limit))
    return {"format": disk.format, "load": load, "disk_bytes": disk.bytes,
            "medians": {name: medians(list_) for name, list_ in samples.items()},
            "samples": {name: [dataclasses.asdict(one) for one in list_]
                        for name, list_ in samples.items()}}


def main() -> None:
    arguments = parse_arguments()
    size = "quick" if arguments.quick else "full"
    contenders = tuple(dict.fromkeys(arguments.contender or DEFAULT_CONTENDERS))
    results = []
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs", file=sys.stderr)
    print("left out: virsh migrate --copy-storage-all "
          + ("(not driven by this program)" if shutil.which("virsh") else "(not installed)"),
          file=sys.stderr)
    # Beside the folders of the hosts, so that images are copied within one file system.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pki = Pki(folder, HOSTS)
        for image_format in arguments.format or ("raw", "qcow2"):
            disk = make_disk(folder, image_format, size)
            for load in arguments.load or LOADS:
                results.append(measure(disk, load, contenders, pki, arguments))
                disk_mb, data_mb = SIZES_MB[size]
                title = (f"{load} guest, {MEMORY_MB} MiB, {image_format} disk of {disk_mb} MiB with "
                         f"{data_mb} MiB of data, link {LINK}; medians of {arguments.runs}")
                if not arguments.json:
                    print(table(title, results[-1]["medians"]), flush=True)
            disk.template.unlink()
    text = json.dumps(results, indent=2)
    output = HERE / "results" / time.strftime("disks-%Y%m%d-%H%M%S.json")
    output.parent.mkdir(exist_ok=True)
    output.write_text(text + "\n")
    print(text if arguments.json else f"\nAll samples: {output.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
