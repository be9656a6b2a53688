"""Pre-copy of machines of every sensible shape, and of disks on shared storage."""

import subprocess

import pytest

from live import monitor, user_monitor
from scene import BUSY, SMALL
from vmferry_lab import MACHINES, qemu, wait_until


def whole_machine(vcpus: int) -> dict:
    """virtio-blk, -net and -rng, serial and (but for microvm) VGA, all at work."""
    return {**BUSY, "vcpus": vcpus}


@pytest.mark.parametrize("machine, version, vcpus", [
    ("pc", "10.0", 2), ("q35", "7.2", 1), ("microvm", "7.2", 2),
    pytest.param("microvm", "10.0", 1, marks=pytest.mark.long)])
def test_machine(scene, machine, version, vcpus):
    guest = scene.run(machine=machine, qemu=qemu(version), **whole_machine(vcpus))
    scene.move(guest, "--verify")


@pytest.mark.long
@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize("machine", MACHINES)
def test_matrix(scene, any_qemu, machine, vcpus):
    guest = scene.run(machine=machine, qemu=any_qemu, **whole_machine(vcpus))
    for tracker in ("pagemap-scan", "uffd-sync"):
        assert scene.move(guest, "--verify", "--tracker", tracker)["tracker"] == tracker
        scene.move(guest, "--verify", "--tracker", tracker)


def is_locked(scene, host, image) -> bool:
    """True where another QEMU program may not write to the image now."""
    tried = host.run(["qemu-io", "-c", "write 0 0", image])
    return "lock" in tried.stderr


def test_locks_of_a_disk_are_handed_over(scene):
    guest = scene.run(disk_mb=16, disk_rate=100)
    assert is_locked(scene, scene.lab.host_b, guest.disk)
    scene.move(guest)
    assert is_locked(scene, scene.lab.host_a, guest.disk)
    scene.move(guest)
    with guest.control() as control:
        assert control.check_disk() > 0


@pytest.mark.parametrize("cache", [
    pytest.param("none", marks=pytest.mark.long), "writeback"])
def test_qcow2_on_shared_storage(scene, cache):
    """Its metadata is cached in QEMU: what the source knew must be written before."""
    image = scene.lab.shared / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "32M"], check=True)
    guest = scene.run(disk_rate=100, extra=[
        "-drive", f"file={image},format=qcow2,if=none,id=disk0,cache={cache}",
        "-device", "virtio-blk-pci,drive=disk0"])
    for _ in range(3):
        scene.move(guest)
        with guest.control() as control:
            assert control.check_disk() > 0
    scene.a.vmferry("stop", guest.name)
    scene.b.vmferry("stop", guest.name)
    wait_until(lambda: not is_locked(scene, scene.lab.host_a, image), "end of the guest")
    checked = subprocess.run(["qemu-img", "check", image], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_is_local_to_a_host_is_mapped(scene):
    """A tap of another name and a file of another path over there, and back again."""
    scene.lab.host_b.add_tap("othertap")
    guest = scene.lab.guest("web1", **SMALL)
    rules = {"tap": f"ifname={guest.tap} => ifname=othertap",
             "console": f"{guest.console} => {guest.console}.b"}
    with scene.changed(scene.b, rules=rules):
        scene.a.run(guest)
        scene.watch(guest, scene.a)
        scene.move(guest)
        command = (scene.lab.host_b.run(["cat", f"/proc/{scene.b.guest_pid(guest)}/cmdline"])
                   .stdout.split("\0"))
        assert any("ifname=othertap" in word for word in command)
        scene.move(guest)


def test_adopted_guest_that_was_paused_moves_and_stays_paused(scene):
    """Moving a guest must not start one that its user has stopped."""
    guest = scene.lab.guest("web1", **SMALL, extra=user_monitor(scene))
    process = scene.start(guest)
    scene.watch(guest, scene.a)
    scene.beats[guest.name].wait(5)
    with monitor(scene, guest) as qmp:
        qmp.execute("stop")
    scene.require_silence(guest)
    scene.a.adopt(guest, process)
    result = scene.a.migrate(guest, scene.b)
    assert result.exit_code == 0 and result.json["paused"] is True, result
    scene.place[guest.name] = scene.b
    assert scene.b.status(guest)["state"] == "paused"
    scene.require_silence(guest)
    with monitor(scene, guest) as qmp:
        qmp.execute("cont")
    scene.check(guest)
