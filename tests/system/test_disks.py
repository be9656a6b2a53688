"""Disks that only one host has move along, while the guest writes to them."""

import os
import pwd
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from disks import (DATA_MB, DISK, SIZE_MB, WRITTEN_MB, LocalImage, blockdev, check_copy,
                   check_retired, copied, drive, files_on, move_and_compare, read_graph, run_with,
                   there_and_back)
from findings import check_completed, check_failed
from live import check_disk, check_same_content, fill, make_image, monitor
from scene import SMALL

SEABIOS = [Path("/usr/share/seabios/bios-256k.bin"), Path("/usr/share/qemu/bios-256k.bin")]


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
        extra=("-device", "virtio-scsi-pci"), words="lab.disk=sda", long=True),
    Row("raw-ide-writeback", with_={"cache": "writeback", "device": "ide-hd"},
        words="lab.disk=sda lab.ide=1"),
    Row("raw-iothread", attach=blockdev, with_={"device": "virtio-blk-pci,iothread=io0"},
        extra=("-object", "iothread,id=io0"), long=True),
    Row("qcow2-writeback", "qcow2", with_={"cache": "writeback"}),
    Row("qcow2-blockdev", "qcow2", attach=blockdev, long=True),
    Row("qcow2-compat-0.10", "qcow2", "compat=0.10", with_={"cache": "writethrough"},
        long=True),
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


# ---- overlays ----

BASE_MB = 24  # of content: more than what a guest makes of its overlay in a test


def make_overlay(scene, any_format="qcow2") -> LocalImage:
    """An image on a base that holds data, with data of its own."""
    base = LocalImage("base.img", any_format).make(scene.a, size_mb=BASE_MB + WRITTEN_MB + 8,
                                                   data_mb=BASE_MB)
    return LocalImage("top.qcow2", "qcow2", backing=base).make(
        scene.a, size_mb=BASE_MB + WRITTEN_MB + 8, data_mb=1, at_mb=WRITTEN_MB + BASE_MB)


def run_on_overlay(scene, top, qemu):
    return run_with(scene, drive(top.on(scene.a), "qcow2"), qemu=qemu, disk_rate=20)


def test_overlay_and_its_base_move_along(scene, any_qemu):
    top = make_overlay(scene)
    guest = run_on_overlay(scene, top, any_qemu)
    report = move_and_compare(scene, guest, [top])
    assert copied(report)["disk0"]["copied_bytes"] >= (BASE_MB + 1) << 20
    old = check_retired(scene, guest, top)
    # Others may use a base: it keeps its name.
    assert top.backing.on(scene.a).exists()
    check_copy(top.backing, top.backing.on(scene.a), top.backing.on(scene.b))
    report = scene.move(guest, "--verify")
    check_disk(guest)
    assert copied(report)["disk0"]["copied_bytes"] < BASE_MB << 20  # the base was there
    assert top.on(scene.a).exists() and old.exists()


def test_top_on_a_base_that_is_there(scene, any_qemu):
    """The base was brought there by its user; it is proven to be the same, and not sent."""
    top = make_overlay(scene, "raw")
    shutil.copy(top.backing.on(scene.a), top.backing.on(scene.b))
    guest = run_on_overlay(scene, top, any_qemu)
    before = top.backing.on(scene.b).stat()
    for _ in range(2):
        disk, = copied(scene.move(guest, "--disks", "top", "--verify")).values()
        check_retired(scene, guest, top)
        check_disk(guest)
        assert disk["mode"] == "top" and disk["copied_bytes"] < BASE_MB << 20
    after = top.backing.on(scene.b).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.long
def test_top_on_a_shared_base(scene, any_qemu):
    base = make_image(scene.lab.shared / "base.qcow2", "qcow2", f"{SIZE_MB}M")
    top = LocalImage("top.qcow2", "qcow2")
    make_image(top.on(scene.a), "qcow2", backing=(base, "qcow2"))
    guest = run_on_overlay(scene, top, any_qemu)
    report = move_and_compare(scene, guest, [top], "--disks", "top")
    assert copied(report)["disk0"]["mode"] == "top"
    check_retired(scene, guest, top)
    scene.move(guest, "--disks", "top", "--verify")
    check_disk(guest)


