"""Post-copy: the guest runs at its destination before its memory is all there."""

import os
import signal
import time

import pytest

from disks import LocalImage, check_disk, drive, run_with
from findings import check_completed, check_failed, error_text
from live import monitor, power_off, run_live, user_monitor
from postcopy import (POSTCOPY_POINTS, WRITER, begin_split, is_split, move, outstanding_bytes,
                      wait_split, wait_whole)
from scene import BUSY, is_stopped
from trouble import write_forbidden
from vmferry_lab import qemu_pids, wait_until
from vmferry_lab.qmp import Qmp


# ---- it works ----

@pytest.mark.parametrize("memory", ["private", "shared"])
def test_guest_moves_there_and_back(scene, any_qemu, memory):
    guest = scene.run(qemu=any_qemu, shared_memory=memory == "shared", **BUSY)
    report = move(scene, guest)
    # Until the destination is ready, pages are sent all the same.
    assert report["postcopy"]["outstanding_pages"] > 100
    assert report["downtime_ms"] < 2000
    move(scene, guest)
    # Nothing of it is in the way of a pre-copy, and all memory is what it should be.
    scene.move(guest, "--verify")


def test_hybrid_where_precopy_would_not_end(scene, any_qemu):
    guest = scene.run(qemu=any_qemu, **WRITER)
    report = move(scene, guest, "--bandwidth", "8M", "--max-downtime", "50ms", mode="hybrid")
    assert report["reason"].startswith("switch")
    scene.move(guest, "--verify")


def test_hybrid_of_a_calm_guest_is_a_precopy(scene):
    guest = scene.run()
    check_completed(scene.migrate(guest, "--mode", "hybrid"), mode="precopy")
    scene.has_moved(guest)


def test_guest_with_several_vcpus(scene, any_qemu):
    guest = scene.run(qemu=any_qemu, vcpus=4, **BUSY)
    move(scene, guest)
    scene.move(guest, "--verify")


def test_guest_that_was_paused_stays_paused(scene):
    guest = scene.run(extra=user_monitor(scene))
    with monitor(scene, guest) as qmp:
        qmp.execute("stop")
    result = scene.migrate(guest, "--mode", "postcopy")
    assert result.exit_code == 0 and result.json["paused"] is True, result
    scene.require_silence(guest)
    assert scene.b.status(guest)["state"] == "paused"


def test_paused_guest_is_still_split_after_a_restart(scene):
    guest = scene.run(extra=user_monitor(scene), **WRITER)
    with monitor(scene, guest) as qmp:
        qmp.execute("stop")
    begun = begin_split(scene, rate="2M")
    scene.b.kill()
    scene.b.start()
    begun.finish()
    wait_whole(scene)
    scene.require_silence(guest)
    assert scene.b.status(guest)["state"] == "paused"


def test_verify_is_refused(scene):
    guest = scene.run()
    check_failed(scene.migrate(guest, "--mode", "postcopy", "--verify"), "--verify", exit_code=2)
    scene.check(guest)


# ---- while it is split ----

def finish(scene, begun) -> dict:
    report = check_completed(begun.finish(), mode="postcopy")
    scene.has_moved(scene.guest)
    scene.move(scene.guest, "--verify")
    return report


@pytest.mark.parametrize("seconds", [0.2, 3])
def test_link_is_cut_for_a_while(shared, seconds):
    begun = begin_split(shared)
    shared.lab.link.cut()
    time.sleep(seconds)
    shared.lab.link.restore()
    finish(shared, begun)


def test_agent_there_is_killed(shared):
    begun = begin_split(shared)
    there = shared.there(shared.guest)
    left = wait_until(lambda: outstanding_bytes(shared), "what is outstanding")
    there.kill()
    there.start()
    wait_split(shared)
    assert 0 < wait_until(lambda: outstanding_bytes(shared), "what is outstanding") <= left
    # What it waits for comes long before all the rest has.
    shared.beats[shared.guest.name].wait(3, timeout=4)
    assert is_split(shared)
    report = finish(shared, begun)
    assert report["postcopy"]["breaks"] >= 1


