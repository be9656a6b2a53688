"""What goes wrong while disks move along: the guest stays where it is, unharmed, its QEMU is as it
was before, nothing is left there, and the next move works."""

import os
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from disks import DISK, DISK_POINTS, LocalImage, files_on, read_graph, run_with
from findings import check_failed
from live import check_disk, monitor
from scene import is_stopped, wait_progress
from test_failures_midway import (agent_here_killed, agent_here_stopped, agent_there_frozen,
                                  agent_there_killed, agent_there_stopped, interrupted_by_its_user,
                                  link_cut, link_cut_one_way, wait_other_copy_gone)
from trouble import fill, read_only, write_forbidden
from vmferry_lab import wait_until

# A guest that does not write may be away for no longer than this, whatever happens.
LONGEST_GAP_MS = 8000
MIB = 1 << 20


@dataclass
class Before:
    """What must be the same afterwards."""
    pid: int
    graph: list
    here: set
    there: set

    @classmethod
    def look(cls, scene) -> "Before":
        guest = scene.guest
        return cls(scene.here(guest).guest_pid(guest), read_graph(scene, guest),
                   files_on(scene.here(guest)), files_on(scene.there(guest)))

    def check(self, scene) -> None:
        guest = scene.guest
        scene.check(guest)
        check_disk(guest)
        assert scene.here(guest).guest_pid(guest) == self.pid
        assert read_graph(scene, guest) == self.graph
        assert files_on(scene.there(guest)) == self.there
        assert files_on(scene.here(guest)) == self.here
        with guest.control() as control:  # its disk works
            before = int(control.status()["disk_sequence"])
            wait_until(lambda: int(control.status()["disk_sequence"]) > before + 5,
                       "the guest writes", 10)


@contextmanager
def nothing_changes(scene):
    """What is done in there does not harm the guest; the next move works."""
    before = Before.look(scene)
    scene.beats[scene.guest.name].wait(2)
    begun = scene.beats[scene.guest.name].beats[-1].arrival_ms
    yield
    before.check(scene)
    assert scene.beats[scene.guest.name].largest_gap_ms(begun) < LONGEST_GAP_MS
    scene.move(scene.guest, "--verify")
    check_disk(scene.guest)


def agent_there_killed_early(scene, move):
    """Perhaps while its QEMU starts, which has no guard yet: the restarted agent ends it."""
    there = scene.there(scene.guest)
    there.kill()
    result = move.finish()
    scene.restart(there)
    wait_other_copy_gone(scene)
    return result


def begin_move(scene, phase: str):
    """A move that is in the bulk of the disk, or has it in sync."""
    guest, here = scene.guest, scene.here(scene.guest)
    rate = {"bulk": "4M", "in-sync": "8M"}[phase]
    move = here.begin_migrate(guest, scene.there(guest), "--bandwidth", rate)
    if phase == "bulk":
        wait_until(lambda: _disk_bytes(scene) > 2 * MIB, "the disk's bulk", 30)
    else:
        wait_progress(here, guest, "precopy")
    return move


def _disk_bytes(scene) -> int:
    progress = (scene.here(scene.guest).status(scene.guest).get("activity") or {}).get("progress")
    return progress["disk_bytes_done"] if progress else 0


# ---- in the middle ----

def storage_process_killed(scene, move):
    pid, = storage_pids(scene.there(scene.guest))
    os.kill(pid, signal.SIGKILL)
    return move.finish()


def storage_process_frozen(scene, move):
    """It takes nothing any more; it is ended by force."""
    pid, = storage_pids(scene.there(scene.guest))
    os.kill(pid, signal.SIGSTOP)
    return move.finish()


def storage_pids(agent) -> list[int]:
    found = []
    for pid in agent.host.namespace.pids():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if b"-machine" in words and words[words.index(b"-machine") + 1] == b"none":
            found.append(pid)
    return found


def cancelled(scene, move):
    scene.here(scene.guest).vmferry("cancel", scene.guest.name).require()
    return move.finish()


