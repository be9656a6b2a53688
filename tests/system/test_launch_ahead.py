"""A standby's QEMU that is launched ahead: it waits, and the guest goes on in it."""

import os
import signal
from pathlib import Path

import pytest

from disks import LARGE_MB, WRITTEN_MB, LocalImage, blockdev, drive, run_with
from live import check_disk
from protection import BUSY, epochs, has_gone_on, protect, wait_connected
from test_store import store  # noqa: F401
from vmferry_lab import qemu_pids, wait_until
from vmferry_lab.process import is_alive

# QEMU itself takes some 55.
MOST_WAITING_MB = 100
MEMORY_MB = 512


def launched(agent) -> list[int]:
    return [event["data"]["pid"] for event in agent.events("launched-ahead")]


def wait_launched(agent, count=1) -> int:
    """So many have been launched; the last one's pid."""
    wait_until(lambda: len(launched(agent)) >= count, "a process waits", 60)
    return launched(agent)[-1]


def resident_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines()
                if line.startswith("VmRSS:")) >> 10


def kill_guest(scene, guest) -> None:
    [pid] = qemu_pids(scene.here(guest).host, guest)
    os.kill(pid, signal.SIGKILL)


def taken_over(agent) -> dict:
    [event] = agent.events("taken-over")
    print(event["data"])
    return event["data"]


DISKS = {
    "raw": lambda image: drive(image, cache="writeback"),
    "raw-direct": drive,
    "qcow2": lambda image: drive(image, "qcow2", cache="writeback"),
    "qcow2-direct": lambda image: blockdev(image, "qcow2"),
}


@pytest.mark.parametrize("kind", DISKS)
def test_goes_on_in_it(scene, store, any_qemu, kind):  # noqa: F811
    """What was written to its image since it was launched is there, with what the image grew by."""
    image = LocalImage(f"disks/disk.{kind}", kind.partition("-")[0])
    image.on(scene.b).parent.mkdir()
    image.make(scene.a, data_mb=LARGE_MB, size_mb=WRITTEN_MB + LARGE_MB + 8)
    guest = run_with(scene, DISKS[kind](image.on(scene.a)),
                     **{**BUSY, "memory_mb": MEMORY_MB, "disk_rate": 1500, "qemu": any_qemu})
    protect(scene, guest, store)
    pid = wait_launched(scene.b)
    assert scene.b.guest_names() == [guest.name]
    assert scene.b.status(guest)["state"] == "standby"
    for _ in range(2):
        before = image.on(scene.b).stat().st_mtime_ns
        wait_until(lambda: image.on(scene.b).stat().st_mtime_ns > before + 10**9,
                   "the image is written", 60)
    print(resident_mb(pid), "MB")
    assert resident_mb(pid) < MOST_WAITING_MB
    kill_guest(scene, guest)
    has_gone_on(scene, guest)
    check_disk(guest)
    assert taken_over(scene.b)["launched_ahead"] is True
    assert scene.b.guest_pid(guest) == pid


def test_it_ends_or_hangs(scene, store):  # noqa: F811
    """Another one takes its place; what does not answer when it is needed is not waited for."""
    guest = scene.run(**BUSY)
    protect(scene, guest, store)
    first = wait_launched(scene.b)
    os.kill(first, signal.SIGKILL)
    second = wait_launched(scene.b, 2)
    os.kill(second, signal.SIGSTOP)
    third = wait_launched(scene.b, 3)
    assert not is_alive(second) and qemu_pids(scene.b.host, guest) == [third]
    os.kill(third, signal.SIGSTOP)
    kill_guest(scene, guest)
    has_gone_on(scene, guest)
    assert taken_over(scene.b)["launched_ahead"] is False
    assert not is_alive(third)


def test_a_port_is_taken(scene, store):  # noqa: F811
    """It stands by without, and launches one once that works."""
    guest = scene.run(**BUSY, extra=["-vnc", "127.0.0.1:7"])
    protect(scene, guest, store)
    pid = wait_launched(scene.b)
    with scene.b.host.namespace.socket() as taker:
        taker.setsockopt(1, 15, 1)  # SOL_SOCKET, SO_REUSEPORT
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: _takes(taker, 5907), "the port is free", 10)
        wait_until(lambda: scene.b.events("not-launched-ahead"), "it says so", 30)
        before = epochs(scene.a, guest)
        wait_until(lambda: epochs(scene.a, guest) > before + 5, "epochs", 30)
        assert not qemu_pids(scene.b.host, guest)
    wait_launched(scene.b, 2)
    kill_guest(scene, guest)
    has_gone_on(scene, guest)
    assert taken_over(scene.b)["launched_ahead"] is True


def _takes(taker, port: int) -> bool:
    try:
        taker.bind(("127.0.0.1", port))
        taker.listen()
    except OSError:
        return False
    return True


def test_agent_is_killed(scene, store):  # noqa: F811
    """It ends with its agent, running or stopped, and the restarted one has another."""
    guest = scene.run(**BUSY)
    protect(scene, guest, store)
    first = wait_launched(scene.b)
    scene.b.kill()
    wait_until(lambda: not is_alive(first), "it ends with its agent", 20)
    scene.b.start()
    wait_connected(scene, guest)
    second = wait_launched(scene.b, 2)
    os.kill(second, signal.SIGSTOP)
    scene.b.kill()
    scene.b.start()
    third = wait_launched(scene.b, 3)
    assert qemu_pids(scene.b.host, guest) == [third]
    wait_connected(scene, guest)
    scene.b.stop()
    assert not qemu_pids(scene.b.host, guest)
    scene.b.start()
    wait_connected(scene, guest)
    wait_launched(scene.b, 4)
    scene.a.vmferry("unprotect", guest.name).require()
    assert not qemu_pids(scene.b.host, guest)
    scene.check(guest)


def test_switched_off(scene, store):  # noqa: F811
    scene.b.settings["launch-ahead"] = "false"
    scene.restart(scene.b)
    guest = scene.run(**BUSY)
    protect(scene, guest, store)
    before = epochs(scene.a, guest)
    wait_until(lambda: epochs(scene.a, guest) > before + 20, "epochs", 30)
    assert not qemu_pids(scene.b.host, guest) and not launched(scene.b)
    kill_guest(scene, guest)
    has_gone_on(scene, guest)
    assert taken_over(scene.b)["launched_ahead"] is False
