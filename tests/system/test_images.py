"""The destination must open the same images: proven before the guest leaves, or refused."""

import os
import shutil
import subprocess
import time

import pytest

from findings import check_completed, check_failed
from live import check_disk, check_same_content, make_image, monitor, run_live
from scene import SMALL, wait_progress
from vmferry_lab import wait_until


def same_by(report):
    return {disk["device"]: disk["same_by"] for disk in report["disks"]}


def test_shared_image_is_proven_by_a_lock(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    report = scene.move(guest)
    assert list(same_by(report).values()) == ["lock"]
    assert report["disks"][0]["destination"] == str(guest.disk)
    shown = scene.b.vmferry("migrate", guest.name, scene.a.address)  # and back, for a person
    assert shown.exit_code == 0
    assert "1 image, the same there: a lock set by one host was seen by the other" in shown.stdout
    scene.has_moved(guest)


# As on storage that carries neither locks nor times between the hosts.
SHARES_NOTHING = "source.image-lock=fail,source.image-token=fail"


@pytest.mark.parametrize("missing, proof", [("source.image-lock", "token"),
                                            ("source.image-lock,source.image-token", "content")])
def test_image_on_storage_that_shares_less(scene, missing, proof):
    """As if locks were not carried between the hosts, and then not times either."""
    guest = run_live(scene)
    faults = ",".join(f"{name}=fail" for name in missing.split(","))
    with scene.changed(scene.a, env={"VMFERRY_FAULT": faults}):
        report = check_completed(scene.migrate(guest))
        assert list(same_by(report).values()) == [proof]
        scene.has_moved(guest)
    assert os.stat(guest.disk).st_atime < time.time() + 60


def test_stale_copy_is_refused_by_its_content(scene):
    guest = run_live(scene)
    copy, rules = copied(scene, guest)
    with open(copy, "r+b") as file:
        file.write(b"another disk's first block")
    with scene.changed(scene.b, rules=rules):
        with scene.changed(scene.a, env={"VMFERRY_FAULT": SHARES_NOTHING}):
            check_failed(scene.migrate(guest), "not the same image", "other content")
            scene.check(guest)


def change_middle(image):
    """One block of it, as something written since a copy was made; samples miss it."""
    size = image.stat().st_size
    with open(image, "r+b") as file:
        file.seek(size // 2 + 4096 * 7)
        file.write(b"written since the copy was made")


@pytest.mark.parametrize("stale", [True, False])
def test_every_block_of_a_copy_counts(scene, stale):
    """A disk of its own that the guest does not write just now: only one block differs."""
    image, copy = scene.lab.shared / "data.raw", scene.lab.shared / "data-b.raw"
    image.write_bytes(os.urandom(8 << 20))
    shutil.copyfile(image, copy)
    if stale:
        change_middle(image)
    guest = run_live(scene, extra=data_disk(image))
    with scene.changed(scene.b, rules={"data": f"{image} => {copy}"}):
        with scene.changed(scene.a, env={"VMFERRY_FAULT": SHARES_NOTHING}):
            result = scene.migrate(guest)
            if stale:
                check_failed(result, "data", "not the same image", "other content")
                scene.check(guest)
                return
            assert same_by(check_completed(result))["data (virtio-blk-pci)"] == "content"
            scene.has_moved(guest)


def data_disk(image, options="format=raw"):
    return ["-drive", f"file={image},if=none,id=data0,{options}",
            "-device", "virtio-blk-pci,drive=data0,id=data"]


def test_large_image_that_nothing_proves_is_refused_before_the_pause(scene):
    """Its content cannot be compared within a pause: the same file even, by two names."""
    image, copy = make_image(scene.lab.shared / "big.raw", size="256M"), scene.lab.shared / "b.raw"
    os.link(image, copy)
    guest = run_live(scene, extra=data_disk(image))
    with scene.changed(scene.b, rules={"data": f"{image} => {copy}"}):
        with scene.changed(scene.a, env={"VMFERRY_FAULT": SHARES_NOTHING}):
            check_failed(scene.migrate(guest), "data", str(image), "neither locks nor times",
                         "--trust-images")
            scene.check(guest)
            assert scene.beats[guest.name].largest_gap_ms() < 3000


@pytest.mark.parametrize("stale", [True, False])
def test_every_block_of_a_backing_file_counts(scene, stale):
    """Templates lie on both hosts, below images that are shared: read as a whole, before the
    pause, also where they are larger than what a pause has time for."""
    base, copy = scene.lab.shared / "base.raw", scene.lab.shared / "base-b.raw"
    base.write_bytes(os.urandom(96 << 20))
    shutil.copyfile(base, copy)
    if stale:
        change_middle(base)
    overlay = make_image(scene.lab.shared / "over.qcow2", "qcow2", backing=(base, "raw"))
    # QEMU opens the backing file that the line names: a rule can change it.
    line = (f"driver=qcow2,file.filename={overlay},backing.driver=raw,"
            f"backing.file.filename={base}")
    guest = run_live(scene, extra=["-drive", f"{line},if=none,id=data0",
                                   "-device", "virtio-blk-pci,drive=data0,id=data"])
    with scene.changed(scene.b, rules={"base": f"{base} => {copy}"}):
        result = scene.migrate(guest)
        if stale:
            check_failed(result, "data", str(base), "not the same image", "other content")
            scene.check(guest)
            return
        report = check_completed(result)
        assert {disk["source"]: disk["same_by"] for disk in report["disks"]} == {
            str(guest.disk): "lock", str(overlay): "lock", str(base): "content"}
        scene.has_moved(guest)


def serve_nbd(scene, name):
    """A server of an image of its own; its socket."""
    image, socket = make_image(scene.lab.shared / f"{name}.raw"), scene.lab.shared / f"{name}.sock"
    server = subprocess.Popen(["qemu-nbd", "-f", "raw", "-t", "-e", "8", "-k", socket, image])
    scene.lab.at_close(lambda: (server.kill(), server.wait()))
    wait_until(socket.exists, "NBD server", 10)
    return socket


@pytest.mark.parametrize("nbd_first", [True, False])
def test_image_that_nothing_proves_does_not_slip_in_behind_another(scene, nbd_first):
    """One that waits for the pause says nothing for one that is no file: each is proven."""
    here, there = serve_nbd(scene, "nbd-a"), serve_nbd(scene, "nbd-b")
    image = make_image(scene.lab.shared / "local.raw")
    disks = [data_disk(image), ["-drive", f"file=nbd+unix:///?socket={here},if=none,id=nbd0,"
                                          "format=raw",
                                "-device", "virtio-blk-pci,drive=nbd0,id=remote"]]
    guest = run_live(scene, disk_mb=0, extra=sum(disks[::-1] if nbd_first else disks, []))
    with scene.changed(scene.b, rules={"nbd": f"{here} => {there}"}):
        with scene.changed(scene.a, env={"VMFERRY_FAULT": SHARES_NOTHING}):
            check_failed(scene.migrate(guest), "remote", "nothing proves", "--trust-images")
            scene.check(guest)


def copied(scene, guest):
    """Host B has a copy of the image, under a name of its own, as it was a moment ago."""
    copy = scene.lab.shared / "copy.raw"
    shutil.copyfile(guest.disk, copy)
    return copy, {"copy": f"{guest.disk} => {copy}"}


def test_stale_copy_is_refused_and_untouched(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    copy, rules = copied(scene, guest)
    before = copy.read_bytes()
    with scene.changed(scene.b, rules=rules):
        text = check_failed(scene.migrate(guest), "not the same image", str(copy), str(guest.disk),
                            "--trust-images")
        assert f"{16 << 20} bytes here, {16 << 20} there" in text
        scene.check(guest)
        assert os.stat(guest.disk).st_atime < time.time() + 60
    assert copy.read_bytes() == before
    check_disk(guest)
    scene.move(guest)


def test_image_of_another_size_is_refused(scene):
    guest = run_live(scene)
    other = make_image(scene.lab.shared / "other.raw", size="8M")
    with scene.changed(scene.b, rules={"other": f"{guest.disk} => {other}"}):
        check_failed(scene.migrate(guest), "is another file", f"{16 << 20} bytes here",
                     f"{8 << 20} bytes there")
        check_failed(scene.migrate(guest, "--disks", "shared"), "its size is",
                     f"{16 << 20} bytes", f"{8 << 20} bytes")
        scene.check(guest)


def test_whoever_knows_better_is_believed(scene):
    """Here: the "copy" is a second name of the image, on a mount that shows neither locks nor
    times; the test's own is a hard link, so nothing is lost."""
    guest = run_live(scene)
    copy = scene.lab.shared / "copy.raw"
    os.link(guest.disk, copy)
    with scene.changed(scene.b, rules={"copy": f"{guest.disk} => {copy}"}):
        report = check_completed(scene.migrate(guest, "--trust-images"))
        assert report["disks"] == []
        scene.has_moved(guest)
        check_disk(guest)


@pytest.mark.parametrize("content", ["same", "other"])
def test_copy_of_a_medium_that_is_only_read(scene, content):
    """Installation media lie on both hosts: an equal copy is as good, another one is not."""
    medium = scene.lab.shared / "install.iso"
    medium.write_bytes(os.urandom(2 << 20))
    copy = scene.lab.shared / "install-b.iso"
    copy.write_bytes(medium.read_bytes() if content == "same" else os.urandom(2 << 20))
    guest = run_live(scene, extra=[
        "-device", "virtio-scsi-pci,id=scsi0",
        "-drive", f"file={medium},if=none,id=cd0,media=cdrom,format=raw",
        "-device", "scsi-cd,drive=cd0,bus=scsi0.0,id=cdrom"])
    with scene.changed(scene.b, rules={"medium": f"{medium} => {copy}"}):
        result = scene.migrate(guest)
        if content == "other":
            check_failed(result, "cdrom", "not the same image", "other content")
            scene.check(guest)
            return
        report = check_completed(result)
        assert same_by(report)["cdrom (scsi-cd)"] == "content"
        scene.has_moved(guest)


def test_backing_file_is_compared_too(scene):
    base = make_image(scene.lab.shared / "base.raw")
    base.write_bytes(os.urandom(16 << 20))
    overlay = make_image(scene.lab.shared / "overlay.qcow2", "qcow2", backing=(base, "raw"))
    guest = run_live(scene, disk_mb=0, extra=[
        "-drive", f"file={overlay},if=none,id=disk0,format=qcow2",
        "-device", "virtio-blk-pci,drive=disk0"])
    report = scene.move(guest)
    assert [(disk["source"], disk["same_by"]) for disk in report["disks"]] == [
        (str(overlay), "lock"), (str(base), "lock")] or len(report["disks"]) == 2
    check_same_content(guest, overlay, "qcow2")


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_image_that_is_not_at_its_path_any_more(scene, any_qemu, how):
    """The destination would open another file, or none."""
    guest = run_live(scene, qemu=any_qemu)
    kept = scene.lab.shared / "kept.raw"
    os.rename(guest.disk, kept)
    if how == "replaced":
        shutil.copyfile(kept, guest.disk)
    check_failed(scene.migrate(guest), str(guest.disk), "not the file that QEMU has open")
    scene.check(guest)
    os.rename(kept, guest.disk)
    scene.move(guest)


def test_no_lock_is_left_by_a_killed_agent(scene):
    guest = run_live(scene)
    command = scene.a.begin_migrate(guest, scene.b, "--bandwidth", "12M")
    wait_progress(scene.a, guest, "precopy", 1 << 20)
    scene.a.kill()
    command.finish()
    scene.a.start()
    scene.check(guest)
    locks = [line for line in open("/proc/locks") if f":{os.stat(guest.disk).st_ino} " in line]
    assert all(int(line.split()[6]) < 1 << 20 for line in locks), locks
    scene.move(guest)


def loaded(scene, name, size=2 << 20):
    """A file for the guest's command line, and another name of it for host B."""
    file = scene.lab.shared / name
    file.write_bytes(os.urandom(size))
    return file, scene.lab.shared / f"{name}-b"


@pytest.mark.parametrize("content", ["same", "other"])
def test_file_that_qemu_loads_is_compared(scene, any_qemu, content):
    """A destination's QEMU has what it found there: the guest meets it at its next reboot."""
    file, copy = loaded(scene, "settings.bin")
    shutil.copyfile(file, copy)
    if content == "other":
        change_middle(copy)
    guest = run_live(scene, qemu=any_qemu, extra=["-fw_cfg", f"name=opt/settings,file={file}"])
    with scene.changed(scene.b, rules={"settings": f"{file} => {copy}"}):
        result = scene.migrate(guest)
        if content == "other":
            check_failed(result, "-fw_cfg", str(file), "not the same file", "other content",
                         "--trust-images")
            scene.check(guest)
            return
        report = check_completed(result)
        assert {entry["option"]: entry["same_by"] for entry in report["files"]} == {
            "-kernel": "lock", "-initrd": "lock", "-fw_cfg": "content"}
        scene.has_moved(guest)


def test_kernel_that_was_replaced_since_the_start(scene):
    """As by an update: the file is the same on both hosts, and not what the guest runs."""
    file, _ = loaded(scene, "kernel-settings.bin")
    guest = run_live(scene, extra=["-fw_cfg", f"name=opt/settings,file={file}"])
    start = time.time()
    new = scene.lab.shared / "new"
    new.write_bytes(os.urandom(1 << 20))
    wait_until(lambda: time.time() > start + 4, "a moment", 10)
    os.utime(new, (1, 1))  # a package keeps the time of its build
    os.rename(new, file)
    check_failed(scene.migrate(guest), "-fw_cfg", str(file), "was changed or replaced since",
                 "--trust-images")
    scene.check(guest)
    assert check_completed(scene.migrate(guest, "--trust-images"))["files"] == []
    scene.has_moved(guest)
