"""Guests that are saved into an image, and go on from it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from disks import LocalImage, drive, run_with
from findings import check_failed
from live import check_disk, monitor, user_monitor
from memory_kinds import huge_memory
from saving import IMAGE_POINTS, RESTORE_POINTS, SAVE_POINTS, disk_copy, restore, save, disk_copy
from scene import SMALL
from vmferry_lab import qemu_pids, wait_until


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
    file = tmp_path / "web1.image"
    report = save(scene, guest, file)
    copy = disk_copy(file)
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


def run_small(scene):
    return scene.run(**SMALL, extra=user_monitor(scene))


def restart(agent, fault=None):
    agent.kill()
    agent.start({"VMFERRY_FAULT": fault} if fault else None)


def await_found(scene, guest):
    wait_until(lambda: scene.a.status(guest)["state"] in ("running", "paused"), "guest found", 20)


@pytest.fixture
def small_disk(tmp_path):
    """A file system that is too small for a guest's memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_to_and_from_another_host(scene, tmp_path):
    """The agent there keeps it, with its disk; the guest goes on there."""
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a), "qcow2"))
    file = scene.b.host.path("web1.image")
    report = save(scene, guest, f"{scene.b.address}:{file}", "--stop", "--disks", "copy")
    assert report["destination"] == scene.b.address
    assert file.exists() and disk_copy(file).exists()
    wait_until(lambda: not qemu_pids(scene.a.host, guest), "end of the guest", 15)
    restore(scene, scene.b, file, "--full", "--disks-in", scene.b.host.path("."))
    scene.place[guest.name] = scene.b
    scene.check(guest)
    check_disk(guest)


def test_through_a_pipe(scene, tmp_path):
    guest = run_small(scene)
    file = tmp_path / "web1.image"
    with file.open("wb") as out:
        done = subprocess.run(scene.a.host.namespace.wrap([scene.a.program, "save", guest.name, "-", "--stop",
                                                           "--socket", scene.a.socket]), stdout=out,
                              stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "it has ended" in done.stderr
    restore(scene, scene.a, file, "--full")
    scene.check(guest)


def test_a_paused_guest_stays_paused(scene, tmp_path):
    guest = run_small(scene)
    monitor(scene, guest).execute("stop")
    file = tmp_path / "web1.image"
    save(scene, guest, file)
    assert scene.a.status(guest)["state"] == "paused"
    stop(scene, guest)
    assert restore(scene, scene.a, file, "--full")["state"] == "paused"
    scene.require_silence(guest)
    monitor(scene, guest).execute("cont")
    scene.check(guest)


def test_refused(scene, tmp_path):
    """Each is told, and the guest runs on."""
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a), "qcow2"))
    file = tmp_path / "web1.image"
    file.write_text("mine")
    for options, words in [((file,), "exists"), ((tmp_path / "y", "--disks", "top"), "copy or reference"),
                           ((tmp_path / "no" / "web1.image",), "no"),
                           ((tmp_path,), "not a file"),
                           ((tmp_path / "x", "--disks", "reference"), "written to after"),
                           (("hostc:/x",), "hostc")]:
        check_failed(scene.a.vmferry("save", guest.name, *options), words,
                     exit_code=2 if words.startswith("copy or") else 1)
    assert file.read_text() == "mine" and list(tmp_path.iterdir()) == [file]
    check_failed(scene.a.vmferry("save", "web7", file), "web7", "no guest")
    scene.check(guest)
    for name, content in [("empty", b""), ("foreign", b"x" * 9000)]:
        (tmp_path / name).write_bytes(content)
        check_failed(scene.a.vmferry("restore", tmp_path / name), name)
    check_failed(scene.a.vmferry("restore", tmp_path / "missing"), "missing")


def test_a_disk_that_has_changed(scene, tmp_path):
    image = LocalImage("disk.raw").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a)))
    file = tmp_path / "web1.image"
    save(scene, guest, file, "--stop")
    wait_until(lambda: not qemu_pids(scene.a.host, guest), "end of the guest", 15)
    path = image.on(scene.a)
    seen = path.stat()
    with path.open("r+b") as disk:
        disk.write(disk.read(1))
    check_failed(scene.a.vmferry("restore", file), "disk0", "has changed since")
    assert guest.name not in scene.a.guest_names()
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    restore(scene, scene.a, file, "--full")
    scene.check(guest)
    check_disk(guest)