@pytest.mark.long
def test_top_on_a_base_that_differs_there(scene):
    top = make_overlay(scene, "raw")
    shutil.copy(top.backing.on(scene.a), top.backing.on(scene.b))
    top.backing.write(top.backing.on(scene.b), b"other" * 4096, WRITTEN_MB)
    guest = run_on_overlay(scene, top, None)
    before = files_on(scene.b)
    check_failed(scene.migrate(guest, "--disks", "top"), top.backing.name)
    scene.check(guest)
    assert files_on(scene.b) == before


def test_top_on_a_base_that_is_not_there(scene):
    top = make_overlay(scene)
    guest = run_on_overlay(scene, top, None)
    check_failed(scene.migrate(guest, "--disks", "top"), "disk0", top.backing.name, "not there")
    scene.check(guest)
    assert not files_on(scene.b)


# ---- several disks, and things that are like disks ----

def test_one_shared_one_copied(scene, any_qemu):
    """The guest writes to the local one all the time, and to the shared one now and then."""
    shared = make_image(scene.lab.shared / "shared.raw", size="8M")
    image = LocalImage("disk.raw").make(scene.a)
    guest = run_with(scene, [*drive(image.on(scene.a)), *drive(shared, id="disk1")], qemu=any_qemu)
    fill(guest, "vdb")
    for i in range(2):
        report = scene.move(guest, "--verify")
        assert list(copied(report)) == ["disk0"]
        check_retired(scene, guest, image)
        check_disk(guest)
        check_same_content(guest, shared, device="vdb")
        fill(guest, "vdb", seed=8 + i)
    assert not list(scene.lab.shared.glob("*.moved-*"))


@pytest.mark.long
def test_three_disks(scene, any_qemu):
    images = [LocalImage("disk.raw"), LocalImage("second.qcow2", "qcow2"), LocalImage("third.raw")]
    for image in images:
        image.make(scene.a, size_mb=SIZE_MB, data_mb=2)
    guest = run_with(scene, ["-device", "virtio-scsi-pci",
                             *drive(images[0].on(scene.a)),
                             *drive(images[1].on(scene.a), "qcow2", id="disk1", device="scsi-hd"),
                             *blockdev(images[2].on(scene.a), id="disk2")], qemu=any_qemu)
    fill(guest, "sda")
    for report in there_and_back(scene, guest, *images):
        assert set(copied(report)) == {"disk0", "disk1", "disk2"}
    check_same_content(guest, images[1].on(scene.a), "qcow2", "sda")


def test_cdrom_image_that_is_not_there(scene, any_qemu):
    image = LocalImage("disk.raw").make(scene.a)
    medium = LocalImage("medium.iso").make(scene.a, size_mb=3, data_mb=2, at_mb=1)
    content = medium.on(scene.a).read_bytes()
    guest = run_with(scene, [
        *drive(image.on(scene.a)), "-device", "virtio-scsi-pci,id=scsi0",
        "-drive", f"file={medium.on(scene.a)},if=none,id=cd0,media=cdrom,format=raw",
        "-device", "scsi-cd,drive=cd0,bus=scsi0.0"], qemu=any_qemu)
    assert set(copied(scene.move(guest))) == {"disk0", "cd0"}
    assert medium.on(scene.b).read_bytes() == content
    assert medium.on(scene.a).read_bytes() == content  # others may use it
    # Back there, it is found, and proven to be the same.
    assert set(copied(scene.move(guest))) == {"disk0"}
    check_same_content(guest, medium.on(scene.a), device="sr0")


def with_flash(code, variables) -> list[str]:
    """Stock SeaBIOS in place of a UEFI, which has no use for its variables."""
    return ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
            "-drive", f"if=pflash,unit=1,format=raw,file={variables}"]


def test_firmware_variables_move_along(scene, any_qemu):
    image = LocalImage("disk.raw").make(scene.a)
    bios = next(path for path in SEABIOS if path.exists())
    code = scene.lab.shared / "code.fd"
    code.write_bytes(bios.read_bytes())
    variables = LocalImage("variables.fd")
    content = os.urandom(64 << 10) * 2
    variables.on(scene.a).write_bytes(content)
    guest = run_with(scene, [*drive(image.on(scene.a)), *with_flash(code, variables.on(scene.a))],
                     qemu=any_qemu)
    for _ in range(2):
        report = scene.move(guest, "--verify")
        assert set(copied(report)) == {"disk0", "pflash1"}
        for moved in (image, variables):
            check_retired(scene, guest, moved)
        assert variables.on(scene.here(guest)).read_bytes() == content
        check_disk(guest)
    assert code.read_bytes() == bios.read_bytes()


