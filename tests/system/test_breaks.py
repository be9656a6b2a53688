"""Moves and saves whose connections break: they go on where they were, or the guest stays here.

What a break does to frames is shown by tests/unit/wire/test_reconnect.c; here the link between two
hosts is cut in the middle of real moves.
"""

import time

import pytest

from disks import LocalImage, drive, run_with
from findings import check_completed, check_failed
from live import check_disk
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
def test_several_connections_break(broken):
    """Each is made again, or left out, and what has an order keeps it."""
    move = begin(broken, "--connections", "4", "--retry-for", "30s", "--verify", bandwidth="8M")
    for _ in range(2):
        cut_for(broken, 2)
        wait_until(lambda: not move_progress(broken.here(broken.guest).status(broken.guest))
                   ["disconnected"], "a new connection", 15)
    report = check_completed(move.finish(), verified=True)
    assert report["most_connections"] == 4 and report["breaks"] >= 5
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


def nothing_there(scene, timeout=10) -> None:
    """The attempt has ended, and what it had made is gone."""
    there = scene.there(scene.guest)
    wait_until(lambda: not qemu_pids(there.host, scene.guest), "end of the copy there", timeout)


def test_patience_ends(broken):
    """Each side finds that alone; the guest runs on here, and nothing is left at either."""
    move = begin(broken, "--retry-for", "6s")
    broken.lab.link.cut()
    result = move.finish()
    nothing_there(broken, 20)
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
    """The attempt there waits for its source, which tells it as soon as there is a way."""
    move = begin(broken, "--retry-for", "5m")
    broken.lab.link.cut()
    wait_disconnected(broken)
    broken.here(broken.guest).vmferry("cancel", broken.guest.name).require()
    result = move.finish(timeout=15)
    assert result.exit_code != 0 and result.json["status"] == "cancelled"
    broken.beats[broken.guest.name].wait(5)
    assert qemu_pids(broken.there(broken.guest).host, broken.guest)
    broken.lab.link.restore()
    nothing_there(broken, 15)
    broken.move(broken.guest)


@pytest.mark.long
def test_agent_here_restarted_meanwhile(broken):
    """A session that nobody will go on with: its destination is told by who was restarted."""
    begin(broken, "--retry-for", "5m")
    broken.lab.link.cut()
    wait_disconnected(broken)
    broken.here(broken.guest).kill()
    broken.restart(broken.here(broken.guest))
    assert qemu_pids(broken.there(broken.guest).host, broken.guest)
    broken.lab.link.restore()
    nothing_there(broken, 15)
    broken.check(broken.guest)
    broken.move(broken.guest)


@pytest.mark.long
def test_agent_there_is_stopped_meanwhile(broken):
    """It waits for nobody's new connection."""
    move = begin(broken, "--retry-for", "5m")
    broken.lab.link.cut()
    wait_disconnected(broken)
    begun = time.monotonic()
    broken.there(broken.guest).stop()
    assert time.monotonic() - begun < 5
    broken.lab.link.restore()
    broken.there(broken.guest).start()
    check_failed(move.finish(timeout=30), "another agent than the one")
    broken.check(broken.guest)


POINTS = ["source.first-round", "source.accepted", "source.decided", "source.paused",
          "source.device-state-saved", "destination.launched", "destination.opened",
          "destination.round-applied"]


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_at_each_point(broken, point):
    """The link is gone for a while when one side is just there."""
    side = broken.here(broken.guest) if point.startswith("source") else broken.there(broken.guest)
    broken.restart(side, {"VMFERRY_FAULT": f"{point}=stop@1"})
    move = broken.here(broken.guest).begin_migrate(
        broken.guest, broken.there(broken.guest), "--retry-for", "1m", "--verify",
        "--downtime-cap", "20s")
    wait_until(lambda: is_stopped(side.pid), point, 60)
    broken.lab.link.cut()
    side.thaw()
    wait_disconnected(broken, 20)
    broken.lab.link.restore()
    report = check_completed(move.finish(timeout=60), verified=True)
    assert report["breaks"] >= 1
    broken.has_moved(broken.guest)
    broken.restart(side)


