"""The cap holds in the pause, too: what goes wrong there costs no more than it allows."""

import pytest

from findings import check_failed
from scene import move_until
from vmferry_lab import wait_until

# The default cap of 2 s and a quarter of it, what cutting and resuming take, and room for a busy
# machine: the pauses that are cut short here would last for minutes.
LONGEST_MS = 8000


def goes_on_soon(scene, guest) -> None:
    """No end of the trouble is needed for that."""
    wait_until(lambda: not scene.beats[guest.name].is_silent(0.1), "guest goes on", 10)
    scene.beats[guest.name].wait(5)
    assert scene.beats[guest.name].largest_gap_ms() < LONGEST_MS


def test_destination_that_hangs_in_the_pause(scene):
    guest = scene.run(pattern="mixed", pages_per_second=300)
    move = move_until(scene, scene.b, "destination.before-ready")
    goes_on_soon(scene, guest)
    scene.b.thaw()
    check_failed(move.finish(), "--downtime-cap is 2000 ms", "slower")
    scene.check(guest)
    scene.restart(scene.b)
    scene.move(guest, "--verify")


def test_link_that_collapses_in_the_pause(scene):
    """What is left would take minutes by then: the send that is stuck in it is cut."""
    guest = scene.run(memory_mb=256, arena_mb=128, pattern="intensive")
    scene.lab.link.shape("200mbit")
    move = move_until(scene, scene.a, "source.paused")
    scene.lab.link.shape("1mbit")
    scene.a.thaw()
    goes_on_soon(scene, guest)
    check_failed(move.finish(), "--downtime-cap is 2000 ms", "slower")
    scene.lab.link.shape(None)
    scene.restart(scene.a)
    scene.check(guest)
    scene.move(guest, "--verify")


@pytest.mark.long
def test_word_that_was_given_is_not_taken_back(scene):
    """After START only the destination decides, however long that takes."""
    guest = scene.run(pattern="mixed", pages_per_second=300)
    move = move_until(scene, scene.b, "destination.before-commit")
    scene.require_silence(guest, 3)
    scene.b.thaw()
    assert move.finish().exit_code == 0
    scene.has_moved(guest)