def user_ends_the_copy(scene, move):
    """Somebody else's monitor."""
    with monitor(scene, scene.guest) as qmp:
        job, = qmp.execute("query-block-jobs")
        qmp.execute("block-job-cancel", device=job["device"], force=True)
    return move.finish()


LONG = pytest.mark.long
TROUBLES = [
    ("bulk", link_cut, ["has taken no content"], "failed", ()),
    ("in-sync", link_cut, ["10.66.0"], "failed", LONG),
    ("bulk", link_cut_one_way, ["has taken no content"], "failed", LONG),
    ("in-sync", link_cut_one_way, ["10.66.0"], "failed", ()),
    ("bulk", agent_there_killed_early, ["10.66.0"], "failed", ()),
    ("in-sync", agent_there_killed, ["10.66.0"], "failed", LONG),
    ("bulk", agent_there_stopped, ["10.66.0"], "failed", LONG),
    ("bulk", agent_there_frozen, ["has taken no content"], "failed", LONG),
    ("in-sync", agent_there_frozen, ["10.66.0"], "failed", LONG),
    ("bulk", agent_here_killed, ["agent"], "failed", ()),
    ("in-sync", agent_here_killed, ["agent"], "failed", LONG),
    ("bulk", agent_here_stopped, ["cancel"], "cancelled", LONG),
    ("bulk", storage_process_killed, ["disk"], "failed", ()),
    ("in-sync", storage_process_killed, ["disk"], "failed", LONG),
    ("bulk", storage_process_frozen, ["disk"], "failed", LONG),
    ("bulk", cancelled, ["cancel"], "cancelled", ()),
    ("in-sync", cancelled, ["cancel"], "cancelled", LONG),
    ("bulk", interrupted_by_its_user, ["cancel"], "cancelled", LONG),
    ("bulk", user_ends_the_copy, ["disk0", "copy"], "failed", LONG),
    ("in-sync", user_ends_the_copy, ["disk0", "copy"], "failed", LONG),
]


@pytest.mark.parametrize("phase, trouble, words, status", [
    pytest.param(phase, trouble, words, status, marks=marks,
                 id=f"{trouble.__name__}-{phase}")
    for phase, trouble, words, status, marks in TROUBLES])
def test_broken_off(local, phase, trouble, words, status):
    with nothing_changes(local):
        result = trouble(local, begin_move(local, phase))
        check_failed(result, *words, status=status)


@pytest.mark.long
def test_agent_that_is_frozen_holds_up_writes(local):
    """What a guest writes waits for the agent in sync; nothing is lost, it goes on with the agent."""
    guest, here = local.guest, local.here(local.guest)
    before = Before.look(local)
    move = begin_move(local, "in-sync")
    here.freeze()
    local.beats[guest.name].wait(40)
    here.thaw()
    move.finish()
    if local.place[guest.name].guest_names() == []:
        local.has_moved(guest)
    else:
        before.check(local)
    check_disk(guest)


# ---- at each point ----

def agent_of(scene, point):
    return (scene.here if point.startswith("source") else scene.there)(scene.guest)


SHORT_KILLED = ("source.disks-finished", "destination.disks-made")
SHORT_FAILING = ("source.disks-in-sync",)


def points(short):
    return [pytest.param(point, marks=() if point in short else LONG) for point in DISK_POINTS]


@pytest.mark.parametrize("point", points(SHORT_KILLED))
def test_agent_killed(local, point):
    agent = agent_of(local, point)
    with nothing_changes(local):
        local.restart(agent, {"VMFERRY_FAULT": f"{point}=kill"})
        move = local.here(local.guest).begin_migrate(local.guest, local.there(local.guest))
        agent.process.wait(30)
        local.beats[local.guest.name].wait(3)
        local.restart(agent)
        assert move.finish().exit_code == 1


@pytest.mark.parametrize("point", points(SHORT_FAILING))
def test_step_fails(local, point):
    agent = agent_of(local, point)
    with nothing_changes(local):
        local.restart(agent, {"VMFERRY_FAULT": f"{point}=fail@1"})
        check_failed(local.migrate(local.guest), f"fault point {point}")


