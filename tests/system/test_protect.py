"""A standby: the guest's host may die, the guest goes on; no storage is shared."""

import os
import signal
import socket
import time

import pytest

from disks import DISK
from findings import check_failed
from live import check_disk
from protection import (BUSY, PROTECT_POINTS, begin, epochs, has_gone_on, overlays, progress,
                        protect, wait_connected,
                        wait_connected_on, with_disk)
from scene import is_stopped
from test_store import end_everything, store  # noqa: F401
from vmferry_lab import qemu_pids, wait_until


def test_its_process_dies(scene, store):  # noqa: F811
    """Nothing that its client has heard of is forgotten, and the connection goes on."""
    guest = scene.run(**BUSY)
    protect(scene, guest, store)
    first = epochs(scene.a, guest)
    wait_until(lambda: epochs(scene.a, guest) > first + 20, "epochs", 30)
    scene.beats[guest.name].wait(20)
    [pid] = qemu_pids(scene.a.host, guest)
    scene.a.host.run(["kill", "-9", str(pid)])
    has_gone_on(scene, guest)
    assert scene.b.events("taken-over")
    print(scene.beats[guest.name].largest_gap_ms())


def test_its_host_dies(scene, store):  # noqa: F811
    """Its disk is there, with each write that it was told of."""
    guest = with_disk(scene)
    protect(scene, guest, store)
    scene.beats[guest.name].wait(100)
    end_everything(scene.a.host)
    wait_until(lambda: scene.b.status(guest)["role"] == "ours", "the standby goes on with it", 60)
    scene.place[guest.name] = scene.b
    scene.beats[guest.name].wait(20)
    scene.beats[guest.name].check()
    assert len(qemu_pids(scene.b.host, guest)) == 1
    guest.check()
    check_disk(guest)
    print(scene.beats[guest.name].largest_gap_ms())


def test_host_is_cut_off(scene, store):  # noqa: F811
    """As one that is dead, for all that the others know: its copy stands still, and ends later."""
    guest = with_disk(scene)
    protect(scene, guest, store)
    scene.beats[guest.name].wait(50)
    scene.lab.link.cut("hostA")
    wait_until(lambda: scene.b.status(guest)["role"] == "ours", "the standby goes on with it", 60)
    scene.beats[guest.name].wait(20)
    assert progress(scene.a, guest)["held"] is True
    scene.lab.link.restore()
    wait_until(lambda: scene.a.events("superseded"), "it hears of that", 40)
    scene.has_moved(guest)
    check_disk(guest)
    print(scene.beats[guest.name].largest_gap_ms())
    assert not overlays(scene.a)


def metrics(agent) -> list[str]:
    """The lines that a Prometheus would read."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(agent.socket))
        client.sendall(b"GET /v1/metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with client.makefile() as answer:
            return answer.read().splitlines()


def test_writes_are_replayed(scene, store):  # noqa: F811
    """Of what the guest writes to its disk next to nothing is sent: the standby has it in memory."""
    guest = with_disk(scene, disk_rate=300, disk_buffered=True)
    protect(scene, guest, store)
    scene.beats[guest.name].wait(200)
    counts = progress(scene.a, guest)["checkpoints"]
    print(counts)
    assert counts["disk_bytes"] > 1 << 20
    assert counts["disk_found_bytes"] > 0.8 * counts["disk_bytes"]
    text = metrics(scene.a)
    assert f'vmferry_guest_info{{guest="{guest.name}",state="protected",role="postcopy"}} 1' in text
    assert f'vmferry_standby_connected{{guest="{guest.name}"}} 1' in text
    figure = next(line for line in text if line.startswith("vmferry_epoch_disk_bytes_total{"))
    assert int(figure.split()[1]) >= counts["disk_bytes"]
    scene.a.vmferry("failover", guest.name).require()
    has_gone_on(scene, guest)
    check_disk(guest)


def test_much_is_written(scene, store):  # noqa: F811
    """It goes to the standby's image by and by; killed agents and hosts do not harm that."""
    guest = with_disk(scene, disk_rate=1500)
    protect(scene, guest, store)
    image = DISK.on(scene.b)
    for _ in range(2):
        before = image.stat().st_mtime_ns
        wait_until(lambda: image.stat().st_mtime_ns > before + 10**9, "the image is written", 60)
        scene.b.kill()
        scene.b.start()
        wait_connected(scene, guest)
    [pid] = qemu_pids(scene.a.host, guest)
    scene.a.host.run(["kill", "-9", str(pid)])
    has_gone_on(scene, guest)
    check_disk(guest)
    print(scene.beats[guest.name].largest_gap_ms())


