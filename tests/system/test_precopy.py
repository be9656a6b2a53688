"""Pre-copy, the happy paths: a guest moves while it runs, whole and only once."""

import pytest

from findings import check_completed
from scene import BUSY, SMALL, Scene, wait_progress
from vmferry_lab import qemu, qemu_pids, wait_gone, wait_until


def test_guest_that_was_run_moves(scene):
    guest = scene.run(**BUSY)
    old = scene.a.guest_pid(guest)
    report = scene.move(guest, "--verify")
    wait_gone(old, 1)
    assert report["verified"] is True
    assert report["source"] and scene.b.address in report["destination"]
    assert report["reason"] in ("converged", "no-gain", "enough-rounds")
    assert report["downtime_ms"] < 1500
    assert scene.a.guest_names() == [] and scene.b.guest_names() == [guest.name]


def test_guest_that_was_adopted_moves_and_comes_back(scene):
    guest = scene.adopt(**BUSY)
    scene.move(guest, "--verify")
    scene.move(guest, "--verify")
    assert scene.a.status(guest)["origin"] == "move"


def test_adopt_with_a_socket_named_by_hand(scene):
    guest = scene.lab.guest(**SMALL)
    process = scene.start(guest)
    path = guest.qmp_path(scene.lab.host_a)
    scene.a.vmferry("adopt", guest.name, "--pid", process.pid, "--qmp", path).require()
    check_completed(scene.a.migrate(guest, scene.b))
    process.wait()
    assert len(qemu_pids(scene.lab.host_b, guest)) == 1


def test_client_sees_no_more_downtime_than_is_reported(scene):
    guest = scene.run(**BUSY)
    beats = scene.beats[guest.name]
    beats.wait(100)
    start = beats.beats[-1].arrival_ms
    report = scene.move(guest)
    # Beside the pause there is the way of one packet, and a busy test machine.
    assert beats.downtime_ms(since_ms=start) < report["downtime_ms"] + 150


@pytest.mark.long
@pytest.mark.parametrize("qemu_version", ["7.2", "10.0"])
def test_busy_guest_moves_again_and_again(scene, qemu_version):
    guest = scene.run(qemu=qemu(qemu_version), pattern="dense", pages_per_second=2000)
    for _ in range(5):
        scene.move(guest, "--verify")


@pytest.mark.long
@pytest.mark.parametrize("pattern", ["intensive", "mixed"])
def test_twenty_busy_guests_in_a_row(scene, any_qemu, pattern):
    """As the experiment did it: 18 of 18, every page right."""
    guest = scene.run(qemu=any_qemu, memory_mb=512, arena_mb=256, pattern=pattern,
                      pages_per_second=15000, span_mb=64)
    for _ in range(20):
        scene.move(guest, "--verify")


@pytest.mark.parametrize("tracker", [
    pytest.param("pagemap-scan", marks=pytest.mark.long), "uffd-sync"])
def test_tracker_by_choice(shared, tracker):
    report = shared.move(shared.guest, "--verify", "--tracker", tracker)
    assert report["tracker"] == tracker


def test_best_tracker_by_itself(shared):
    assert shared.move(shared.guest)["tracker"] == "pagemap-scan"


def test_without_tls_by_explicit_choice(lab):
    scene = Scene(lab, None)
    scene.move(scene.run(), "--verify")


def test_two_guests_move_in_both_directions_at_once(scene):
    left = scene.run("left", **BUSY)
    right = scene.run("right", agent=scene.b, **BUSY)
    moves = [scene.here(guest).begin_migrate(guest, scene.there(guest), "--verify",
                                             "--bandwidth", "40M")
             for guest in (left, right)]
    for guest, move in zip((left, right), moves):
        check_completed(move.finish(), verified=True)
    for guest in (left, right):
        scene.place[guest.name] = scene.there(guest)
    for guest in (left, right):
        scene.check(guest)


def test_move_without_json_speaks_to_people(shared):
    here, there = shared.here(shared.guest), shared.there(shared.guest)
    result = here.vmferry("migrate", shared.guest.name, there.address)
    assert result.exit_code == 0, result.stderr
    assert "downtime" in result.stdout and "ms" in result.stdout
    assert not result.stdout.lstrip().startswith("{")
    shared.has_moved(shared.guest)


def test_detached_move_goes_on_by_itself(shared):
    """Whoever asked for the move may go away."""
    here, there = shared.here(shared.guest), shared.there(shared.guest)
    command = here.begin_migrate(shared.guest, there, "--bandwidth", "40M")
    wait_progress(here, shared.guest, "precopy")
    command.popen.kill()
    command.finish()
    wait_until(lambda: shared.guest.name in there.guest_names()
               and there.status(shared.guest)["state"] == "running", "move goes on")
    shared.has_moved(shared.guest)
