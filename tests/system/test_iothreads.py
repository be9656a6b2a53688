"""Guests whose disks are served by iothreads, under QEMU 10.0 (src/vmm/qemu/iothreads.h)."""

import pytest

from findings import check_failed
from live import user_monitor
from scene import SMALL
from vmferry_lab import backports_qemu
from vmferry_lab.images import disk_image
from vmferry_lab.qmp import Qmp
from vmferry_lab.turns import count_turns, disks_stand_still


def options(scene, **more):
    """Of a guest with a disk in an iothread, and a monitor of its user's."""
    disk = disk_image(scene.lab.shared / "io.disk", 64)
    return {**SMALL, "qemu": backports_qemu(), "disk_rate": 500, **more, "extra": [
        *user_monitor(scene), "-object", "iothread,id=io0",
        "-drive", f"file={disk},format=raw,if=none,id=disk0,cache=none",
        "-device", "virtio-blk-pci,drive=disk0,iothread=io0"]}


def test_lost_interrupt_does_not_travel(scene):
    """A disk that waits for ever after a pause by its user goes on after its move, and works in
    all moves that follow."""
    guest = scene.run(**options(scene))
    monitor = scene.lab.host_a.path("user.qmp")
    with Qmp(monitor) as qmp:
        lost = count_turns(qmp, 400, run_s=0.1)
    print(f"the interrupt was lost after {lost} turns")
    for _ in range(3):
        scene.move(guest)
        with Qmp(scene.here(guest).host.path("user.qmp")) as qmp:
            assert not disks_stand_still(qmp)


@pytest.mark.parametrize("how", ["auto", pytest.param("duty", marks=pytest.mark.long)])
def test_turns_are_not_offered(scene, how):
    """Without a control group of its own it is not slowed, and the report says why."""
    guest = scene.run(**options(scene, pattern="dense", pages_per_second=20000))
    result = scene.migrate(guest, "--bandwidth", "20M", "--max-downtime", "40",
                           "--downtime-cap", "80", "--deadline", "8s", "--throttle", how)
    check_failed(result, "dirties memory faster", "iothreads", "paused")
    assert "iothreads" in result.json["throttle_unavailable"]
    assert result.json["throttle"] is None
    scene.check(guest)