def test_failover_and_back(scene, store):  # noqa: F811
    guest = with_disk(scene)
    protect(scene, guest, store)
    for _ in range(2):
        scene.beats[guest.name].wait(50)
        here = scene.here(guest)
        here.vmferry("failover", guest.name).require()
        has_gone_on(scene, guest)
        check_disk(guest)
        protect(scene, guest, store, "--overwrite")
    scene.here(guest).vmferry("unprotect", guest.name).require()
    assert scene.here(guest).status(guest)["state"] == "running"
    scene.check(guest)
    check_disk(guest)
    scene.move(guest, "--verify", "--disks", "copy", "--overwrite")


def test_epochs_by_time_only(scene, store):  # noqa: F811
    """Its heartbeats wait for the interval, and a restarted agent still knows that."""
    guest = scene.run("web1", memory_mb=128, arena_mb=16)
    protect(scene, guest, store, "--sync", "timed", "--interval", "500ms")

    def rate() -> float:
        before, at = epochs(scene.a, guest), time.monotonic()
        scene.beats[guest.name].wait(200)
        return (epochs(scene.a, guest) - before) / (time.monotonic() - at)

    assert 0.5 < rate() < 2.5
    scene.a.stop()
    scene.a.start()
    wait_connected(scene, guest)
    assert 0.5 < rate() < 2.5
    scene.a.vmferry("unprotect", guest.name).require()
    scene.check(guest)


def test_unprotect(scene, store):  # noqa: F811
    guest = with_disk(scene)
    [pid] = qemu_pids(scene.a.host, guest)
    protect(scene, guest, store)
    scene.beats[guest.name].wait(50)
    scene.a.vmferry("unprotect", guest.name).require()
    status = scene.a.status(guest)
    assert status["state"] == "running" and status["pid"] == pid
    scene.check(guest)
    check_disk(guest)
    assert not overlays(scene.a)


def again(scene) -> None:
    for agent in (scene.a, scene.b):
        agent.settings["protect-again"] = "1"
        scene.restart(agent)


def test_standby_dies(scene, store):  # noqa: F811
    """It runs on, and after a while alone, by the witness's leave; and is protected when there is a host."""
    again(scene)
    guest = with_disk(scene)
    protect(scene, guest, store)
    scene.beats[guest.name].wait(50)
    end_everything(scene.b.host)
    wait_until(lambda: scene.a.status(guest)["state"] == "running", "it goes on alone", 60)
    scene.beats[guest.name].wait(20)
    scene.beats[guest.name].check()
    guest.check()
    check_disk(guest)
    assert scene.a.events("alone")
    scene.b.start()
    wait_until(lambda: scene.a.status(guest)["state"] == "protected", "it is protected again", 60)
    wait_until(lambda: len(scene.a.events("protected")) == 2, "it has an epoch", 60)
    scene.a.vmferry("failover", guest.name).require()
    wait_until(lambda: scene.b.status(guest)["state"] == "protected", "it is protected back", 60)
    wait_connected_on(scene.b, guest)
    scene.beats[guest.name].check()
    scene.b.vmferry("unprotect", guest.name).require()
    scene.has_moved(guest)
    check_disk(guest)


def test_options_after_a_failover(scene, store):  # noqa: F811
    """It is protected back as it was protected."""
    again(scene)
    guest = scene.run(**BUSY)
    protect(scene, guest, store, "--sync", "timed", "--interval", "200ms", "--overhead", "7",
            "--disk-sync", "copy")
    wanted = {**scene.a.status(guest)["protection"], "standby": f"{scene.a.address}:4747"}
    assert (wanted["sync"], wanted["overhead_percent"], wanted["copies_writes"]) == \
        ("timed", 7, True)
    scene.a.vmferry("failover", guest.name).require()
    wait_until(lambda: scene.b.status(guest)["state"] == "protected", "it is protected back", 60)
    wait_connected_on(scene.b, guest)
    assert scene.b.status(guest)["protection"] == wanted
    back = scene.a.status(guest)["protection"]
    assert back == {**wanted, "standby": f"{scene.b.address}:4747"}
    scene.b.vmferry("unprotect", guest.name).require()
    scene.has_moved(guest)


