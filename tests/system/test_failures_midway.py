"""What goes wrong while a move is under way, before the switchover: the source keeps the guest.

Each test breaks a slow move in the middle.  Afterwards the guest must run on where it was, with
nothing left on either side, and the next move must work.
"""

import os
import signal

import pytest

from findings import check_failed
from live import power_off
from scene import is_stopped, move_progress, wait_progress
from trouble import full_disk
from vmferry_lab import qemu_pids, wait_gone, wait_until


def begin_slow_move(scene, *options):
    """A move that would take many seconds, with a megabyte already sent."""
    here = scene.here(scene.guest)
    move = here.begin_migrate(scene.guest, scene.there(scene.guest), "--bandwidth", "4M", *options)
    wait_progress(here, scene.guest, "precopy", 1_000_000)
    return move


def wait_other_copy_gone(scene, timeout=15):
    there = scene.there(scene.guest)
    wait_until(lambda: not qemu_pids(there.host, scene.guest), "end of the copy there", timeout)


def link_cut(scene, move):
    scene.lab.link.cut()
    result = move.finish()
    wait_other_copy_gone(scene)  # both sides notice by themselves
    scene.beats[scene.guest.name].wait(5)
    scene.lab.link.restore()
    return result


def link_cut_one_way(scene, move):
    """Nothing reaches the source any more: what it sends is not answered."""
    scene.lab.link.cut(scene.here(scene.guest).host.name)
    result = move.finish()
    wait_other_copy_gone(scene)
    scene.lab.link.restore()
    return result


def agent_there_killed(scene, move):
    there = scene.there(scene.guest)
    there.kill()
    result = move.finish()
    wait_other_copy_gone(scene)  # by its guard, with no agent
    scene.restart(there)
    return result


def agent_there_stopped(scene, move):
    there = scene.there(scene.guest)
    there.stop()
    result = move.finish()
    wait_other_copy_gone(scene)
    scene.restart(there)
    return result


def agent_there_frozen(scene, move):
    there = scene.there(scene.guest)
    there.freeze()
    result = move.finish()
    there.thaw()
    wait_other_copy_gone(scene)
    return result


def agent_here_killed(scene, move):
    here = scene.here(scene.guest)
    here.kill()
    scene.beats[scene.guest.name].wait(5)
    wait_other_copy_gone(scene)
    scene.restart(here)
    return move.finish()


def agent_here_stopped(scene, move):
    here = scene.here(scene.guest)
    here.stop()
    result = move.finish()
    wait_other_copy_gone(scene)
    scene.restart(here)
    return result


def agent_here_frozen(scene, move):
    here = scene.here(scene.guest)
    here.freeze()
    wait_other_copy_gone(scene)
    scene.beats[scene.guest.name].wait(5)  # a frozen agent freezes no guest
    here.thaw()
    return move.finish()


def qemu_there_killed(scene, move):
    [pid] = qemu_pids(scene.there(scene.guest).host, scene.guest)
    os.kill(pid, signal.SIGKILL)
    return move.finish(10)  # noticed by the next page, not at the end of the round


def qemu_there_frozen(scene, move):
    """It takes its pages, but not its state: the pause reaches its limit."""
    [pid] = qemu_pids(scene.there(scene.guest).host, scene.guest)
    os.kill(pid, signal.SIGSTOP)
    result = move.finish(180)
    wait_other_copy_gone(scene, 100)  # QEMU has a minute to load
    return result


def interrupted_by_its_user(scene, move):
    move.popen.send_signal(signal.SIGINT)
    return move.finish()


@pytest.mark.parametrize("trouble, words, status", [
    (link_cut, ["10.66.0"], "failed"),
    pytest.param(link_cut_one_way, ["10.66.0"], "failed", marks=pytest.mark.long),
    (agent_there_killed, ["connection"], "failed"),
    pytest.param(agent_there_stopped, ["10.66.0", "connection"], "failed", marks=pytest.mark.long),
    pytest.param(agent_there_frozen, ["10.66.0", "silent"], "failed", marks=pytest.mark.long),
    (agent_here_killed, ["agent"], "failed"),
    pytest.param(agent_here_stopped, ["cancel"], "cancelled", marks=pytest.mark.long),
    pytest.param(agent_here_frozen, ["10.66.0", "connection"], "failed", marks=pytest.mark.long),
    (qemu_there_killed, ["host", "VMM has ended"], "failed"),
    pytest.param(qemu_there_frozen, ["downtime-cap"], "failed", marks=pytest.mark.long),
    (interrupted_by_its_user, ["cancel"], "cancelled"),
], ids=lambda value: getattr(value, "__name__", None))
def test_broken_off(shared, trouble, words, status):
    pid = shared.here(shared.guest).guest_pid(shared.guest)
    result = trouble(shared, begin_slow_move(shared))
    check_failed(result, *words, status=status)
    shared.check(shared.guest)
    assert shared.here(shared.guest).guest_pid(shared.guest) == pid
    shared.move(shared.guest, "--verify")


