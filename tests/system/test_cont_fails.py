"""The destination cannot run the guest: it must go on at its source, whoever finds out when.

A destination opens the images for writing, and locks them, with QEMU's `cont` only: after it
has committed.  QEMU's definite error there takes that back.
"""

import pytest

from findings import check_failed
from live import check_disk, run_live
from scene import move_until
from trouble import read_only, write_forbidden
from vmferry_lab import qemu_pids, wait_until


def ends_there(scene, guest) -> None:
    wait_until(lambda: not qemu_pids(scene.there(guest).host, guest), "the destination's end", 20)


def goes_on_here(scene, guest) -> None:
    """Unharmed, on record as it was; and it moves when nothing is in the way."""
    scene.check(guest)
    check_disk(guest)
    assert "state" not in scene.b.vmferry("status", guest.name, "--json").stdout
    scene.restart(scene.b)
    scene.move(guest)
    check_disk(guest)


def test_image_locked_by_another_process(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    move = move_until(scene, scene.b, "destination.before-commit")
    with write_forbidden(guest.disk):
        scene.b.thaw()
        ends_there(scene, guest)
    check_failed(move.finish(), "switchover", "could not be started", "lock")
    goes_on_here(scene, guest)


def test_image_became_read_only(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    move = move_until(scene, scene.b, "destination.before-commit")
    with read_only(scene.b, guest.disk):
        scene.b.thaw()
        ends_there(scene, guest)
    check_failed(move.finish(), "switchover", "could not be started", "Read-only")
    goes_on_here(scene, guest)


def test_image_that_is_free_again_in_a_moment(scene):
    """Somebody looks at the image just then: that is waited for."""
    guest = run_live(scene)
    move = move_until(scene, scene.b, "destination.before-commit")
    with write_forbidden(guest.disk):
        scene.b.thaw()
        wait_until(lambda: move.popen.poll() is None, "the move")
        scene.require_silence(guest, 0.3)
    assert move.finish().exit_code == 0
    scene.has_moved(guest)
    check_disk(guest)


def test_read_only_image_is_refused_before_the_pause(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    with read_only(scene.b, guest.disk):
        text = check_failed(scene.migrate(guest), "Read-only", str(guest.disk))
        assert "switchover" not in text
    goes_on_here(scene, guest)


def test_locked_image_is_refused_before_the_commit(scene):
    """Locked by another process while the guest is paused: seen before READY."""
    guest = run_live(scene)
    move = move_until(scene, scene.b, "destination.before-load")
    with write_forbidden(guest.disk):
        scene.b.thaw()
        ends_there(scene, guest)
    text = check_failed(move.finish(), "lock", str(guest.disk))
    assert "switchover" not in text
    goes_on_here(scene, guest)


@pytest.mark.long
def test_no_answer_of_a_source_whose_link_is_cut(scene):
    """The destination takes its commit back while nobody hears it; the source asks later."""
    guest = run_live(scene)
    move = move_until(scene, scene.b, "destination.before-commit")
    with write_forbidden(guest.disk):
        scene.lab.link.cut()
        scene.b.thaw()
        ends_there(scene, guest)
    result = move.finish()
    assert result.exit_code == 3, result
    scene.lab.link.restore()
    wait_until(lambda: scene.a.status(guest)["state"] == "running", "it goes on", 60)
    goes_on_here(scene, guest)
