"""Post-copy at safety level full: the source can go on where the destination dies."""

import json
import os
import shutil
import signal
import time

import pytest

from live import check_disk, power_off
from postcopy import (FULL_POINTS, TAKEOVER_POINTS, WRITER, begin_split, is_split, move,
                      wait_whole)
from scene import BUSY, Scene
from conftest import keep_scene
from vmferry_lab import Lab, qemu_pids, wait_until


ASKED_S = 4  # within that a source has asked its destination again

# Writes and flushes all the time, and knows what it has written.
STATE_S = 30  # until a device state has to be saved
BREAK_S = 5   # the peers give a silent connection up
DISK = {"disk_mb": 16, "disk_rate": 50}


def read_events(agent, guest) -> list[dict]:
    lines = agent.vmferry("events", guest.name, "--json").require().stdout.splitlines()
    return [json.loads(line) for line in lines]


def checkpoints(scene, guest) -> dict:
    """What the last "whole" event of the guest says of them."""
    events = [event for event in read_events(scene.b, guest) if event["type"] == "whole"]
    return events[-1]["data"]["checkpoints"]


def test_guest_moves_and_comes_back(scene, any_qemu):
    guest = scene.run(qemu=any_qemu, **BUSY)
    report = move(scene, guest, "--safety", "full", "--bandwidth", "20M")
    print(report)
    print(checkpoints(scene, guest))
    assert checkpoints(scene, guest)["epochs"] > 3
    move(scene, guest, "--safety", "full")
    scene.move(guest, "--verify")


def test_agent_there_is_killed(scene):
    """What the source lacks is on record, and output waits for a new agent."""
    guest = scene.run(**WRITER)
    begun = begin_split(scene, "--safety", "full")
    scene.b.kill()
    scene.b.start()
    begun.finish()
    wait_whole(scene)
    scene.has_moved(guest)
    scene.move(guest, "--verify")


def test_agent_here_is_killed(scene):
    guest = scene.run(**WRITER)
    begun = begin_split(scene, "--safety", "full")
    scene.a.kill()
    begun.finish()
    scene.a.start()
    wait_whole(scene)
    scene.has_moved(guest)
    scene.move(guest, "--verify")


def overlays_on(agent) -> list:
    return list((agent.host.path("state") / "overlays").glob("*"))


# ENDED is on its way, or has come, and the other side does not know that.
END_POINTS = ["source.given-up=kill", "destination.ended=kill", "destination.passed=kill",
              "destination.passed=fail@1"]


@pytest.mark.parametrize("fault", [
    fault if fault == "destination.passed=kill" else pytest.param(fault, marks=pytest.mark.long)
    for fault in END_POINTS])
def test_the_end_is_interrupted(scene, fault):
    """Nobody waits for ever for what the other one has forgotten."""
    guest = scene.run(**WRITER)
    agent = scene.a if fault.startswith("source") else scene.b
    scene.restart(agent, {"VMFERRY_FAULT": fault}, finds_guests=agent is scene.a)
    begun = scene.a.begin_migrate(guest, scene.b, "--mode", "postcopy", "--safety", "full",
                                  "--bandwidth", "20M")
    if fault.endswith("kill"):
        agent.process.wait(60)
        agent.start()
    begun.finish()
    wait_whole(scene)
    wait_until(lambda: guest.name not in scene.a.guest_names(), "nothing is left here", 20)
    scene.has_moved(guest)
    scene.move(guest, "--verify")


@pytest.mark.long
def test_link_is_cut_as_it_begins(scene):
    """QEMU waits for a page, so a checkpoint waits for QEMU: the next session does not wait for that."""
    guest = scene.run(**BUSY)
    for _ in range(2):
        begun = begin_split(scene, "--safety", "full", rate="8M")
        scene.lab.link.cut()
        time.sleep(BREAK_S)
        scene.lab.link.restore()
        scene.beats[guest.name].wait(5, timeout=15)
        assert begun.finish().exit_code == 0
        wait_whole(scene)
        scene.has_moved(guest)


