"""A standby that has too little room, at first or later: the guest runs on, and it is said."""

import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from disks import DISK
from findings import check_failed
from kill_campaign import send_signal
from live import check_disk
from protection import epochs, has_gone_on, protect, with_disk
from scene import move_progress
from test_store import store  # noqa: F401
from trouble import fill
from vmferry_lab import qemu_pids, wait_until

STILL_MS = 8000  # the longest that clients may wait for a guest whose standby has no room


@contextmanager
def small(agent, folder: Path, size: str):
    """For the agent, and all that it starts, *folder* is an empty disk of that size; yields where it
    is seen from outside."""
    enter = ["nsenter", f"--mount=/proc/{agent.pid}/ns/mnt"]
    subprocess.run([*enter, "mount", "-t", "tmpfs", "-o", f"size={size}", "small", folder],
                   check=True)
    try:
        yield Path(f"/proc/{agent.pid}/root{folder}")
    finally:
        subprocess.run([*enter, "umount", "--lazy", folder], check=True)


def begin(scene, guest, witness):
    return scene.a.begin("protect", guest.name, scene.b.address, "--witness", witness.address)


def refused_and_unharmed(scene, guest, witness, *words):
    check_failed(begin(scene, guest, witness).finish(), *words)
    assert scene.a.status(guest)["state"] == "running"
    wait_until(lambda: guest.name not in scene.b.guest_names(), "nothing is left there", 10)
    scene.check(guest)
    check_disk(guest)


@pytest.mark.long
def test_too_little_from_the_beginning(scene, store):  # noqa: F811
    """Nothing has happened to the guest, and it is said what is short."""
    guest = with_disk(scene)
    folder, runtime = DISK.on(scene.b).parent, scene.b.host.path("run")
    with scene.changed(scene.b, settings={"store-memory": "64Mi"}):
        refused_and_unharmed(scene, guest, store, "128.0", "64.0",
                             "store-memory", "hostB")
    with small(scene.b, runtime, "100m"):
        refused_and_unharmed(scene, guest, store, "hostB", "100.0", str(runtime))
    with small(scene.b, folder, "8m"):
        refused_and_unharmed(scene, guest, store, "disks need", "8 MiB are free", str(folder))
    with small(scene.b, folder, "120m") as inside:
        scene.lab.link.shape("100mbit")
        begun = begin(scene, guest, store)
        wait_until(lambda: (move_progress(scene.a.status(guest)) or {}).get("disk_bytes_done"),
                   "its disk is copied", 30)
        fill(inside)
        check_failed(begun.finish(), "space")
        scene.lab.link.shape(None)
        assert [path.name for path in inside.iterdir()] == ["filler"]
        scene.check(guest)
        check_disk(guest)
    protect(scene, guest, store)
    scene.a.vmferry("unprotect", guest.name).require()
    scene.check(guest)


@pytest.mark.long
def test_images_disk_is_full_later(scene, store):  # noqa: F811
    """What its images lack is kept beside them, and the standby says so; nothing is lost."""
    guest = with_disk(scene, disk_rate=1500)
    with small(scene.b, DISK.on(scene.b).parent, "160m") as inside:
        protect(scene, guest, store)
        fill(inside)
        problem = wait_until(lambda: scene.b.status(guest)["problem"], "it says so", 90)
        assert "space" in problem
        before = epochs(scene.a, guest)
        wait_until(lambda: epochs(scene.a, guest) > before + 10, "epochs", 30)
        (inside / "filler").unlink()
        wait_until(lambda: not scene.b.status(guest)["problem"], "it is over", 60)
        send_signal(qemu_pids(scene.a.host, guest), signal.SIGKILL)
        has_gone_on(scene, guest)
        check_disk(guest)


@pytest.mark.parametrize("witness", [
    pytest.param(True, id="witness"), pytest.param(False, id="alone", marks=pytest.mark.long)])
def test_memory_is_full_later(scene, store, witness):  # noqa: F811
    """Its standby drops out; the guest runs on, and is protected again once there is room."""
    scene.a.settings["protect-again"] = "1"
    scene.restart(scene.a)
    with small(scene.b, scene.b.host.path("run"), "300m") as inside:
        guest = scene.run(memory_mb=128, arena_mb=48, content="zero")
        protect(scene, guest, store if witness else None)
        with guest.control() as control:
            control.write("dense", pages_per_second=4000)
        fill(inside)
        wait_until(lambda: scene.a.events("standby-lost"), "its host hears of it", 60)
        wait_until(lambda: scene.a.status(guest)["state"] != "protected", "it runs on alone", 30)
        scene.beats[guest.name].wait(20)
        assert scene.beats[guest.name].largest_gap_ms() < STILL_MS
        [event] = scene.b.events("no-room")
        assert "space" in event["text"]
        assert len(qemu_pids(scene.a.host, guest)) == 1
        (inside / "filler").unlink()
        wait_until(lambda: len(scene.a.events("protected")) == 2, "it is protected again", 60)
        scene.a.vmferry("failover", guest.name).require()
        has_gone_on(scene, guest)
