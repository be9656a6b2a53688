"""Our tables of QEMU's device state (src/state/qemu_layout.h) are those that each QEMU itself describes.

A machine runs for a moment and is stopped; then its state is taken without a description
(xen-save-devices-state, what vmferry reads) and with one (`migrate`).
"""

import json
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from vmferry_lab import REPOSITORY, images, system_qemu
from vmferry_lab.cache import cache_lock
from vmferry_lab.process import wait_until
from vmferry_lab.qmp import Qmp

TOOLS = REPOSITORY / "build/tests/unit/state"
DISK = "driver=null-co,node-name=disk,size=16777216,read-zeroes=on"
MACHINES = {
    "pc": ["-M", "pc", "-cpu", "max", "-smp", "2", "-blockdev", DISK, "-device", "ide-hd,drive=disk"],
    "pc-small": ["-M", "pc,hpet=off,acpi=off", "-nodefaults", "-device", "e1000", "-device", "VGA"],
    "microvm": ["-M", "microvm", "-blockdev", DISK, "-device", "virtio-blk-device,drive=disk",
                "-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net", "-device", "virtio-rng-device"],
}
# QEMU describes it more finely from 8.2 on; these are the same 104 bytes.
MORE_FINELY = {"globalstate"}


class Machine:
    """A QEMU of the test's own."""

    def __init__(self, qemu, arguments, folder):
        folder.mkdir()
        self._folder = folder
        command = [*qemu.command, *arguments, "-display", "none", "-no-user-config",
                   "-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.qmp = Qmp(folder / "qmp", timeout=10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def save(self) -> Path:
        """What vmferry reads of it."""
        self.qmp.execute("xen-save-devices-state", filename=str(self._folder / "saved"), live=False)
        return self._folder / "saved"

    def migrate(self) -> bytes:
        self.qmp.execute("migrate", uri=f"exec:cat > {self._folder / 'migrated'}")
        wait_until(lambda: self.qmp.execute("query-migrate")["status"] == "completed", "migration", 60)
        return (self._folder / "migrated").read_bytes()


def description_of(stream: bytes) -> dict:
    """The last section: type 6, its length, JSON."""
    for at in range(len(stream) - 6, 0, -1):
        if stream[at] == 6 and struct.unpack_from(">I", stream, at + 1)[0] == len(stream) - at - 5:
            return json.loads(stream[at + 5:])
    raise AssertionError("a stream without a description")


def described(entry: dict):
    """(name, type, bytes) of each field that QEMU says is there, in order."""
    for field in entry.get("fields", []):
        inner = field.get("struct") or (field if field["type"] == "tmp" else None)
        for _ in range(field.get("array_len", 1)):
            if inner:
                yield from described(inner)
        if not inner:
            yield field["name"], field["type"], field["size"] * field.get("array_len", 1)
    for subsection in entry.get("subsections", []):
        yield subsection["vmsd_name"], "subsection", subsection["version"]
        yield from described(subsection)


def found(record: dict):
    """The same of what our reader finds."""
    for field in record["fields"]:
        for inner in field.get("records", []):
            yield from found(inner)
        if "records" not in field:
            yield field["name"], field["type"], field["bytes"]
    for subsection in record["subsections"]:
        yield subsection["layout"], "subsection", subsection["version"]
        yield from found(subsection)


def check_section(device: dict, section: dict):
    name = device["name"]
    assert (section["name"], section["instance"]) == (name, device["instance_id"])
    if "record" not in section:
        assert name == "slirp" and section["opaque"] == device["size"]
        return
    ours, theirs = list(found(section["record"])), list(described(device))
    if "virtio" in name or name in MORE_FINELY:
        assert sum_of(ours) == sum_of(theirs), name
        return
    assert len(ours) == len(theirs), name
    for mine, wanted in zip(ours, theirs):
        assert wanted[0] in mine[0].split(",") and mine[1:] == wanted[1:], name


def sum_of(fields) -> int:
    """Bytes, with what stands before each subsection."""
    return sum(len(name) + 6 if kind == "subsection" else size for name, kind, size in fields)


def fields_of(path: Path) -> list:
    result = subprocess.run([TOOLS / "qemu_fields", path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def capture(qemu, arguments, folder):
    """One stopped machine's state in both forms: a file, and the description."""
    with Machine(qemu, [*arguments, "-m", "64", "-serial", "null"], folder / "machine") as machine:
        time.sleep(1.5)  # into the firmware, wherever that is by then
        machine.qmp.execute("stop")
        return machine.save(), description_of(machine.migrate())


@pytest.mark.parametrize("machine", MACHINES)
def test_tables_are_what_qemu_describes(any_qemu, machine, tmp_path):
    saved, description = capture(any_qemu, MACHINES[machine], tmp_path)
    sections = fields_of(saved)
    devices = [device for device in description["devices"] if device["name"] != "ram"]
    assert len(sections) == len(devices) > 10
    for device, section in zip(devices, sections):
        check_section(device, section)


@pytest.mark.long
def test_devices_without_a_table_are_carried(any_qemu, tmp_path):
    """Whatever it is, the stream is written again as it was."""
    more = ["-device", "virtio-balloon-pci", "-device", "virtio-scsi-pci", "-device", "usb-ehci", "-device", "intel-hda"]
    saved, _ = capture(any_qemu, [*MACHINES["pc"], *more], tmp_path)
    opaque = {section["name"].split("/")[-1] for section in fields_of(saved) if "opaque" in section}
    assert {"virtio-balloon", "intel-hda"} <= opaque


# ---- a guest goes on from the neutral state ----

INIT = """#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
busybox dd if=/dev/urandom of=/blob bs=1M count=4 2>/dev/null
sum=$(busybox md5sum /blob)
n=0
while true; do
    n=$((n+1))
    [ "$sum" = "$(busybox md5sum /blob)" ] && memory=good || memory=BAD
    echo "beat $n up $(busybox cut -d' ' -f1 /proc/uptime) memory $memory" >/dev/ttyS0
    busybox sleep 0.3
done
"""


def make_initramfs(folder: Path) -> Path:
    tree = folder / "tree"
    for name in ("bin", "proc", "dev"):
        (tree / name).mkdir(parents=True)
    with cache_lock():
        shutil.copy(images.fetch_busybox(), tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    (tree / "init").write_text(INIT)
    for program in (tree / "init", tree / "bin/busybox"):
        program.chmod(0o755)
    archive = folder / "initramfs.cpio"
    with archive.open("wb") as out:
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names.encode(), stdout=out, check=True)
    return archive


def beats(console: Path) -> list[tuple[int, float]]:
    """(number, uptime) of each; all with good memory, and nothing said of clocks."""
    text = console.read_text(errors="replace") if console.exists() else ""
    assert "BAD" not in text and "clocksource" not in text.partition("beat")[2], text
    return [(int(n), float(up)) for n, up in re.findall(r"beat (\d+) up ([\d.]+) memory good", text)]


def end_of_memory(stream: bytes) -> int:
    """Where the first device's section begins: "timer", of type 4 (FULL)."""
    return next(found.start() - 5 for found in re.finditer(rb"\x05timer\0\0\0\0", stream)
                if stream[found.start() - 5] == 4)


@pytest.mark.long
@pytest.mark.parametrize("vcpus", ["1", "2"])
def test_a_guest_goes_on_from_the_neutral_state(any_qemu, vcpus, tmp_path):
    """Its state comes out of QEMU 7.2 and goes, as JSON, over that of a machine that has not run."""
    kernel = images.guest_image(False).kernel
    line = ["-M", "pc-i440fx-7.2", "-m", "128", "-smp", vcpus, "-kernel", str(kernel), "-initrd",
            str(make_initramfs(tmp_path)), "-append", "console=ttyS0 loglevel=5 panic=-1",
            "-blockdev", DISK, "-device", "ide-hd,drive=disk"]
    first, second, translated = tmp_path / "first", tmp_path / "second", tmp_path / "translated"
    with Machine(system_qemu(), [*line, "-serial", f"file:{first}"], tmp_path / "a") as machine:
        wait_until(lambda: len(beats(first)) >= 3, "the guest", 60)
        machine.qmp.execute("stop")
        saved, stream = machine.save(), machine.migrate()
    with Machine(any_qemu, [*line, "-serial", "null", "-S"], tmp_path / "b") as machine:
        template = machine.save()
    subprocess.run([TOOLS / "state_translate", saved, template, translated], check=True)
    moved = tmp_path / "moved"
    moved.write_bytes(stream[:end_of_memory(stream)] + translated.read_bytes()[8:] + b"\x06\0\0\0\2{}")
    with Machine(any_qemu, [*line, "-serial", f"file:{second}", "-incoming", f"exec:cat {moved}"], tmp_path / "c"):
        wait_until(lambda: len(beats(second)) >= 5, "the guest, somewhere else", 60)
    last, following = beats(first)[-1], beats(second)
    assert [n for n, _ in following] == list(range(last[0] + 1, last[0] + 1 + len(following)))
    assert last[1] < following[0][1] < last[1] + 5