@pytest.mark.long
def test_qemu_there_stands_still(scene):
    """For longer than a checkpoint waits for it: the next one works, and output goes on."""
    guest = scene.run(**WRITER, **DISK)
    begun = begin_split(scene, "--safety", "full", "--compress", "none", rate="2M")
    scene.beats[guest.name].wait(20)
    pid, = qemu_pids(scene.b.host, guest)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(STATE_S + 1)
    os.kill(pid, signal.SIGCONT)
    scene.beats[guest.name].wait(40)
    assert is_split(scene)
    begun.finish()
    wait_whole(scene)
    scene.has_moved(guest)


@pytest.mark.long
@pytest.mark.parametrize("point", ["destination.ended", "destination.complete-sent"])
def test_last_word_comes_late(scene, point):
    """The source has given up its epochs, and asks in a new session whether that is known."""
    guest = scene.run(**BUSY)
    scene.restart(scene.b, {"VMFERRY_FAULT": f"{point}=sleep:7000"}, finds_guests=False)
    scene.migrate(guest, "--mode", "postcopy", "--safety", "full").require()
    scene.has_moved(guest)


def kill_there(scene, guest) -> None:
    pids = qemu_pids(scene.there(guest).host, guest)
    assert len(pids) == 1
    os.kill(pids[0], signal.SIGKILL)


@pytest.mark.parametrize("disk", [{}, DISK], ids=["memory", "disk"])
def test_qemu_there_is_killed(scene, any_qemu, disk):
    """The source goes on from the last epoch, and a client outside notices a pause at most."""
    guest = scene.run(qemu=any_qemu, **WRITER, **disk)
    begun = begin_split(scene, "--safety", "full")
    scene.beats[guest.name].wait(20)
    kill_there(scene, guest)
    assert begun.finish().exit_code != 0
    wait_until(lambda: scene.here(guest).status(guest)["role"] == "ours", "it is whole here", 60)
    scene.check(guest)
    assert not scene.b.events("memory-lost")  # that is of a source that has died
    wait_until(lambda: not overlays_on(scene.b), "no overlay is left", 10)
    if disk:
        check_disk(guest)
    assert not overlays_on(scene.b)
    print(scene.beats[guest.name].largest_gap_ms())
    scene.move(guest, "--verify")


def test_guest_that_shuts_down_there(scene):
    """What it has written is on its disk, and nothing of it is left on either side."""
    guest = scene.run(**WRITER, **DISK)
    begun = begin_split(scene, "--safety", "full")
    scene.beats[guest.name].wait(20)
    power_off(guest)
    begun.finish()
    for agent in (scene.a, scene.b):
        wait_until(lambda a=agent: a.guest_names() == [], "nothing is left", 30)
        wait_until(lambda a=agent: not qemu_pids(a.host, guest), "no process is left", 15)
    assert not overlays_on(scene.b)


@pytest.mark.long
def test_agent_is_killed_as_a_guest_is_stopped(scene):
    """It lacks pages that nobody will bring: it must not be taken for whole."""
    guest = scene.run(**WRITER, **DISK)
    scene.restart(scene.b, {"VMFERRY_FAULT": "destination.ended=kill"}, finds_guests=False)
    begun = begin_split(scene, "--safety", "full")
    scene.beats[guest.name].wait(20)
    assert scene.b.vmferry("stop", guest.name).exit_code != 0
    scene.b.process.wait(30)
    scene.b.start()
    begun.finish()
    for agent in (scene.a, scene.b):
        wait_until(lambda a=agent: a.guest_names() == [], "nothing is left", 30)
        wait_until(lambda a=agent: not qemu_pids(a.host, guest), "no process is left", 15)
    assert not overlays_on(scene.b)


