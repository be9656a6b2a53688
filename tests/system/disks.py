"""Guests with disks that only one host has, and what must hold when these move along."""

import json
import os
import stat
import subprocess
from pathlib import Path

from findings import check_completed
from live import check_disk, make_image, monitor, user_monitor
from scene import SMALL, Scene, is_stopped
from vmferry_lab import Agent, Guest, Lab, Pki, wait_until

SIZE_MB = 80
WRITTEN_MB = 64  # the guest writes to these (lab/guest/disk.c), and to nothing behind them
DATA_MB = 6      # of random content behind them, so that there is something to copy; then a hole
SPARE_BYTES = 64 << 10


class LocalImage:
    """An image at the same place below the folder of each host."""

    def __init__(self, name: str, image_format: str = "raw", *, backing: "LocalImage | None" = None):
        self.name = name
        self.format = image_format
        self.backing = backing

    def on(self, agent: Agent) -> Path:
        return agent.host.path(self.name)

    def old_on(self, agent: Agent) -> list[Path]:
        return sorted(agent.host.directory.glob(f"{self.name}.moved-????????"))

    def make(self, agent: Agent, *, options: str = "", size_mb: int = SIZE_MB,
             data_mb: int = DATA_MB, at_mb: int = WRITTEN_MB) -> "LocalImage":
        """Makes it on a host, with *data_mb* of random content at *at_mb*."""
        path = self.on(agent)
        path.parent.mkdir(exist_ok=True)
        below = ["-b", str(self.backing.on(agent)), "-F", self.backing.format] if self.backing else []
        more = ["-o", options] if options else []
        subprocess.run(["qemu-img", "create", "-q", "-f", self.format, *more, *below, path,
                        f"{size_mb}M"], check=True)
        if data_mb:
            self.write(path, os.urandom(data_mb << 20), at_mb)
        return self

    def write(self, path: Path, content: bytes, at_mb: int) -> None:
        source = path.with_name(f"{path.name}.content")
        source.write_bytes(content)
        subprocess.run(["qemu-io", "-f", self.format, "-c",
                        f"write -q -s {source} {at_mb}M {len(content)}", path],
                       check=True, stdout=subprocess.DEVNULL)
        source.unlink()


# Points that only a guest comes by whose disks are copied (test_disks_failures.py).
DISK_POINTS = ["source.disks-made", "source.disks-begun", "source.disks-in-sync",
               "source.disks-finished", "destination.disks-made"]


# ---- a disk on a command line ----

def drive(image: Path, image_format="raw", *, id="disk0", cache="none", device="virtio-blk-pci",
          more="") -> list[str]:
    return ["-drive", f"file={image},format={image_format},if=none,id={id},cache={cache}{more}",
            "-device", f"{device},drive={id}"]


def blockdev(image: Path, image_format="raw", *, id="disk0", device="virtio-blk-pci",
             **options) -> list[str]:
    storage = {"driver": "file", "filename": str(image), "node-name": f"{id}-file",
               "cache": {"direct": True}, "discard": "unmap", **options}
    node = {"driver": image_format, "node-name": id, "file": f"{id}-file",
            "cache": {"direct": True}, "discard": "unmap"}
    return ["-blockdev", json.dumps(storage), "-blockdev", json.dumps(node),
            "-device", f"{device},drive={id}"]


def run_with(scene: Scene, extra: list[str], **options) -> Guest:
    """A guest that writes to its disk all the time; *extra* says what that is."""
    settings = {**SMALL, "disk_rate": 100, **options}
    return scene.run(**settings, extra=[*user_monitor(scene), *extra])


DISK = LocalImage("disks/disk.raw")
LARGE_MB = 24


def make_local_scene(pki: Pki) -> Scene:
    """A scene with a guest that has a local disk (disk0, DISK), to which it writes all the time, and
    a shared one (disk1)."""
    scene = Scene(Lab(), pki)
    shared = make_image(scene.lab.shared / "shared.raw", size="8M")
    DISK.on(scene.b).parent.mkdir()
    DISK.make(scene.a, data_mb=LARGE_MB, size_mb=WRITTEN_MB + LARGE_MB + 8)
    run_with(scene, [*drive(DISK.on(scene.a)), *drive(shared, id="disk1")])
    return scene


# ---- what must hold ----