@pytest.mark.long
@pytest.mark.parametrize("point", DISK_POINTS)
def test_agent_frozen(local, point):
    guest, agent = local.guest, agent_of(local, point)
    before = Before.look(local)
    local.restart(agent, {"VMFERRY_FAULT": f"{point}=stop@1"})
    move = local.here(guest).begin_migrate(guest, local.there(guest))
    wait_until(lambda: is_stopped(agent.pid), point, 30)
    local.beats[guest.name].is_silent(4)
    agent.thaw()
    if move.finish().exit_code == 0:
        local.has_moved(guest)
    else:
        before.check(local)
    check_disk(guest)
    local.restart(agent)
    local.move(guest, "--verify")


# ---- no room, no right ----

@contextmanager
def small_disk(agent, size: str):
    """For the agent, and all that it starts, the disk's folder is a disk of that size."""
    enter = ["nsenter", f"--mount=/proc/{agent.pid}/ns/mnt"]
    folder = DISK.on(agent).parent
    subprocess.run([*enter, "mount", "-t", "tmpfs", "-o", f"size={size}", "small", folder],
                   check=True)
    try:
        yield Path(f"/proc/{agent.pid}/root{folder}")
    finally:
        subprocess.run([*enter, "umount", "--lazy", folder], check=True)


def refused_and_unharmed(scene, *words):
    """The move fails with *words*; nothing has changed."""
    before = Before.look(scene)
    check_failed(scene.migrate(scene.guest), *words)
    before.check(scene)


def test_too_little_space_is_refused_before(local):
    with small_disk(local.there(local.guest), "8m"):
        refused_and_unharmed(local, "disks need", "MiB in", "8 MiB are free")


def test_disk_full_there(local):
    """Another one takes the space while the disk is copied."""
    with small_disk(local.there(local.guest), "120m") as folder:
        before = Before.look(local)
        move = begin_move(local, "bulk")
        fill(folder)
        check_failed(move.finish(), "space")
        before.check(local)
        assert [path.name for path in folder.iterdir()] == ["filler"]


@pytest.mark.long
def test_folder_is_not_there(local):
    folder = DISK.on(local.there(local.guest)).parent
    folder.rename(folder.with_name("renamed"))
    try:
        refused_and_unharmed(local, str(folder), "No such file")
    finally:
        folder.with_name("renamed").rename(folder)


def test_folder_that_cannot_be_written(local):
    there = local.there(local.guest)
    with read_only(there, DISK.on(there).parent):
        refused_and_unharmed(local, str(DISK.on(there).parent), "Read-only")


def test_after_no_room_it_moves(local):
    local.move(local.guest, "--verify")


def test_image_in_use_there(local):
    """Another guest's: not even --overwrite takes it."""
    guest, there = local.guest, local.there(local.guest)
    path = DISK.on(there)
    path.write_bytes(b"\1" * MIB)
    with write_forbidden(path):
        before = Before.look(local)
        check_failed(local.migrate(guest, "--disk", "disk0=copy", "--overwrite"), "in use")
        before.check(local)
    assert path.read_bytes() == b"\1" * MIB
    path.unlink()


# ---- an image with errors ----

def test_source_image_with_errors(scene, any_qemu):
    """QEMU injects errors into reads of a part to which the guest does not come."""
    image = LocalImage("disk.raw").make(scene.a)
    rules = scene.a.host.path("errors.conf")
    rules.write_text('[inject-error]\nevent = "read_aio"\niotype = "read"\n'
                     f'sector = "{66 * 2048}"\nerrno = "5"\nonce = "off"\nimmediately = "off"\n')
    guest = run_with(scene, [
        "-drive", f"file.driver=blkdebug,file.config={rules},file.image.driver=file,"
                  f"file.image.filename={image.on(scene.a)},format=raw,if=none,id=disk0",
        "-device", "virtio-blk-pci,drive=disk0"], qemu=any_qemu)
    before = read_graph(scene, guest)
    check_failed(scene.migrate(guest, "--disks", "copy"), "disk0")
    scene.check(guest)
    check_disk(guest)
    assert read_graph(scene, guest) == before
    assert not files_on(scene.b)