@pytest.mark.long
def test_guest_that_is_stopped_there(scene):
    guest = scene.run(**WRITER, **DISK)
    begun = begin_split(scene, "--safety", "full")
    scene.beats[guest.name].wait(20)
    scene.b.vmferry("stop", guest.name).require()
    begun.finish()
    for agent in (scene.a, scene.b):
        wait_until(lambda a=agent: a.guest_names() == [], "nothing is left", 30)


@pytest.mark.long
def test_guest_that_nobody_can_make_whole_is_stopped(scene):
    """Its source's host has died, it waits for a page, and QEMU for it: it ends, and what it has
    written stays."""
    guest = scene.run(**WRITER, **DISK)
    begun = begin_split(scene, "--safety", "full", rate="1M")
    scene.beats[guest.name].wait(20)
    pid, = qemu_pids(scene.a.host, guest)
    scene.a.kill()
    os.kill(pid, signal.SIGKILL)
    begun.finish()
    there, = qemu_pids(scene.b.host, guest)
    os.kill(there, signal.SIGSTOP)  # QMP does not answer, whatever page comes first
    scene.b.vmferry("stop", guest.name).require()
    wait_until(lambda: not qemu_pids(scene.b.host, guest), "no process is left", 15)
    assert scene.b.guest_names() == []
    kept = overlays_on(scene.b)
    told, = [event["text"] for event in read_events(scene.b, guest)
             if event["type"] == "writes-kept"]
    assert kept and all(str(path) in told for path in kept)
    for path in kept:
        path.unlink()
    scene.a.start()
    wait_until(lambda: scene.a.guest_names() == [], "its source knows", 20)
    scene.forget(guest)


@pytest.mark.long
def test_auto_takes_what_costs_less(scene):
    """A guest that pre-copy would have to slow, or pause for long."""
    guest = scene.run(memory_mb=256, arena_mb=128, pattern="intensive")
    scene.lab.link.shape("200mbit")
    report = scene.migrate(guest, "--safety", "full", "--max-downtime", "50ms",
                           "--downtime-cap", "200ms").require().json
    scene.lab.link.shape(None)
    assert report["postcopy"]["outstanding_pages"] > 0
    scene.has_moved(guest)
    scene.move(guest, "--verify")


# ---- at each of its fault points ----

@pytest.fixture
def shared(request, module_scenes, pki):
    """A scene for the rows below, whose guest goes on from one to the next."""
    def make():
        scene = Scene(Lab(), pki)
        scene.run(**BUSY)
        return scene
    yield from keep_scene(request, module_scenes, make)


def rows(points, short):
    return [pytest.param(point, marks=[] if point in short else pytest.mark.long)
            for point in points]


@pytest.mark.parametrize("point", rows(FULL_POINTS, ("destination.held", "destination.ended",
                                                     "checkpoint.committed")))
def test_agent_is_killed_at(shared, point):
    side, where = FULL_POINTS[point]
    guest = shared.guest
    agent = shared.here(guest) if side == "source" else shared.there(guest)
    visit = 3 if point.startswith("checkpoint.") else 1
    shared.restart(agent, {"VMFERRY_FAULT": f"{point}=kill@{visit}"}, finds_guests=side == "source")
    begun = shared.here(guest).begin_migrate(guest, shared.there(guest), "--mode", "postcopy",
                                             "--safety", "full", "--bandwidth", "20M")
    agent.process.wait(30)
    agent.start()
    begun.finish()
    if where == "moves":
        wait_whole(shared)
        shared.has_moved(guest)
    else:
        shared.check(guest)
    assert not overlays_on(shared.a) and not overlays_on(shared.b)
    move(shared, guest, "--safety", "full")


@pytest.mark.parametrize("point", rows(TAKEOVER_POINTS, ("takeover.image-open",
                                                         "takeover.loaded", "takeover.become")))
