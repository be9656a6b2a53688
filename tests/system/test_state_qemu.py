"""Our tables of QEMU's device state (src/state/qemu_layout.h) are those that each QEMU itself describes.

A machine runs for a moment and is stopped; then its state is taken without a description
(xen-save-devices-state, what vmferry reads) and with one (`migrate`).
"""

import json
import os
import struct
import subprocess
import time
from pathlib import Path

import pytest

from vmferry_lab.process import wait_until
from vmferry_lab.qmp import Qmp

TOOL = Path(os.environ.get("VMFERRY_BUILD", Path(__file__).parents[2] / "build")) / "tests/unit/state/qemu_fields"
DISK = "driver=null-co,node-name=disk,size=16777216,read-zeroes=on"
MACHINES = {
    "pc": ["-M", "pc", "-cpu", "max", "-smp", "2", "-blockdev", DISK, "-device", "ide-hd,drive=disk"],
    "pc-small": ["-M", "pc,hpet=off,acpi=off", "-nodefaults", "-device", "e1000", "-device", "VGA"],
    "microvm": ["-M", "microvm", "-blockdev", DISK, "-device", "virtio-blk-device,drive=disk",
                "-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net", "-device", "virtio-rng-device"],
}
# QEMU describes it more finely from 8.2 on; these are the same 104 bytes.
MORE_FINELY = {"globalstate"}


class Captured:
    """One stopped machine's state in both forms."""

    def __init__(self, qemu, arguments, folder, seconds):
        qmp_path, self.saved = folder / "qmp", folder / "saved"
        command = [*qemu.command, *arguments, "-m", "64", "-display", "none", "-serial", "null",
                   "-no-user-config", "-qmp", f"unix:{qmp_path},server=on,wait=off"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._capture(Qmp(qmp_path, timeout=10), folder, seconds)
        finally:
            process.kill()
            process.wait()

    def _capture(self, qmp, folder, seconds):
        time.sleep(seconds)  # into the firmware, wherever that is by then
        qmp.execute("stop")
        qmp.execute("xen-save-devices-state", filename=str(self.saved), live=False)
        qmp.execute("migrate", uri=f"exec:cat > {folder / 'migrated'}")
        wait_until(lambda: qmp.execute("query-migrate")["status"] == "completed", "migration", 60)
        self.description = description_of((folder / "migrated").read_bytes())


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
    result = subprocess.run([TOOL, path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("machine", MACHINES)
def test_tables_are_what_qemu_describes(any_qemu, machine, tmp_path):
    captured = Captured(any_qemu, MACHINES[machine], tmp_path, seconds=1.5)
    sections = fields_of(captured.saved)
    devices = [device for device in captured.description["devices"] if device["name"] != "ram"]
    assert len(sections) == len(devices) > 10
    for device, section in zip(devices, sections):
        check_section(device, section)


@pytest.mark.long
def test_devices_without_a_table_are_carried(any_qemu, tmp_path):
    """Whatever it is, the stream is written again as it was."""
    more = ["-device", "virtio-balloon-pci", "-device", "virtio-scsi-pci", "-device", "usb-ehci", "-device", "intel-hda"]
    captured = Captured(any_qemu, [*MACHINES["pc"], *more], tmp_path, seconds=1.5)
    assert {"virtio-balloon", "intel-hda"} <= {section["name"].split("/")[-1] for section in fields_of(captured.saved)
                                               if "opaque" in section}