@pytest.mark.parametrize("point", SAVE_POINTS)
def test_agent_killed_while_it_saves(scene, tmp_path, point):
    """The guest runs on, and no half image has the name."""
    guest = run_small(scene)
    restart(scene.a, f"{point}=kill")
    await_found(scene, guest)
    result = scene.a.vmferry("save", guest.name, tmp_path / "web1.image", timeout=60)
    assert result.exit_code != 0
    restart(scene.a)
    await_found(scene, guest)
    scene.check(guest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("point", IMAGE_POINTS)
def test_agent_killed_at_the_end_of_an_image(scene, tmp_path, point):
    """Copies of its disks are there with their image, or not at all."""
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a), "qcow2"))
    restart(scene.a, f"{point}=kill")
    await_found(scene, guest)
    file = tmp_path / "web1.image"
    assert scene.a.vmferry("save", guest.name, file, timeout=60).exit_code != 0
    restart(scene.a)
    await_found(scene, guest)
    scene.check(guest)
    check_disk(guest)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ([] if point == "image.disks-complete" else [file.name, disk_copy(file).name])
    if left:
        assert scene.a.vmferry("image", "verify", file).exit_code == 0


@pytest.mark.parametrize("point", RESTORE_POINTS)
def test_agent_killed_before_the_guest_runs(scene, tmp_path, point):
    """Nothing of it stays, and it can be restored again."""
    guest = run_small(scene)
    file = tmp_path / "web1.image"
    save(scene, guest, file, "--stop")
    restart(scene.a, f"{point}=kill")
    assert scene.a.vmferry("restore", file, timeout=60).exit_code != 0
    restart(scene.a)
    wait_until(lambda: guest.name not in scene.a.guest_names() and
               not qemu_pids(scene.a.host, guest), "end of what was left", 20)
    restore(scene, scene.a, file, "--full")
    scene.check(guest)


def test_agent_killed_while_memory_comes(scene, tmp_path):
    """It goes on with what is not there yet; whoever needs a page meanwhile waits."""
    guest = run_small(scene)
    file = tmp_path / "web1.image"
    save(scene, guest, file, "--stop")
    restart(scene.a, "restore.on-record=kill")
    assert scene.a.vmferry("restore", file, timeout=60).exit_code != 0
    assert len(qemu_pids(scene.a.host, guest)) == 1
    restart(scene.a)
    await_whole(scene.a, guest.name)
    scene.check(guest)


def test_full_disk(small_disk, scene):
    """The guest runs on, and nothing is left.  (The mount comes before the hosts.)"""
    guest = run_small(scene)
    check_failed(scene.a.vmferry("save", guest.name, small_disk / "web1.image", timeout=60), "space")
    assert list(small_disk.iterdir()) == []
    scene.check(guest)


def spoil(file, first, last):
    """Damages what is between these shares of the file."""
    with file.open("r+b") as image:
        size = file.stat().st_size
        image.seek(int(size * first))
        content = image.read(int(size * (last - first)))
        image.seek(int(size * first))
        image.write(bytes(byte ^ 1 if at % 512 == 0 else byte for at, byte in enumerate(content)))


def test_stopped_while_it_waits(scene, tmp_path):
    """A guest that needs a page that cannot be read takes no signal but SIGKILL; it is gone when `stop` returns, and
    its name is free."""
    guest = run_small(scene)
    file, spoilt = tmp_path / "web1.image", tmp_path / "spoilt.image"
    save(scene, guest, file, "--stop")
    spoilt.write_bytes(file.read_bytes())
    spoil(spoilt, 0.3, 0.6)
    assert scene.a.vmferry("restore", spoilt, timeout=60).exit_code in (0, 3)  # it waits now, or soon
    wait_until(lambda: "spoilt.image" in (scene.a.status(guest)["problem"] or ""), "the guest waits", 20)
    assert scene.a.vmferry("stop", guest.name, timeout=20).exit_code == 0
    assert not qemu_pids(scene.a.host, guest) and guest.name not in scene.a.guest_names()
    restore(scene, scene.a, file, "--full")
    watch_anew(scene, guest, scene.a)
    scene.check(guest)