def test_source_is_killed_as_it_takes_over(shared, point):
    """It goes on where it was, or from the beginning."""
    guest = shared.guest
    here = shared.here(guest)
    shared.restart(here, {"VMFERRY_FAULT": f"{point}=kill"})
    begun = begin_split(shared, "--safety", "full")
    shared.beats[guest.name].wait(20)
    kill_there(shared, guest)
    here.process.wait(30)
    here.start()
    begun.finish()
    wait_until(lambda: here.status(guest)["role"] == "ours", "it is whole here", 60)
    shared.check(guest)
    assert not overlays_on(shared.there(guest))
    move(shared, guest, "--safety", "full")


def test_operator_has_it_taken_over(scene):
    """Where the destination's whole host is gone, nobody says so to the source."""
    guest = scene.run(**WRITER, **DISK)
    begun = begin_split(scene, "--safety", "full")
    scene.beats[guest.name].wait(20)
    scene.b.kill()
    kill_there(scene, guest)
    scene.require_silence(guest)
    scene.a.vmferry("resolve", guest.name, "--keep", "here").require()
    begun.finish()
    wait_until(lambda: scene.a.status(guest)["role"] == "ours", "it is whole here", 60)
    scene.beats[guest.name].wait(5)
    scene.b.start()
    scene.check(guest)
    check_disk(guest)
    wait_until(lambda: not overlays_on(scene.b), "no overlay is left", 10)
    scene.move(guest, "--verify")


@pytest.mark.long
def test_all_there_is_killed_as_it_arrives(scene):
    """It may have run, and nobody has heard of that: the source need not ask an operator."""
    guest = scene.run(**WRITER)
    scene.restart(scene.b, {"VMFERRY_FAULT": "destination.after-commit=kill"}, finds_guests=False)
    begun = scene.a.begin_migrate(guest, scene.b, "--mode", "postcopy", "--safety", "full")
    scene.b.process.wait(30)
    kill_there(scene, guest)
    scene.b.start()
    assert begun.finish().exit_code != 0
    wait_until(lambda: scene.a.status(guest)["role"] == "ours", "it is whole here", 60)
    scene.check(guest)
    scene.move(guest, "--verify")


@pytest.mark.long
def test_alone_there_is_not_taken_over(scene):
    """Others have heard of what it did there: only an operator may forget that."""
    guest = scene.run(**WRITER)
    begun = begin_split(scene, "--safety", "full")
    scene.a.kill()
    begun.finish()
    wait_until(lambda: scene.b.vmferry("resolve", guest.name, "--keep", "here").exit_code == 0,
               "it goes on alone", 20)
    kill_there(scene, guest)
    wait_until(lambda: guest.name not in scene.b.guest_names(), "it is lost there", 20)
    scene.a.start()
    time.sleep(ASKED_S)
    assert scene.a.status(guest)["role"] == "postcopy-source"
    scene.a.vmferry("resolve", guest.name, "--keep", "here").require()
    wait_until(lambda: scene.a.status(guest)["role"] == "ours", "it is whole here", 60)
    with guest.control() as control:
        control.check()
    scene.a.vmferry("stop", guest.name).require()
    scene.forget(guest)


@pytest.mark.long
def test_record_there_cannot_be_read(scene):
    """Its guest may run all the same: it is not taken over before somebody has looked."""
    guest = scene.run(**WRITER)
    begun = begin_split(scene, "--safety", "full")
    scene.b.kill()
    record = scene.b.host.directory / "state" / "guests" / f"{guest.name}.json"
    record.write_text("{")
    scene.b.start()
    rejected = record.with_name(record.name + ".bad")
    wait_until(rejected.exists, "it is rejected", 10)
    time.sleep(ASKED_S)
    assert scene.a.status(guest)["role"] == "postcopy-source"
    kill_there(scene, guest)
    rejected.unlink()
    for left in (scene.b.host.directory / "run").glob("guest-*"):
        shutil.rmtree(left)  # what that record named
    begun.finish()
    wait_until(lambda: scene.a.status(guest)["role"] == "ours", "it is whole here", 60)
    scene.check(guest)