def test_agent_there_is_stopped_and_started(shared):
    begun = begin_split(shared)
    there = shared.there(shared.guest)
    there.stop()
    there.start()
    finish(shared, begun)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_agent_here_ends(shared, how):
    begun = begin_split(shared)
    here = shared.here(shared.guest)
    getattr(here, how)()
    here.start()
    begun.finish()
    wait_whole(shared)
    shared.has_moved(shared.guest)
    shared.move(shared.guest, "--verify")


def test_both_agents_are_killed(shared):
    begun = begin_split(shared)
    for agent in (shared.a, shared.b):
        agent.kill()
    for agent in (shared.a, shared.b):
        agent.start()
    begun.finish()
    wait_whole(shared)
    shared.has_moved(shared.guest)
    shared.move(shared.guest, "--verify")


def test_guest_powers_off_while_split(scene):
    guest = scene.run()
    begun = begin_split(scene)
    power_off(guest)
    begun.finish()
    for agent in (scene.a, scene.b):
        wait_until(lambda agent=agent: not qemu_pids(agent.host, guest), "end of the guest", 30)
    scene.forget(guest)


def balloon(scene, megabytes: int) -> None:
    with Qmp(scene.there(scene.guest).host.path("user.qmp")) as qmp:
        qmp.execute("balloon", value=megabytes << 20)
        wait_until(lambda: qmp.execute("query-balloon")["actual"] == megabytes << 20,
                   f"balloon at {megabytes} MB", 20)


def test_balloon_moves_while_split(scene, any_qemu):
    """What the guest gives back is not fetched any more, and what it takes again is its own."""
    guest = scene.run(qemu=any_qemu, memory_mb=256, arena_mb=96, extra=[
        *user_monitor(scene), "-device", "virtio-balloon-pci"])
    with guest.control() as control:
        control.free(64)
    begun = begin_split(scene, rate="4M")
    left = wait_until(lambda: outstanding_bytes(scene), "what is outstanding")
    balloon(scene, 192)
    wait_until(lambda: outstanding_bytes(scene) < left - (32 << 20), "pages are not outstanding")
    balloon(scene, 256)
    with guest.control() as control:
        control.write(pattern="dense", pages_per_second=2000)
    check_completed(begun.finish(), mode="postcopy")
    scene.has_moved(guest)
    scene.move(guest, "--verify")


def test_disk_moves_along(scene, any_qemu):
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a), "qcow2"), qemu=any_qemu)
    move(scene, guest)
    check_disk(guest)
    scene.move(guest, "--verify")
    check_disk(guest)


def test_guest_powers_off_while_split_after_a_restart(scene):
    """What the agent that died has not heard, the next one hears: it is not taken for a crash."""
    guest = scene.run()
    begun = begin_split(scene, rate="2M")
    scene.b.kill()
    scene.b.start()
    wait_split(scene)
    time.sleep(1)
    power_off(guest)
    begun.finish()
    for agent in (scene.a, scene.b):
        wait_until(lambda agent=agent: not qemu_pids(agent.host, guest), "end of the guest", 30)
    scene.forget(guest)


def test_its_process_dies_there(scene):
    """It is lost, as everywhere; what is here is kept, and said to be old."""
    guest = scene.run()
    begun = begin_split(scene)
    os.kill(qemu_pids(scene.b.host, guest)[0], signal.SIGKILL)
    result = begun.finish()
    assert result.exit_code == 3 and result.json["status"] == "split"
    wait_until(lambda: "--keep here" in (scene.a.status(guest)["problem"] or ""), "its end", 15)
    scene.require_silence(guest)
    scene.a.vmferry("resolve", guest.name, "--keep", "here").require()
    scene.beats[guest.name].wait(10)
    assert scene.a.status(guest)["state"] == "running"
    assert not qemu_pids(scene.b.host, guest)


def test_its_process_dies_here(scene):
    """Its pages are lost, and that is said; the guest is not resumed anywhere by itself, and can be
    ended."""
    guest = scene.run()
    begun = begin_split(scene)
    os.kill(qemu_pids(scene.a.host, guest)[0], signal.SIGKILL)
    result = begun.finish()
    assert result.exit_code == 3 and result.json["status"] == "split"
    assert is_split(scene)
    wait_until(lambda: "is lost" in (scene.b.status(guest)["problem"] or ""), "it is said there", 15)
    assert scene.b.events("memory-lost")
    scene.b.vmferry("stop", guest.name).require()
    assert not qemu_pids(scene.b.host, guest)
    scene.forget(guest)


