"""Somebody else drives the guest during its move: pauses, resumes, migrates, plugs, ends it."""

import os
import signal
import time
from contextlib import contextmanager

import pytest

from findings import check_failed
from live import make_image, monitor, power_off, root_of, run_live, unplug, user_monitor
from scene import SMALL, move_progress, wait_progress
from test_live_machine import plug_disk
from vmferry_lab import qemu_pids, wait_until

SLOW = ("--bandwidth", "12M")  # about two seconds for the lab's small guest


@contextmanager
def moving(scene, guest, *options):
    """A move under way, in its pre-copy; yields the command."""
    here, there = scene.here(guest), scene.there(guest)
    command = here.begin_migrate(guest, there, *(options or SLOW))
    wait_progress(here, guest, "precopy", 1 << 20)
    yield command


def run_state(scene, guest):
    with monitor(scene, guest) as qmp:
        return qmp.execute("query-status")["status"]


def require_paused(scene, guest):
    """Exactly one copy, paused, here; it can be run, and is unharmed then."""
    here, there = scene.here(guest), scene.there(guest)
    wait_until(lambda: not qemu_pids(there.host, guest), "end of the other copy", 15)
    assert qemu_pids(here.host, guest) == [here.guest_pid(guest)]
    assert here.status(guest)["state"] == "paused"
    scene.require_silence(guest)


def pause(scene, guest):
    """Its user pauses it, while a client is connected to it."""
    scene.beats[guest.name].wait(3)
    with monitor(scene, guest) as qmp:
        qmp.execute("stop")


def resume(scene, guest):
    with monitor(scene, guest) as qmp:
        qmp.execute("cont")
    scene.check(guest)


# ---- paused guests ----