def run_as(qemu, user: str) -> list[str]:
    return ["-runas", user] if qemu.version.startswith("7.") else ["-run-with", f"user={user}"]


def test_guest_of_a_user(scene, any_qemu):
    """Its images belong to that user there, too."""
    user = pwd.getpwnam("daemon")
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a)
    os.chown(image.on(scene.a), user.pw_uid, user.pw_gid)
    image.on(scene.a).chmod(0o640)
    guest = scene.lab.guest(**SMALL, disk_rate=100, qemu=any_qemu, extra=[
        *drive(image.on(scene.a), "qcow2"), *run_as(any_qemu, user.pw_name)])
    for host in scene.lab.hosts:
        host.give_tap(guest.tap, user.pw_name)
    scene.a.run(guest)
    scene.watch(guest, scene.a)
    there_and_back(scene, guest, image)
    assert image.on(scene.a).stat().st_uid == user.pw_uid


def test_guest_that_its_user_has_paused(scene, any_qemu):
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a), "qcow2"), qemu=any_qemu)
    with monitor(scene, guest) as qmp:
        qmp.execute("stop")
    check_completed(scene.migrate(guest, "--verify"), verified=True)
    scene.place[guest.name] = scene.b
    old = check_retired(scene, guest, image)
    check_copy(image, old, image.on(scene.b))
    with monitor(scene, guest) as qmp:
        assert qmp.execute("query-status")["status"] == "paused"
        qmp.execute("cont")
    scene.check(guest)
    scene.move(guest, "--verify")
    check_disk(guest)


@pytest.mark.long
def test_snapshot_since_the_start(scene, any_qemu):
    """The chain of now moves, not that of the command line."""
    image = LocalImage("disk.raw").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a)), qemu=any_qemu)
    overlay = LocalImage("overlay.qcow2", "qcow2", backing=image)
    with monitor(scene, guest) as qmp:
        qmp.execute("blockdev-snapshot-sync", device="disk0", format="qcow2",
                    **{"snapshot-file": str(overlay.on(scene.a))})
    there_and_back(scene, guest, overlay)


@pytest.mark.long
def test_image_with_a_snapshot_inside_is_named(scene):
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a)
    subprocess.run(["qemu-img", "snapshot", "-c", "before", image.on(scene.a)], check=True)
    guest = run_with(scene, drive(image.on(scene.a), "qcow2"))
    check_failed(scene.migrate(guest, "--disks", "copy"), "disk0", "snapshot")
    scene.check(guest)


# ---- choices ----

def test_auto_leaves_shared_images_alone(local):
    guest = local.guest
    report = local.move(guest)
    assert list(copied(report)) == ["disk0"]
    assert {entry["same_by"] for entry in report["disks"]} == {"copied", "lock"}
    assert (local.lab.shared / "shared.raw").exists()


@pytest.mark.long
def test_each_disk_as_its_user_wants(local):
    report = local.move(local.guest, "--disks", "shared", "--disk", "disk0=copy")
    assert list(copied(report)) == ["disk0"]