def test_pipes(scene, tmp_path):
    """A FIFO that nobody reads holds nothing up, and none is for who is not on this host."""
    guest = run_small(scene)
    pipe, there = tmp_path / "pipe", scene.b.host.path("pipe")
    for path in (pipe, there):
        os.mkfifo(path)
    check_failed(scene.a.vmferry("save", guest.name, f"{scene.b.address}:{there}"), "not a file")
    assert scene.a.vmferry("save", guest.name, pipe, "--detach").exit_code == 0
    wait_until(lambda: scene.a.status(guest)["state"] == "saving", "the save", 10)
    cancelled = scene.a.vmferry("cancel", guest.name, "--json", timeout=20)
    assert cancelled.exit_code == 0 and cancelled.json["kind"] == "save"
    scene.check(guest)
    scene.restart(scene.a)
    scene.check(guest)


def test_damaged_image(scene, tmp_path):
    """A page that is damaged is never given to the guest."""
    guest = run_small(scene)
    file = tmp_path / "web1.image"
    save(scene, guest, file, "--stop")
    whole = file.read_bytes()
    spoil(file, 1 / 3, 1 / 3 + 4096 * 64 / len(whole))
    result = scene.a.vmferry("restore", file, "--full", "--json", timeout=60)
    assert result.exit_code in (1, 3), result.stdout
    if result.exit_code == 3:
        assert "web1.image" in result.json["problem"]
        assert scene.a.vmferry("stop", guest.name).exit_code == 0
    wait_until(lambda: not qemu_pids(scene.a.host, guest) and
               guest.name not in scene.a.guest_names(), "end of the guest", 20)
    file.write_bytes(whole)
    restore(scene, scene.a, file, "--full")
    watch_anew(scene, guest, scene.a)
    scene.check(guest)


@pytest.mark.parametrize("kind", ["shared", pytest.param("huge", marks=pytest.mark.long)])
def test_kinds_of_memory(scene, request, tmp_path, kind):
    if kind == "huge":
        request.getfixturevalue("huge_pages")
    guest = scene.run(**SMALL, shared_memory=kind == "shared", extra=huge_memory(128) if kind == "huge" else [])
    file = tmp_path / "web1.image"
    save(scene, guest, file, "--stop")
    restore(scene, scene.a, file, "--full")
    scene.check(guest)


def keep_little_memory(scene, agent):
    """Its host tells that it has 64 MiB left."""
    meminfo = agent.host.path("meminfo")
    meminfo.write_text(re.sub(r"MemAvailable: .*", "MemAvailable: 65536 kB", Path("/proc/meminfo").read_text()))
    agent.wrapper = ["unshare", "--mount", "sh", "-c", f"mount --bind {meminfo} /proc/meminfo && exec \"$@\"", "sh"]
    scene.restart(agent)


def test_not_here(scene, tmp_path):
    """A host with too little memory, and an image of a later version: nothing is started."""
    guest = run_small(scene)
    file, later = tmp_path / "web1.image", tmp_path / "later.image"
    save(scene, guest, file, "--stop")
    later.write_bytes(file.read_bytes()[:8] + bytes([2]) + file.read_bytes()[9:])
    check_failed(scene.a.vmferry("restore", later), "later.image", "version 2")
    keep_little_memory(scene, scene.b)
    check_failed(scene.b.vmferry("restore", file), "not enough memory here", "64 MiB available")
    for agent in (scene.a, scene.b):
        assert not qemu_pids(agent.host, guest) and guest.name not in agent.guest_names()
    restore(scene, scene.a, file, "--full")
    scene.check(guest)


def test_a_new_generation(scene, tmp_path):
    """A machine with a VM generation id tells its guest that it is a copy: Linux draws new random numbers."""
    guest = scene.run(**SMALL, kernel_words="loglevel=7", extra=[
        *user_monitor(scene), "-device", "vmgenid,id=generation,guid=324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"])
    file = tmp_path / "web1.image"
    save(scene, guest, file, "--stop")
    assert "virtual machine fork" not in guest.console_text()
    restore(scene, scene.a, file, "--full")
    scene.check(guest)
    qmp = monitor(scene, guest)
    seen = qmp.execute("query-vm-generation-id")["guid"]
    assert seen != "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"
    line = " ".join(scene.a.status(guest)["command_line"])
    assert seen in line.lower()


def test_a_guest_that_was_to_end_goes_on(scene, tmp_path):
    """Where its image cannot be completed; its disk is its own again."""
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a), "qcow2"))
    restart(scene.a, "image.before-commit=fail")
    await_found(scene, guest)
    check_failed(scene.a.vmferry("save", guest.name, tmp_path / "web1.image", "--stop"), "image.before-commit")
    scene.check(guest)
    check_disk(guest)
    assert list(tmp_path.iterdir()) == []