@pytest.mark.long
def test_hybrid_before_its_switch(broken):
    move = begin(broken, "--retry-for", "30s", "--mode", "hybrid")
    cut_for(broken, 2)
    result = move.finish().require()
    assert result.json["breaks"] >= 1
    broken.has_moved(broken.guest)


def written_blocks(guest) -> int:
    with guest.control() as control:
        return int(control.status()["disk_sequence"])


@pytest.mark.long
def test_disks_that_the_guest_writes_to(scene, any_qemu):
    """A break while they are copied: writes go on in it, and the copy is what the guest has written."""
    image = LocalImage("disks/disk.raw").make(scene.a, data_mb=24, size_mb=96)
    image.on(scene.b).parent.mkdir()
    guest = run_with(scene, drive(image.on(scene.a)), qemu=any_qemu, disk_rate=50)
    move = scene.a.begin_migrate(guest, scene.b, "--retry-for", "30s", "--verify", "--bandwidth",
                                 "4M")
    wait_progress(scene.a, guest, "disks", 4_000_000)
    scene.lab.link.cut()
    wait_disconnected(scene)
    before = written_blocks(guest)
    wait_until(lambda: written_blocks(guest) > before + 100, "writes go on", 10)
    scene.lab.link.restore()
    report = check_completed(move.finish(timeout=90), verified=True)
    assert report["breaks"] >= 1
    scene.has_moved(guest)
    check_disk(guest)


@pytest.mark.long
def test_images_that_nobody_writes_to(scene):
    """They go before GUEST."""
    image = LocalImage("disks/disk.raw").make(scene.a, data_mb=24, size_mb=96)
    image.on(scene.b).parent.mkdir()
    guest = run_with(scene, drive(image.on(scene.a), more=",readonly=on"), disk_rate=0)
    move = scene.a.begin_migrate(guest, scene.b, "--retry-for", "30s", "--bandwidth", "4M")
    wait_progress(scene.a, guest, "disks", 4_000_000)
    cut_for(scene, 2)
    assert check_completed(move.finish(timeout=90))["breaks"] >= 1
    scene.has_moved(guest)


def begin_and_pause(scene, *options):
    """A move whose source stops itself with its guest paused, once; the guest's process stays paused then."""
    here = scene.here(scene.guest)
    scene.restart(here, {"VMFERRY_FAULT": "source.paused=stop@1"})
    move = here.begin_migrate(scene.guest, scene.there(scene.guest), "--retry-for", "5m", *options)
    wait_until(lambda: is_stopped(here.pid), "the pause", 60)
    return move


def goes_on_here(scene) -> None:
    """With the trouble still there."""
    beats = scene.beats[scene.guest.name]
    wait_until(lambda: not beats.is_silent(0.1), "guest goes on", 15)
    beats.wait(5)


def test_in_the_pause(broken):
    """With the guest paused no break is waited for: it goes on here, and the move later, from where it was."""
    here = broken.here(broken.guest)
    move = begin_and_pause(broken, "--downtime-cap", "20s", "--verify")
    broken.lab.link.cut()
    before = sent_bytes(broken)
    here.thaw()
    goes_on_here(broken)
    broken.lab.link.restore()
    report = check_completed(move.finish(timeout=60), verified=True)
    assert report["retractions"] >= 1 and report["breaks"] >= 1
    # All of its memory again would be 16 MB.
    assert sent_bytes(broken) - before < 8_000_000
    broken.has_moved(broken.guest)
    broken.restart(here)


@pytest.mark.long
def test_in_the_pause_with_the_machine_loaded(broken):
    """The destination cannot take that back: the move ends, and never the guest."""
    there = broken.there(broken.guest)
    broken.restart(there, {"VMFERRY_FAULT": "destination.before-ready=stop@1"})
    move = broken.here(broken.guest).begin_migrate(broken.guest, there, "--retry-for", "5m",
                                                   "--downtime-cap", "20s")
    wait_until(lambda: is_stopped(there.pid), "the machine is loaded", 60)
    broken.lab.link.cut()
    there.thaw()
    goes_on_here(broken)
    broken.lab.link.restore()
    check_failed(move.finish(timeout=60), "the connection broke while the guest was paused",
                 "was loaded by then")
    broken.restart(there)
    broken.check(broken.guest)
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