def test_standby_is_back_as_it_goes_on_alone(scene, store):  # noqa: F811
    """It is told so, while the guest's host has not put away all that it needed for it."""
    scene.restart(scene.a, {"VMFERRY_FAULT": "destination.complete-sent=stop"}, finds_guests=False)
    guest = with_disk(scene)
    [pid] = qemu_pids(scene.a.host, guest)
    protect(scene, guest, store)
    scene.b.freeze()
    wait_until(lambda: is_stopped(scene.a.pid), "it goes on alone", 60)
    os.kill(pid, signal.SIGSTOP)
    try:
        scene.a.thaw()
        scene.b.thaw()
        wait_until(lambda: guest.name not in scene.b.guest_names(), "its standby has ended", 30)
        assert scene.a.process.running
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: scene.a.status(guest)["state"] == "running", "it is as before", 30)
    scene.beats[guest.name].wait(20)
    scene.beats[guest.name].check()
    scene.restart(scene.a)
    scene.check(guest)
    check_disk(guest)


@pytest.mark.parametrize("side", ["host", "standby"])
def test_agent_is_restarted(scene, store, side):  # noqa: F811
    guest = with_disk(scene)
    protect(scene, guest, store)
    scene.beats[guest.name].wait(20)
    if side == "host":  # in order: it has asked for a lease that lasts
        scene.a.stop()
        scene.a.start()
    else:
        scene.b.kill()
        scene.b.start()
    wait_connected(scene, guest)
    before = epochs(scene.a, guest)
    wait_until(lambda: epochs(scene.a, guest) > before + 5, "epochs", 30)
    scene.beats[guest.name].wait(20)
    [pid] = qemu_pids(scene.a.host, guest)
    scene.a.host.run(["kill", "-9", str(pid)])
    has_gone_on(scene, guest)
    check_disk(guest)


def test_refusals(scene, store):  # noqa: F811
    """Nothing has happened to the guest."""
    guest = with_disk(scene)
    DISK.make(scene.b)

    def refused(*words, host=None, options=("--witness", store.address)):
        done = scene.a.vmferry("protect", guest.name, host or scene.b.address, *options, timeout=60)
        check_failed(done, *words)
        assert scene.a.status(guest)["state"] == "running"
        assert guest.name not in scene.b.guest_names()
        scene.check(guest)
        check_disk(guest)
    refused("exists", "--overwrite")
    refused("the standby", options=("--witness", scene.b.address))
    refused("this host", options=("--witness", scene.a.address))
    refused("refused", options=("--witness", f"{store.host.ip}:1"))
    check_failed(scene.a.vmferry("unprotect", guest.name), "is not protected")
    check_failed(scene.a.vmferry("failover", guest.name), "is not protected")


@pytest.mark.parametrize("point", PROTECT_POINTS)
def test_agent_dies_at_the_beginning(scene, store, point):  # noqa: F811
    """The guest runs on, as it was; protecting it works later."""
    side, _ = PROTECT_POINTS[point]
    agent = scene.a if side == "host" else scene.b
    guest = with_disk(scene)
    scene.restart(agent, {"VMFERRY_FAULT": f"{point}=kill"}, finds_guests=agent is scene.a)
    assert begin(scene, guest, store).exit_code != 0
    agent.process.wait(30)
    agent.start()
    wait_until(lambda: scene.a.vmferry("status", guest.name, "--json").json.get("state")
               == "running", "it is as it was", 60)
    wait_until(lambda: guest.name not in scene.b.guest_names(), "nothing is left there", 30)
    scene.check(guest)
    check_disk(guest)
    assert not overlays(scene.a)
    protect(scene, guest, store, "--overwrite")