def test_paused_guest_moves_and_stays_paused(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    pause(scene, guest)
    for _ in range(3):  # there, back, and there again, without ever running
        result = scene.migrate(guest, "--verify")
        assert result.exit_code == 0, result
        assert result.json["paused"] is True and result.json["verified"] is True
        scene.place[guest.name] = scene.there(guest)
        require_paused(scene, guest)
    resume(scene, guest)
    scene.move(guest)


def test_paused_guest_with_a_node_that_no_disk_uses_moves_on(scene):
    """QEMU 7.2 aborts when it is to release a node that was not made ready after its arrival."""
    spare = make_image(scene.lab.shared / "spare.raw")
    guest = run_live(scene, ["-blockdev", f"driver=raw,node-name=spare,file.driver=file,"
                                          f"file.filename={spare}"])
    pause(scene, guest)
    for _ in range(2):
        result = scene.migrate(guest)
        assert result.exit_code == 0 and result.json["paused"] is True, result
        scene.place[guest.name] = scene.there(guest)
    require_paused(scene, guest)
    resume(scene, guest)


def test_guest_that_is_paused_during_its_move_arrives_paused(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    with moving(scene, guest) as command:
        pause(scene, guest)
        result = command.finish()
    assert result.exit_code == 0 and result.json["paused"] is True, result
    scene.place[guest.name] = scene.there(guest)
    require_paused(scene, guest)
    resume(scene, guest)


def test_paused_guest_stays_paused_when_its_move_fails(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    pause(scene, guest)
    with scene.changed(scene.b, env={"VMFERRY_FAULT": "destination.before-ready=fail"}):
        check_failed(scene.migrate(guest), "destination.before-ready")
        require_paused(scene, guest)
    result = scene.migrate(guest)  # its images are held again: the next try works
    assert result.exit_code == 0 and result.json["paused"] is True, result
    scene.place[guest.name] = scene.there(guest)
    require_paused(scene, guest)
    resume(scene, guest)


@pytest.mark.parametrize("where", [
    "source.paused", pytest.param("source.device-state-saved", marks=pytest.mark.long),
    pytest.param("source.before-start", marks=pytest.mark.long), "source.start-sent"])
def test_agent_dies_while_a_paused_guest_moves(scene, where):
    """Neither the guard nor the restarted agent runs it."""
    guest = run_live(scene)
    pause(scene, guest)
    scene.a.stop()
    scene.a.start({"VMFERRY_FAULT": f"{where}=kill"})
    wait_until(lambda: guest.name in scene.a.guest_names(), "agent finds its guest")
    scene.a.begin_migrate(guest, scene.b).finish()
    scene.a.process.wait()
    scene.require_silence(guest, 1)
    scene.a.start()
    wait_until(lambda: _settled(scene, guest), "the agents agree where the guest is", 30)
    if where == "source.start-sent":
        scene.place[guest.name] = scene.b
    require_paused(scene, guest)
    resume(scene, guest)


def _settled(scene, guest):
    answers = [agent.vmferry("status", guest.name, "--json") for agent in (scene.a, scene.b)]
    states = [answer.json["state"] for answer in answers if answer.exit_code == 0]
    return states == ["paused"]


@pytest.mark.parametrize("where", [
    "destination.after-commit",
    pytest.param("destination.before-started", marks=pytest.mark.long)])
def test_destination_dies_while_a_paused_guest_arrives(scene, where):
    guest = run_live(scene)
    pause(scene, guest)
    scene.b.stop()
    scene.b.start({"VMFERRY_FAULT": f"{where}=kill"})
    command = scene.a.begin_migrate(guest, scene.b)
    scene.b.process.wait()
    scene.require_silence(guest, 0.5)
    scene.b.start()
    command.finish()
    wait_until(lambda: _settled(scene, guest), "the agents agree where the guest is", 30)
    scene.place[guest.name] = scene.b
    require_paused(scene, guest)
    resume(scene, guest)


def stay_paused(qmp) -> bool:
    """Its user's order; undone by the turns where it came while the guest stood for one."""
    qmp.execute("stop")
    end = time.monotonic() + 1.2  # longer than the longest turn
    while time.monotonic() < end:
        if qmp.execute("query-status")["status"] != "paused":
            return False
    return True


def test_agent_dies_while_a_guest_that_is_slowed_in_turns_is_paused_by_its_user(scene):
    """It is its user's to resume, in the guard's and the restarted agent's eyes as well."""
    guest = run_live(scene, memory_mb=256, arena_mb=24, pattern="dense", pages_per_second=1500,
                     span_mb=16)
    # A paused guest soon converges; the move stands right before its own pause then.
    scene.restart(scene.a, {"VMFERRY_FAULT": "source.decided=sleep:60000"})
    with moving(scene, guest, "--throttle", "duty", "--bandwidth", "3M", "--downtime-cap",
                "1s") as command:
        wait_until(lambda: (move_progress(scene.a.status(guest)) or {}).get("run_share", 1) < 1,
                   "it is slowed", 60)
        with monitor(scene, guest) as qmp:
            wait_until(lambda: stay_paused(qmp), "its user's pause", 40)
        assert move_progress(scene.a.status(guest))["phase"] == "precopy"
        scene.a.kill()
        command.finish()
    scene.require_silence(guest, 0.5)
    scene.a.start()
    wait_until(lambda: _settled(scene, guest), "the agent finds its guest paused", 30)
    require_paused(scene, guest)
    resume(scene, guest)


# ---- resumed by others, migrated by others ----

def test_guest_that_is_resumed_in_the_pause_is_not_handed_over(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    with scene.changed(scene.a, env={"VMFERRY_FAULT": "source.before-start=sleep:1500"}):
        command = scene.a.begin_migrate(guest, scene.b)
        wait_progress(scene.a, guest, "stopped")
        with monitor(scene, guest) as qmp:
            wait_until(lambda: qmp.execute("query-status")["status"] == "paused", "the pause")
            time.sleep(0.3)  # past the save; the fault point holds the move for longer
            qmp.execute("cont")
        check_failed(command.finish(), "another program resumed the guest")
        scene.check(guest)
    scene.move(guest)


def test_guest_that_somebody_else_migrates_is_left_to_them(scene, any_qemu):
    """QEMU's own migration has taken it to a file: nobody may run it here again."""
    guest = run_live(scene, qemu=any_qemu)
    with moving(scene, guest) as command:
        with monitor(scene, guest) as qmp:
            qmp.execute("migrate", uri=f"exec:cat > {scene.lab.shared}/stream")
            wait_until(lambda: qmp.execute("query-migrate").get("status") == "completed",
                       "QEMU's own migration")
        check_failed(command.finish(), "migration")
    scene.require_silence(guest, 1)
    assert run_state(scene, guest) == "postmigrate"
    assert not qemu_pids(scene.lab.host_b, guest)
    check_failed(scene.migrate(guest), "QEMU's own migration")


def test_move_does_not_begin_under_another_migration(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    with monitor(scene, guest) as qmp:
        qmp.execute("migrate-set-parameters", **{"max-bandwidth": 1000000})
        qmp.execute("migrate", uri=f"exec:cat > {scene.lab.shared}/stream")
        check_failed(scene.migrate(guest), "QEMU's own migration", "under way")
        qmp.execute("migrate_cancel")
        wait_until(lambda: qmp.execute("query-migrate")["status"] == "cancelled", "cancelled")
    scene.check(guest)
    scene.move(guest)


# ---- asleep ----

def fall_asleep(scene, guest):
    with monitor(scene, guest) as qmp:
        with guest.control() as control:
            control.suspend_to_ram()
        qmp.wait_event(lambda event: event["event"] == "SUSPEND")


def wake_up(scene, guest):
    with monitor(scene, guest) as qmp:
        qmp.execute("system_wakeup")
    scene.check(guest)


def test_guest_that_falls_asleep_during_its_move_stays(scene, any_qemu):
    """Suspended to RAM: QEMU does not carry that, so it must be woken first."""
    guest = run_live(scene, qemu=any_qemu)
    with moving(scene, guest) as command:
        fall_asleep(scene, guest)
        check_failed(command.finish(), "suspended to RAM", "wake it")
    assert run_state(scene, guest) == "suspended"
    check_failed(scene.migrate(guest), "suspended to RAM", "wake it")
    wake_up(scene, guest)
    scene.move(guest)


def test_sleeping_guest_that_its_user_pauses_stays(scene, any_qemu):
    """QEMU 10.0 calls it paused then, and knows of its sleep all the same."""
    guest = run_live(scene, qemu=any_qemu)
    fall_asleep(scene, guest)
    with monitor(scene, guest) as qmp:
        qmp.execute("stop")
        check_failed(scene.migrate(guest), "suspended to RAM", "wake it")
        qmp.execute("cont")
    assert run_state(scene, guest) == "suspended"
    wake_up(scene, guest)
    scene.move(guest)


# ---- changed by others during the move ----

def test_change_during_the_move_ends_it_with_the_thing_named(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    image = make_image(scene.lab.shared / "late.raw", size="8M")
    with moving(scene, guest) as command:
        with monitor(scene, guest) as qmp:
            plug_disk(qmp, image, "latecomer")
        check_failed(command.finish(), "changed during the move", "latecomer")
    scene.check(guest)
    with moving(scene, guest) as command:
        with monitor(scene, guest) as qmp:
            qmp.execute("blockdev-snapshot-sync", device="disk0", format="qcow2",
                        **{"snapshot-file": str(scene.lab.shared / "late.qcow2")})
        check_failed(command.finish(), "changed during the move", "late.qcow2")
    scene.check(guest)
    with moving(scene, guest) as command:
        with monitor(scene, guest) as qmp:
            unplug(qmp, "latecomer")
        check_failed(command.finish(), "changed during the move", "latecomer")
    scene.move(guest)


def test_job_that_begins_during_the_move_ends_it(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    with moving(scene, guest) as command:
        with monitor(scene, guest) as qmp:
            qmp.execute("drive-backup", **{"job-id": "nightly", "device": "disk0", "sync": "full",
                                           "target": str(scene.lab.shared / "backup.raw"),
                                           "format": "raw", "speed": 100000})
            check_failed(command.finish(), "nightly", "backup")
            qmp.execute("block-job-cancel", device="nightly", force=True)
            qmp.wait_event(lambda event: event["event"] == "BLOCK_JOB_CANCELLED")
    scene.check(guest)
    scene.move(guest)


def test_change_in_the_pause_is_named(scene, any_qemu):
    """After the guest has stopped, while the destination loads."""
    guest = run_live(scene, qemu=any_qemu, extra=["-device", "virtio-scsi-pci,id=scsi0"])
    image = make_image(scene.lab.shared / "late.raw", size="8M")
    with monitor(scene, guest) as qmp:
        qmp.execute("blockdev-add", driver="raw",
                    **{"node-name": "late",
                       "file": {"driver": "file", "filename": str(image)}})
    with scene.changed(scene.a, env={"VMFERRY_FAULT": "source.paused=sleep:1500"}):
        command = scene.a.begin_migrate(guest, scene.b)
        with monitor(scene, guest) as qmp:
            wait_until(lambda: qmp.execute("query-status")["status"] == "paused", "the pause")
            qmp.execute("device_add", driver="scsi-hd", id="latecomer", drive="late",
                        bus="scsi0.0")
        check_failed(command.finish(), "changed during the move", "latecomer")
        scene.check(guest)
    scene.move(guest)


# ---- ended ----

def check_ended(result, *words):
    check_failed(result, "has ended during the move", *words, exit_code=4, status="ended")
    assert result.json["reason"] == "guest-ended"


@pytest.mark.parametrize("how", ["poweroff", "killed", "quit"])
def test_guest_that_ends_during_its_move_is_said_to_have_ended(scene, any_qemu, how):
    guest = run_live(scene, qemu=any_qemu)
    pid = scene.a.guest_pid(guest)
    words = {"poweroff": "the guest powered off", "killed": "did not say why",
             "quit": "another program told QEMU to quit"}[how]
    with moving(scene, guest) as command:
        if how == "poweroff":
            power_off(guest)
        elif how == "quit":
            with monitor(scene, guest) as qmp:
                qmp.execute("quit")
        else:
            os.kill(pid, signal.SIGKILL)
        check_ended(command.finish(), words)
    for agent in (scene.a, scene.b):
        wait_until(lambda agent=agent: not qemu_pids(agent.host, guest), "no copy is left", 15)
        wait_until(lambda agent=agent: guest.name not in agent.guest_names(), "forgotten", 15)


def test_guest_that_powers_off_and_keeps_its_process(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu, extra=["-no-shutdown"])
    with moving(scene, guest) as command:
        with monitor(scene, guest) as qmp:
            power_off(guest)
            qmp.wait_event(lambda event: event["event"] == "SHUTDOWN")
        check_ended(command.finish(), "the guest powered off")
    assert run_state(scene, guest) == "shutdown"
    assert not qemu_pids(scene.lab.host_b, guest)
