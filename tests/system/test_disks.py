"""Disks that only one host has move along, while the guest writes to them."""

from dataclasses import dataclass, field

import pytest

from disks import (DATA_MB, LocalImage, blockdev, check_retired, copied, drive, run_with,
                   there_and_back)


@dataclass
class Row:
    """A disk of a guest, in one of the many ways that there are."""
    name: str
    format: str = "raw"
    options: str = ""
    attach: object = drive
    with_: dict = field(default_factory=dict)
    extra: tuple = ()
    words: str = ""
    long: bool = False


ROWS = [
    Row("raw"),
    Row("raw-writeback-blockdev", attach=blockdev, with_={"cache": {"direct": False}}, long=True),
    Row("raw-writethrough", with_={"cache": "writethrough"}, long=True),
    Row("raw-scsi-unsafe", with_={"cache": "unsafe", "device": "scsi-hd"},
        extra=("-device", "virtio-scsi-pci"), words="lab.disk=sda"),
    Row("raw-ide-writeback", with_={"cache": "writeback", "device": "ide-hd"},
        words="lab.disk=sda lab.ide=1"),
    Row("raw-iothread", attach=blockdev, with_={"device": "virtio-blk-pci,iothread=io0"},
        extra=("-object", "iothread,id=io0")),
    Row("qcow2-writeback", "qcow2", with_={"cache": "writeback"}),
    Row("qcow2-blockdev", "qcow2", attach=blockdev, long=True),
    Row("qcow2-compat-0.10", "qcow2", "compat=0.10", with_={"cache": "writethrough"}),
    Row("qcow2-large-clusters-lazy", "qcow2", "cluster_size=2M,lazy_refcounts=on", long=True),
    Row("qcow2-small-clusters", "qcow2", "cluster_size=4k", attach=blockdev, long=True),
    Row("qcow2-extended-l2-iothread", "qcow2", "extended_l2=on,cluster_size=128k",
        attach=blockdev, with_={"device": "virtio-blk-pci,iothread=io0"},
        extra=("-object", "iothread,id=io0")),
    Row("qcow2-scsi", "qcow2", with_={"device": "scsi-hd", "more": ",discard=unmap"},
        extra=("-device", "virtio-scsi-pci"), words="lab.disk=sda", long=True),
    Row("qcow2-ide", "qcow2", with_={"device": "ide-hd"}, words="lab.disk=sda lab.ide=1", long=True),
    Row("qcow2-zlib-detect-zeroes", "qcow2", "compression_type=zlib",
        with_={"more": ",detect-zeroes=unmap,discard=unmap"}, long=True),
]


@pytest.mark.parametrize("row", [
    pytest.param(row, id=row.name, marks=[pytest.mark.long] if row.long else []) for row in ROWS])
def test_disk_moves_along(scene, any_qemu, row):
    image = LocalImage(f"disk.{row.format}", row.format).make(scene.a, options=row.options)
    guest = run_with(scene, [*row.extra, *row.attach(image.on(scene.a), row.format, **row.with_)],
                     qemu=any_qemu, kernel_words=row.words)
    for report in there_and_back(scene, guest, image):
        disk, = copied(report).values()
        assert disk["mode"] == "copy" and disk["id"] == "disk0"
        assert disk["copied_bytes"] >= DATA_MB << 20
