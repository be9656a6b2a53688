"""Guests that are saved into an image, and go on from it."""

import pytest

from disks import LocalImage, drive, run_with
from findings import check_failed
from live import check_disk
from vmferry_lab import qemu_pids, wait_until


def save(scene, guest, file, *options):
    """`vmferry save`; its report."""
    result = scene.here(guest).vmferry("save", guest.name, file, *options, "--json", timeout=120)
    assert result.exit_code == 0, result.stderr
    assert result.json["status"] == "completed"
    return result.json


def restore(scene, agent, file, *options):
    result = agent.vmferry("restore", file, *options, "--json", timeout=120)
    assert result.exit_code == 0, result.stderr
    return result.json


def stop(scene, guest):
    assert scene.here(guest).vmferry("stop", guest.name).exit_code == 0
    wait_until(lambda: not qemu_pids(scene.here(guest).host, guest), "end of the guest", 15)


def await_whole(agent, name):
    def whole():
        guest = agent.vmferry("status", name, "--json").json
        assert not guest["problem"], guest["problem"]
        return guest["state"] == "running"
    wait_until(whole, "all of its memory", 60)


def test_saved_and_stopped_and_restored(scene, any_qemu, tmp_path):
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a), "qcow2"), qemu=any_qemu)
    file = tmp_path / "web1.image"
    report = save(scene, guest, file, "--stop")
    assert report["image"]["bytes"] == file.stat().st_size
    wait_until(lambda: not qemu_pids(scene.a.host, guest), "end of the guest", 15)
    assert guest.name not in scene.a.guest_names()
    restored = restore(scene, scene.a, file)
    assert restored["name"] == guest.name and restored["origin"] == "image"
    await_whole(scene.a, guest.name)
    scene.check(guest)
    check_disk(guest)


def watch_anew(scene, guest, agent):
    """It goes on from an earlier moment: what it has said since then counts no more."""
    scene.beats.pop(guest.name).close()
    scene.watch(guest, agent)


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_goes_on_and_its_copy_too(scene, image_format, tmp_path):
    """The guest runs on; another one goes on from the image, with a disk of its own."""
    image = LocalImage(f"disk.{image_format}", image_format).make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a), image_format))
    file, copy = tmp_path / "web1.image", tmp_path / "web1.image.disk0"
    report = save(scene, guest, file)
    assert report["downtime_ms"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, copy.name]
    scene.check(guest)
    check_disk(guest)
    before = copy.read_bytes()
    check_failed(scene.a.vmferry("restore", file), "web1, which was saved in", "is here")
    stop(scene, guest)
    restored = restore(scene, scene.a, file, "--full", "--disks-in", scene.a.host.path("."))
    assert restored["state"] == "running"
    watch_anew(scene, guest, scene.a)
    scene.check(guest)
    check_disk(guest)
    assert copy.read_bytes() == before