def read_info(image: Path) -> dict:
    """What an image says of itself; for backing files the name only."""
    found = subprocess.run(["qemu-img", "info", "-U", "--output=json", image], check=True,
                           capture_output=True, text=True)
    info = json.loads(found.stdout)
    kept = {key: info.get(key) for key in ("format", "virtual-size", "cluster-size",
                                           "backing-filename-format", "format-specific")}
    kept["backing"] = Path(info["backing-filename"]).name if "backing-filename" in info else None
    return kept


def count_allocated(image: Path) -> int:
    return image.stat().st_blocks * 512


def check_copy(image: LocalImage, old: Path, new: Path, *, thin=True) -> None:
    """Content, format and options, owner, mode and allocation of *new* are those of *old*."""
    assert read_info(new) == read_info(old)
    compared = subprocess.run(["qemu-img", "compare", "-U", "-f", image.format, "-F", image.format,
                               old, new], capture_output=True, text=True)
    assert compared.returncode == 0, compared.stdout + compared.stderr
    for field in ("st_uid", "st_gid"):
        assert getattr(new.stat(), field) == getattr(old.stat(), field)
    assert stat.S_IMODE(new.stat().st_mode) == stat.S_IMODE(old.stat().st_mode)
    if thin:
        assert count_allocated(new) <= count_allocated(old) * 1.05 + SPARE_BYTES, (
            f"{count_allocated(old)} bytes became {count_allocated(new)}")


def move_and_compare(scene: Scene, guest: Guest, images: list[LocalImage], *options) -> dict:
    """Moves a guest that writes until it is paused.  Its new images are compared with the old ones
    when it may run there, but does not yet."""
    here, there = scene.here(guest), scene.there(guest)
    scene.restart(there, {"VMFERRY_FAULT": "destination.committed=stop@1"})
    move = here.begin_migrate(guest, there, *options)
    wait_until(lambda: is_stopped(there.pid) or move.popen.poll() is not None, "the hand-over", 60)
    if move.popen.poll() is None:
        try:
            for image in images:
                check_copy(image, image.on(here), image.on(there))
        finally:
            there.thaw()
    report = check_completed(move.finish(), verified=True if "--verify" in options else None)
    scene.has_moved(guest)
    if guest_has_disk(guest):
        check_disk(guest)
    return report


def guest_has_disk(guest: Guest) -> bool:
    with guest.control() as control:
        return control.status()["disk_blocks"] != "0"


def check_retired(scene: Scene, guest: Guest, image: LocalImage) -> Path:
    """Where the guest was, its image has another name now; that path."""
    there = scene.there(guest)
    assert not image.on(there).exists() and image.on(scene.here(guest)).exists()
    old, = image.old_on(there)
    return old


def there_and_back(scene: Scene, guest: Guest, *images: LocalImage) -> list[dict]:
    """Two moves, the guest writes all the time; the reports."""
    reports = [move_and_compare(scene, guest, list(images))]
    for image in images:
        check_retired(scene, guest, image)
    scene.beats[guest.name].wait(10)
    reports.append(scene.move(guest, "--verify"))
    for image in images:
        check_retired(scene, guest, image)
    if guest_has_disk(guest):
        check_disk(guest)
    return reports


def copied(report: dict) -> dict:
    """The disks that moved along, by their ids."""
    return {entry["id"]: entry for entry in report["copies"]}


# ---- a state to compare with ----

VOLATILE = ("actual-size", "io-status", "dirty-flag")


def read_graph(scene: Scene, guest: Guest):
    """All block nodes, drives and jobs of the guest's QEMU, without what changes by itself."""
    with monitor(scene, guest) as qmp:
        return [_without_volatile(qmp.execute(command, **arguments)) for command, arguments in (
            ("query-named-block-nodes", {"flat": True}), ("query-block", {}),
            ("query-block-jobs", {}))]


def _without_volatile(value):
    if isinstance(value, dict):
        return {key: _without_volatile(entry) for key, entry in value.items()
                if key not in VOLATILE}
    if isinstance(value, list):
        return [_without_volatile(entry) for entry in value]
    return value


def files_on(agent: Agent) -> set[str]:
    """Names in the host's folder, and in folders in it, but for what agent and lab keep there."""
    names = {path.relative_to(agent.host.directory) for path in agent.host.directory.rglob("*")
             if not path.is_dir()}
    return {str(name) for name in names
            if name.parts[0] not in ("run", "state") and not name.name.endswith((".log", ".qmp"))
            and not name.name.startswith("agent.")}