def test_agent_that_is_stopped_holds_a_guest_under_uffd_sync(shared):
    """A documented limit: a write to a protected page waits for the agent.  Nothing is lost, and
    the guest goes on with the agent."""
    guest, here = shared.guest, shared.here(shared.guest)
    move = begin_slow_move(shared, "--tracker", "uffd-sync")
    here.freeze()
    wait_until(lambda: shared.beats[guest.name].is_silent(0.5), "the guest waits for a page", 10)
    here.thaw()
    here.vmferry("cancel", guest.name).require()
    check_failed(move.finish(), "cancel", status="cancelled")
    shared.check(guest)
    shared.move(guest, "--verify")


def test_source_qemu_killed(scene):
    """Nobody can save the guest then; but both sides say so and clean up."""
    guest = scene.run()
    move = begin_slow_move(scene)
    os.kill(scene.a.guest_pid(guest), signal.SIGKILL)
    check_failed(move.finish(), guest.name, "has ended", exit_code=4, status="ended")
    wait_other_copy_gone(scene)
    wait_until(lambda: scene.a.guest_names() == [] == scene.b.guest_names(), "agents agree")
    assert not qemu_pids(scene.lab.host_a, guest)


@pytest.mark.long
def test_source_guest_powers_off(scene):
    guest = scene.run()
    pid = scene.a.guest_pid(guest)
    move = begin_slow_move(scene)
    power_off(guest)
    wait_gone(pid)
    check_failed(move.finish(), guest.name, "has ended", exit_code=4, status="ended")
    wait_other_copy_gone(scene)
    wait_until(lambda: scene.a.guest_names() == [] == scene.b.guest_names(), "agents agree")


# ---- cancelled at any moment ----

# Where the source waits for a second, and what may become of a cancel that comes then.
MOMENTS = [
    ("memory.tracker-started", {"cancelled"}),
    ("source.first-round", {"cancelled"}),
    ("source.accepted", {"cancelled"}),
    ("source.paused", {"cancelled"}),
    ("source.device-state-saved", {"cancelled"}),
    ("source.before-start", {"cancelled", "completed"}),
    ("source.start-sent", {"completed"}),
    ("source.after-started", {"completed"}),
]


# Much like others of the table.
SLOW = ("memory.tracker-started", "source.accepted", "source.device-state-saved",
        "source.before-start", "source.after-started")


@pytest.mark.parametrize("moment, outcomes", [
    pytest.param(*row, id=row[0], marks=[pytest.mark.long] if row[0] in SLOW else [])
    for row in MOMENTS])
def test_cancelled(shared, moment, outcomes):
    guest, here = shared.guest, shared.here(shared.guest)
    with shared.changed(here, env={"VMFERRY_FAULT": f"{moment}=sleep:1000"}):
        before = _last_event(here)
        move = here.begin_migrate(guest, shared.there(guest))
        wait_until(lambda: move_progress(here.status(guest)), "the move")
        _wait_moment(shared, moment, before)
        cancel = here.vmferry("cancel", guest.name, "--json")
        result = move.finish()
        assert result.json["status"] in outcomes, result
        if result.json["status"] == "cancelled":
            check_failed(result, "cancel", status="cancelled")
            assert cancel.exit_code == 0 and cancel.json["status"] == "cancelled"
            shared.check(guest)
        else:
            assert result.exit_code == 0
            assert cancel.exit_code in (1, 3)  # too late, or already over
            shared.has_moved(guest)
    shared.move(guest)


def _last_event(agent) -> int:
    return agent.vmferry("status", "--json").require().json["last_event"]


def _wait_moment(scene, moment, before) -> None:
    """Waits until the source has come so far that it is asleep at *moment*."""
    phases = {"memory.tracker-started": "connect", "source.first-round": "precopy",
              "source.accepted": "precopy", "source.paused": "precopy",
              "source.device-state-saved": "stopped", "source.before-start": "stopped",
              "source.start-sent": "switchover", "source.after-started": "switchover"}
    here = scene.here(scene.guest)

    def reached():
        status = here.vmferry("status", scene.guest.name, "--json")
        progress = status.exit_code == 0 and move_progress(status.json)
        return not progress or (progress["phase"] == phases[moment]
                                and scene.beats[scene.guest.name] and progress)

    wait_until(reached, f"the move is {phases[moment]}", 20)
    if moment == "source.paused":
        wait_until(lambda: scene.beats[scene.guest.name].is_silent(0.15), "the pause", 20)


def test_disk_full_at_the_hand_over(shared):
    """The word is not given when it cannot be written down."""
    guest, here = shared.guest, shared.here(shared.guest)
    with shared.changed(here, env={"VMFERRY_FAULT": "source.before-start=stop"}):
        with full_disk(here, here.host.path("state")) as fill:
            move = here.begin_migrate(guest, shared.there(guest))
            wait_until(lambda: is_stopped(here.pid), "the switchover")
            fill()
            here.thaw()
            check_failed(move.finish(), "switchover", "written down", "full")
            shared.check(guest)
    shared.move(guest)


def test_disk_full_there_at_the_hand_over(shared):
    """What cannot be committed is not begun."""
    guest, there = shared.guest, shared.there(shared.guest)
    with shared.changed(there, env={"VMFERRY_FAULT": "destination.before-commit=stop"}):
        with full_disk(there, there.host.path("state")) as fill:
            move = shared.here(guest).begin_migrate(guest, there)
            wait_until(lambda: is_stopped(there.pid), "the word")
            fill()
            there.thaw()
            check_failed(move.finish(), "switchover", "gave up")
            shared.check(guest)
    shared.move(guest)