@pytest.mark.parametrize("keep", ["here", "there"])
def test_no_decision_is_needed_where_it_is_known_who_has_it(shared, keep):
    begun = begin_split(shared)
    here = shared.here(shared.guest)
    result = here.vmferry("resolve", shared.guest.name, "--keep", keep)
    assert result.exit_code != 0 and "answers that it has" in result.stderr, result
    begun.finish()
    wait_whole(shared)
    shared.has_moved(shared.guest)
    shared.move(shared.guest, "--verify")


def test_split_guest_is_stopped(scene):
    """Nothing of it is needed any more, on either host."""
    guest = scene.run()
    begun = begin_split(scene)
    scene.b.vmferry("stop", guest.name).require()
    begun.finish()
    wait_until(lambda: not qemu_pids(scene.a.host, guest), "end of the old copy", 15)
    scene.forget(guest)


# ---- at each of its fault points ----

@pytest.mark.parametrize("point", POSTCOPY_POINTS)
def test_agent_is_killed_at(shared, point):
    side, where = POSTCOPY_POINTS[point]
    agent = shared.here(shared.guest) if side == "source" else shared.there(shared.guest)
    shared.restart(agent, {"VMFERRY_FAULT": f"{point}=kill"}, finds_guests=side == "source")
    begun = shared.here(shared.guest).begin_migrate(shared.guest, shared.there(shared.guest),
                                                    "--mode", "postcopy")
    agent.process.wait(30)
    agent.start()
    begun.finish()
    if where == "moves":
        wait_whole(shared)
        shared.has_moved(shared.guest)
    else:
        shared.check(shared.guest)
    move(shared, shared.guest)


def test_agent_is_killed_as_a_guest_arrives_that_was_not_split(scene):
    """It could have been, so there is a userfaultfd for it, which nobody needs any more."""
    guest = scene.run()
    scene.restart(scene.b, {"VMFERRY_FAULT": "destination.before-started=kill"}, finds_guests=False)
    begun = scene.a.begin_migrate(guest, scene.b, "--mode", "hybrid")
    scene.b.process.wait(30)
    scene.b.start()
    begun.finish()
    scene.has_moved(guest)
    scene.move(guest, "--verify")


SPLIT_POINTS = ["source.start-sent", "source.after-started", "destination.committed",
                "destination.after-commit", "destination.before-started"]


@pytest.mark.parametrize("point", SPLIT_POINTS)
def test_agent_is_killed_in_the_switchover(shared, point):
    guest = shared.guest
    agent = shared.here(guest) if point.startswith("source") else shared.there(guest)
    shared.restart(agent, {"VMFERRY_FAULT": f"{point}=kill"},
                   finds_guests=point.startswith("source"))
    begun = shared.here(guest).begin_migrate(guest, shared.there(guest), "--mode", "postcopy",
                                             "--bandwidth", "8M")
    agent.process.wait(30)
    agent.start()
    begun.finish()
    wait_whole(shared)
    shared.has_moved(guest)
    shared.move(guest, "--verify")


def test_image_is_locked_there(scene):
    """QEMU refuses to run the guest there: it goes on here, though pages were to follow."""
    guest = run_live(scene)
    scene.restart(scene.b, {"VMFERRY_FAULT": "destination.before-commit=stop"})
    begun = scene.a.begin_migrate(guest, scene.b, "--mode", "postcopy", "--bandwidth", "4M")
    wait_until(lambda: is_stopped(scene.b.pid), "destination.before-commit")
    with write_forbidden(guest.disk):
        scene.b.thaw()
        wait_until(lambda: not qemu_pids(scene.b.host, guest), "the destination's end", 20)
    result = begun.finish()
    assert result.exit_code == 1
    assert "could not be started" in error_text(result) and "lock" in error_text(result)
    scene.check(guest)
    scene.restart(scene.b)
    move(scene, guest)