@pytest.mark.parametrize("options, words", [
    (["--disk", "disk9=copy"], ["no disk", "disk9", "it has", "disk0", "disk1"]),
    (["--disk", "disk1=copy"], ["disk1", "very same", "share"]),
    (["--disk", "disk1=copy", "--overwrite"], ["disk1", "very same"]),
    pytest.param(["--disks", "shared"], ["disk.raw"], marks=pytest.mark.long),
], ids=["unknown-disk", "shared-image", "shared-image-overwritten", "local-as-shared"])
def test_choice_that_cannot_be(local, options, words):
    guest, there = local.guest, local.there(local.guest)
    before, graph = files_on(there), read_graph(local, guest)
    shared = (local.lab.shared / "shared.raw").stat()
    check_failed(local.migrate(guest, *options), *words)
    local.check(guest)
    assert files_on(there) == before and read_graph(local, guest) == graph
    after = (local.lab.shared / "shared.raw").stat()
    assert (shared.st_ino, shared.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("option", ["--disk=disk0", "--disk=disk0=clone", "--disk==copy",
                                    "--disks=all"])
def test_choice_that_is_not_understood(local, option):
    result = local.migrate(local.guest, option)
    check_failed(result, option.partition("=")[0], exit_code=2)


def existing_file(scene):
    """A file of somebody else where the disk is to come."""
    path = DISK.on(scene.there(scene.guest))
    path.write_bytes(b"somebody's" * 1000)
    return path


@pytest.mark.parametrize("options", [
    ["--disk", "disk0=copy"], pytest.param([], marks=pytest.mark.long)], ids=["copy", "auto"])
def test_existing_file_is_not_touched(local, options):
    """A file that is there is not the guest's."""
    path = existing_file(local)
    before = path.stat()
    check_failed(local.migrate(local.guest, *options), "exists", "--overwrite")
    local.check(local.guest)
    assert path.read_bytes() == b"somebody's" * 1000
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    path.unlink()
    local.move(local.guest)


def test_overwriting(local):
    """What was there comes back after a move that fails, and goes with one that works."""
    guest, there = local.guest, local.there(local.guest)
    path = existing_file(local)
    before = path.stat()
    with local.changed(there, env={"VMFERRY_FAULT": "destination.before-ready=fail@1"}):
        check_failed(local.migrate(guest, "--disk", "disk0=copy", "--overwrite"), "before-ready")
        local.check(guest)
        assert path.stat().st_ino == before.st_ino
        assert path.read_bytes() == b"somebody's" * 1000
    local.move(guest, "--disk", "disk0=copy", "--overwrite", "--verify")
    assert path.stat().st_ino != before.st_ino
    assert not [name for name in files_on(there) if "replaced" in name]
    check_disk(guest)


@pytest.mark.long
def test_keep(local):
    guest, here = local.guest, local.here(local.guest)
    old = DISK.old_on(here)
    local.move(guest, "--keep")
    assert DISK.on(here).exists() and DISK.old_on(here) == old
    DISK.on(here).unlink()


def test_delete_source(local):
    guest, here = local.guest, local.here(local.guest)
    for old in DISK.old_on(here):
        old.unlink()
    local.move(guest, "--delete-source", "--verify")
    assert not DISK.on(here).exists() and not DISK.old_on(here)
    check_disk(guest)


@pytest.mark.long
def test_two_guests_at_a_time(scene, any_qemu):
    guests, images = [], []
    for number in (1, 2):
        image = LocalImage(f"web{number}.qcow2", "qcow2").make(scene.a)
        guest = scene.run(f"web{number}", **SMALL, disk_rate=50, qemu=any_qemu,
                          extra=drive(image.on(scene.a), "qcow2"))
        images.append(image)
        guests.append(guest)
    for _ in range(2):
        moves = [scene.here(guest).begin_migrate(guest, scene.there(guest), "--verify")
                 for guest in guests]
        for guest, move in zip(guests, moves):
            check_completed(move.finish(), verified=True)
            scene.place[guest.name] = scene.there(guest)
        for guest, image in zip(guests, images):
            scene.check(guest)
            check_disk(guest)
            check_retired(scene, guest, image)


# ---- a guest that is faster than the link ----

@pytest.mark.parametrize("options", [
    pytest.param([], marks=pytest.mark.long), ["--deadline", "6s"]], ids=["no-limit", "deadline"])
def test_guest_faster_than_the_link(scene, any_qemu, options):
    """6 MB/s of link for 12 MB/s of writes: the copy slows its writes down, or the move is given up in
    time; the guest is never away for long."""
    image = LocalImage("disk.raw").make(scene.a, size_mb=128, data_mb=48 if options else DATA_MB)
    guest = run_with(scene, drive(image.on(scene.a)), qemu=any_qemu, disk_rate=3000)
    scene.lab.link.shape("50mbit")
    scene.beats[guest.name].wait(20)
    begun = time.monotonic() * 1e3
    result = scene.migrate(guest, *options)
    assert scene.beats[guest.name].largest_gap_ms(begun) < 8000
    if options:
        check_failed(result, "disk0", "deadline")
        scene.check(guest)
    else:
        check_completed(result)
        scene.has_moved(guest)
    check_disk(guest)
