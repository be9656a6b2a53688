"""Pre-copy over links: the cap on bandwidth, progress, events, cancelling."""

import json
import time

import pytest

from findings import check_completed, check_failed
from scene import move_progress, wait_progress
from vmferry_lab import wait_until

CAP = 12_000_000  # bytes a second


def test_bandwidth_cap_holds(scene):
    """Within 5 % over the move, by its own count and by the interface's."""
    guest = scene.run(arena_mb=48)
    before = scene.lab.link.bytes_from("hostA")
    report = scene.move(guest, "--bandwidth", str(CAP))
    on_link = scene.lab.link.bytes_from("hostA") - before
    first = report["rounds"][0]
    assert first["ms"] > 5000, "too short to say anything"
    assert 0.9 * CAP < first["wire_bytes"] / first["ms"] * 1000 < 1.05 * CAP
    assert 0.8 * CAP < report["wire_bytes"] / report["total_ms"] * 1000 < 1.05 * CAP
    # TCP/IP and Ethernet headers come on top.
    assert report["wire_bytes"] <= on_link < 1.05 * report["wire_bytes"]


def test_bandwidth_default_of_the_configuration(scene):
    guest = scene.run(arena_mb=32)
    with scene.changed(scene.a, settings={"bandwidth": "160mbit"}):
        report = scene.move(guest)
        rate = report["wire_bytes"] / report["total_ms"] * 1000
        assert rate < 1.05 * 20e6


def test_shaped_link_with_progress(scene):
    """What people see while a move goes on tells the truth."""
    guest = scene.run(memory_mb=256, arena_mb=160, pattern="dense", pages_per_second=300)
    scene.lab.link.shape("1gbit")
    command = scene.a.begin_migrate(guest, scene.b, "--verify")
    seen = []
    while command.popen.poll() is None:
        status = scene.a.vmferry("status", guest.name, "--json")
        if status.exit_code == 0 and move_progress(status.json):
            seen.append(move_progress(status.json))
    report = check_completed(command.finish(), verified=True)
    scene.has_moved(guest)
    assert seen, "no progress was shown"
    assert [s["wire_bytes"] for s in seen] == sorted(s["wire_bytes"] for s in seen)
    assert all(s["round_bytes_done"] <= s["round_bytes"] for s in seen)
    assert seen[-1]["wire_bytes"] <= report["wire_bytes"]
    assert report["wire_bytes"] / report["total_ms"] * 1000 < 125e6


def read_events(agent, guest) -> list[dict]:
    lines = agent.vmferry("events", guest.name, "--json").require().stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_events_of_both_sides(scene):
    guest = scene.run()
    scene.move(guest)
    types = [event["type"] for event in read_events(scene.a, guest)]
    assert types == ["started", "moving", "moved"]
    assert [event["type"] for event in read_events(scene.b, guest)] == ["receiving", "arrived"]
    scene.move(guest)
    moved = read_events(scene.b, guest)[-1]
    assert moved["type"] == "moved" and moved["data"]["status"] == "completed"


def test_events_are_followed_as_they_come(shared):
    guest, here = shared.guest, shared.here(shared.guest)
    follower = here.begin("events", "--follow", "--json")
    try:
        shared.move(guest)
        until = time.monotonic() + 20
        for line in follower.popen.stdout:
            if json.loads(line)["type"] == "moved":
                return
            assert time.monotonic() < until, "event does not come"
    finally:
        follower.popen.kill()
        follower.finish()
    pytest.fail("the stream ended")


def test_cancel_in_the_middle(shared):
    guest, here = shared.guest, shared.here(shared.guest)
    move = here.begin_migrate(guest, shared.there(guest), "--bandwidth", "4M")
    wait_progress(here, guest, "precopy", 1_000_000)
    start = time.monotonic()
    cancelled = here.vmferry("cancel", guest.name, "--json").require()
    assert cancelled.json["status"] == "cancelled" and time.monotonic() - start < 10
    check_failed(move.finish(), "cancel", status="cancelled")
    shared.check(guest)
    shared.move(guest, "--verify")


def test_cancel_without_a_move(shared):
    result = shared.here(shared.guest).vmferry("cancel", shared.guest.name)
    check_failed(result, "could be cancelled")


def test_second_move_of_a_moving_guest_is_refused(shared):
    guest, here = shared.guest, shared.here(shared.guest)
    move = here.begin_migrate(guest, shared.there(guest), "--bandwidth", "8M")
    wait_progress(here, guest, "precopy", 1_000_000)
    check_failed(here.migrate(guest, shared.there(guest)), guest.name, "migrating")
    check_failed(here.vmferry("stop", guest.name), guest.name, "migrating")
    here.vmferry("cancel", guest.name).require()
    move.finish()
    shared.check(guest)


@pytest.mark.long
def test_guest_that_outruns_the_link_ends_with_advice(scene):
    """A move that may not slow its guest does not go on for ever: it says what would help."""
    guest = scene.run(pattern="dense", pages_per_second=6000, span_mb=6)
    result = scene.a.migrate(guest, scene.b, "--bandwidth", "16M", "--max-downtime", "50",
                             "--downtime-cap", "50", "--throttle", "off")
    text = check_failed(result, "faster", "--downtime-cap")
    assert "--bandwidth" in text and "--throttle" in text
    scene.check(guest)
    wait_until(lambda: scene.b.guest_names() == [], "end over there")
