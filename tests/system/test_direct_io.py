"""Disks that are read past the page cache and take long: data that lands in guest memory after
that memory was sent, without a page fault that a tracker could see."""

import pytest

from findings import check_completed
from scene import BUSY, SMALL, Scene
from vmferry_lab import SlowImage, has_fuse, qemu, wait_until

DELAY_S = 0.4


@pytest.fixture
def slow(lab, pki):
    """(scene, image): the image is mounted before the agents start, so that they see it."""
    if not has_fuse():
        pytest.skip("this host has no FUSE: nothing is slow in its kernel")
    image = SlowImage(lab.shared / "slow", 8, DELAY_S)
    lab.at_close(image.close)
    return Scene(lab, pki), image


def run_reader(scene, image, readers=8, **options):
    """A guest that has *readers* reads of the slow image in flight all the time."""
    guest = scene.run(**{**SMALL, "disk_mb": 16, "disk_rate": 20, "readers": readers, **options},
                      extra=["-drive", f"file={image.path},format=raw,if=none,id=slow0,cache=none,"
                                       "read-only=on", "-device", "virtio-blk-pci,drive=slow0"])
    before = image.reads
    wait_until(lambda: image.reads >= before + 3 * readers, "the guest reads", 30)
    return guest


@pytest.mark.parametrize("tracker, version", [
    ("pagemap-scan", "7.2"), ("uffd-sync", "10.0"),
    pytest.param("pagemap-scan", "10.0", marks=pytest.mark.long),
    pytest.param("uffd-sync", "7.2", marks=pytest.mark.long)])
def test_late_data_is_not_lost(slow, tracker, version):
    """Each read's data lies in a page of its own, which is checked at the destination."""
    scene, image = slow
    guest = run_reader(scene, image, qemu=qemu(version))
    for _ in range(2):
        report = scene.move(guest, "--tracker", tracker)
        assert report["tracker"] == tracker
        assert report["direct_io"]["pages_changed"] > 0


def test_late_data_follows_in_a_postcopy(slow):
    scene, image = slow
    guest = run_reader(scene, image)
    for _ in range(2):
        check_completed(scene.migrate(guest, "--mode", "postcopy"), mode="postcopy")
        scene.has_moved(guest)


def test_late_data_is_verified(slow):
    scene, image = slow
    scene.move(run_reader(scene, image), "--verify")


@pytest.mark.long
def test_without_segments_only_what_differs_is_sent(slow):
    """There is nothing to find segments with, but what is read again is compared all the same."""
    scene, image = slow
    report = scene.move(run_reader(scene, image), "--segments", "off")
    direct_io = report["direct_io"]
    assert 0 < direct_io["pages_changed"] < direct_io["pages_read_again"]


def test_fast_disk_costs_little(scene):
    """Next to nothing is left to be read again in the pause where requests end at once."""
    guest = scene.run(**{**SMALL, **BUSY, "disk_rate": 100})
    direct_io = scene.move(guest, "--verify")["direct_io"]
    assert direct_io["drains"] > 0
    assert direct_io["pages_in_pause"] * 4096 < SMALL["memory_mb"] << 18  # a quarter of RAM


def test_guest_without_direct_io_is_spared(scene):
    image = scene.lab.shared / "cached.disk"
    with open(image, "wb") as disk:
        disk.truncate(16 << 20)
    guest = scene.run(disk_rate=100, extra=[
        "-drive", f"file={image},format=raw,if=none,id=disk0,cache=writeback",
        "-device", "virtio-blk-pci,drive=disk0"])
    assert scene.move(guest)["direct_io"] is None
