"""Moves and saves whose connections break: they go on where they were, or the guest stays here.

What a break does to frames is shown by tests/unit/wire/test_reconnect.c; here the link between two
hosts is cut in the middle of real moves.
"""

import time

import pytest

from findings import check_completed, check_failed
from scene import BUSY, is_stopped, move_progress, wait_progress
from vmferry_lab import qemu_pids, wait_until


@pytest.fixture
def broken(scene):
    """A guest of which a slow move can be made."""
    scene.run(**BUSY)
    return scene


def begin(scene, *options, bandwidth="12M", sent=4_000_000):
    here = scene.here(scene.guest)
    move = here.begin_migrate(scene.guest, scene.there(scene.guest), "--bandwidth", bandwidth,
                              *options)
    wait_progress(here, scene.guest, "precopy", sent)
    return move


def wait_disconnected(scene, timeout=15):
    def look():
        progress = move_progress(scene.here(scene.guest).status(scene.guest))
        return progress and progress["disconnected"]
    wait_until(look, "the source notices", timeout)


def cut_for(scene, seconds: float) -> None:
    """A matter of time: what is tested is a break of this length."""
    scene.lab.link.cut()
    wait_disconnected(scene)
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, "the break's end", seconds + 5)
    scene.lab.link.restore()


def sent_bytes(scene) -> int:
    return scene.lab.link.bytes_from(scene.here(scene.guest).host.name)


def test_goes_on_where_it_was(broken):
    before = sent_bytes(broken)
    whole = check_completed(begin(broken, "--retry-for", "30s").finish())
    undisturbed = sent_bytes(broken) - before
    broken.has_moved(broken.guest)
    before = sent_bytes(broken)
    move = begin(broken, "--retry-for", "30s", "--verify")
    cut_for(broken, 4)
    report = check_completed(move.finish(), verified=True)
    assert report["breaks"] >= 1 and whole["breaks"] == 0
    # A move that began anew at the break would send what it had sent again.
    assert sent_bytes(broken) - before < 1.25 * undisturbed + 4_000_000
    broken.has_moved(broken.guest)


@pytest.mark.long
def test_breaks_again_and_again(broken):
    move = begin(broken, "--retry-for", "30s", "--verify", bandwidth="8M")
    for _ in range(3):
        cut_for(broken, 0.5)
        wait_until(lambda: not move_progress(broken.here(broken.guest).status(broken.guest))
                   ["disconnected"], "a new connection", 15)
    report = check_completed(move.finish(), verified=True)
    assert report["breaks"] >= 3
    broken.has_moved(broken.guest)


@pytest.mark.long
def test_runs_unhindered_meanwhile(broken):
    """A guest that is slowed is let go for as long as nothing can be sent."""
    move = begin(broken, "--retry-for", "30s", "--throttle", "duty", bandwidth="6M")
    broken.lab.link.cut()
    wait_disconnected(broken)
    beats = broken.beats[broken.guest.name]
    before = len(beats.beats)
    beats.wait(60, timeout=10)
    assert len(beats.beats) > before
    broken.lab.link.restore()
    check_completed(move.finish())
    broken.has_moved(broken.guest)


def test_patience_ends(broken):
    move = begin(broken, "--retry-for", "6s")
    broken.lab.link.cut()
    result = move.finish()
    wait_until(lambda: not qemu_pids(broken.there(broken.guest).host, broken.guest),
               "end of the copy there", 20)
    broken.lab.link.restore()
    check_failed(result, "tried to connect again")
    broken.check(broken.guest)
    broken.move(broken.guest)


def test_agent_there_restarted_meanwhile(broken):
    move = begin(broken, "--retry-for", "1m")
    broken.there(broken.guest).kill()
    broken.restart(broken.there(broken.guest))
    check_failed(move.finish(timeout=30), "another agent than the one that this session began with")
    broken.check(broken.guest)
    broken.move(broken.guest)


def test_cancelled_meanwhile(broken):
    """The attempt there waits for its source; the next one of the same source ends that."""
    move = begin(broken, "--retry-for", "5m")
    broken.lab.link.cut()
    wait_disconnected(broken)
    broken.here(broken.guest).vmferry("cancel", broken.guest.name).require()
    result = move.finish(timeout=15)
    assert result.exit_code != 0 and result.json["status"] == "cancelled"
    broken.beats[broken.guest.name].wait(5)
    assert qemu_pids(broken.there(broken.guest).host, broken.guest)
    broken.lab.link.restore()
    broken.move(broken.guest)


def test_in_the_pause(broken):
    """With the guest paused no long break is waited for: it goes on here."""
    here = broken.here(broken.guest)
    broken.restart(here, {"VMFERRY_FAULT": "source.paused=stop"})
    move = here.begin_migrate(broken.guest, broken.there(broken.guest), "--retry-for", "5m",
                              "--downtime-cap", "20s")
    wait_until(lambda: is_stopped(here.pid), "the pause", 30)
    broken.lab.link.cut()
    here.thaw()
    result = move.finish(timeout=40)
    check_failed(result, "tried to connect again")
    broken.beats[broken.guest.name].wait(5)
    broken.lab.link.restore()
    broken.restart(here)
    broken.move(broken.guest)


@pytest.mark.long
def test_save_to_another_host(scene):
    """Of a guest whose writes do not wait for the disk's copy."""
    scene.run(pattern="mixed", pages_per_second=300, disk_mb=16)
    broken = scene
    here, there = broken.here(broken.guest), broken.there(broken.guest)
    image = there.host.path("images") / "web1.vmferry"
    image.parent.mkdir()
    save = here.begin("save", broken.guest.name, f"{there.address}:{image}", "--bandwidth", "12M",
                      "--retry-for", "30s", "--json")
    wait_until(lambda: (move_progress(here.status(broken.guest)) or {}).get("wire_bytes", 0)
               > 4_000_000, "the save is under way", 30)
    cut_for(broken, 2)
    save.finish().require()
    there.vmferry("image", "verify", image).require()
    broken.check(broken.guest)
