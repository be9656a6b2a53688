"""Moves over a long, lossy link (lab/link): they get there, and as they should."""

import pytest

from findings import check_completed
from scene import Scene, is_stopped, wait_progress
from vmferry_lab import Lab, WanLink, wait_until
from vmferry_lab.netns import run

GUEST = {"memory_mb": 128, "arena_mb": 32, "check": 256, "pattern": "mixed",
         "pages_per_second": 100}


@pytest.fixture
def far(pki):
    """A scene whose other host is far away, with what the link is to be."""
    labs = []

    def make(guest=None, **link) -> Scene:
        lab = Lab(wan=WanLink(seed=1, **link))
        labs.append(lab)
        scene = Scene(lab, pki)
        scene.run(**{**GUEST, **(guest or {})})
        return scene

    yield make
    for lab in labs:
        lab.close()


def test_what_the_way_does_to_packets(far):
    """Lost, late, doubled and overtaken ones."""
    scene = far(rate="50mbit", delay="20ms", jitter="5ms", loss="1%", burst=3, reorder="2%", reorder_by="10ms",
                duplicate="2%")
    scene.move(scene.guest, "--verify")
    counts = scene.lab.wan.stats()["forward"]
    assert counts["dropped"]["lost"] > 0 and counts["duplicated"] > 0


def test_congestion_control_of_a_long_way(far):
    scene = far(rate="20mbit", delay="20ms")
    if "bbr" not in run("sysctl", "-n", "net.ipv4.tcp_available_congestion_control"):
        pytest.skip("this kernel has no BBR")
    for host in scene.lab.hosts:
        host.namespace.congestion_control("reno")
    move = scene.a.begin_migrate(scene.guest, scene.b)
    wait_progress(scene.a, scene.guest, "precopy", 1_000_000)
    sockets = run("ip", "netns", "exec", scene.a.host.namespace.name, "ss", "-tin", "dport", "=",
                  ":4747")
    assert " bbr " in sockets, sockets
    check_completed(move.finish())
    scene.has_moved(scene.guest)


def test_breaks_of_a_long_way(far):
    scene = far(rate="50mbit", delay="40ms", loss="0.5%")
    scene.lab.wan.set(break_="4s", break_every="12s", break_after="2s")
    report = check_completed(scene.migrate(scene.guest, "--retry-for", "30s", "--verify",
                                           "--bandwidth", "4M"), verified=True)
    scene.lab.wan.set(break_=0)
    assert report["breaks"] >= 1
    scene.has_moved(scene.guest)


def test_link_that_collapses_in_the_pause(far):
    """To a tenth, while all that the guest writes is on its way: it goes on within the cap, and moves later."""
    scene = far(guest={"pattern": "intensive", "pages_per_second": 0}, rate="200mbit", delay="10ms", queue_time="1s")
    cap_ms = 3000
    scene.restart(scene.a, {"VMFERRY_FAULT": "source.paused=stop@1"})
    move = scene.a.begin_migrate(scene.guest, scene.b, "--retry-for", "1m", "--throttle", "off",
                                 "--downtime-cap", f"{cap_ms}ms")
    wait_until(lambda: is_stopped(scene.a.pid), "the pause", 60)
    scene.lab.wan.set(rate="20mbit")
    scene.a.thaw()
    beats = scene.beats[scene.guest.name]
    wait_until(lambda: not beats.is_silent(0.1), "guest goes on", 15)
    beats.wait(5)
    # What the machine's other work may add, which is none of the pause's.
    assert beats.largest_gap_ms() < cap_ms + 500
    scene.lab.wan.set(rate="200mbit")
    report = check_completed(move.finish(timeout=90))
    assert report["retractions"] >= 1, f"{report}"
    assert report["retracted_ms"] < cap_ms * report["retractions"]
    scene.has_moved(scene.guest)
    scene.restart(scene.a)


def test_large_packets_are_lost_silently(far):
    """As behind a tunnel that nobody has told of: the connection is made anew with smaller ones, and says so."""
    scene = far(rate="50mbit", delay="10ms")
    move = scene.a.begin_migrate(scene.guest, scene.b, "--retry-for", "1m", "--verify",
                                 "--bandwidth", "3M")
    wait_progress(scene.a, scene.guest, "precopy", 2_000_000)
    scene.lab.wan.set(mtu=1300, frag_needed=False)
    report = check_completed(move.finish(timeout=60), verified=True)
    assert report["breaks"] >= 1
    assert "small-packets" in scene.a.vmferry("events", "--json").stdout
    scene.has_moved(scene.guest)


def test_slow_link_is_packed_in_a_window(far):
    """One connection: what is in a window goes by it alone.  It survives the one that breaks."""
    scene = far(rate="20mbit", delay="40ms")
    scene.lab.wan.set(break_="2s", break_every="12s", break_after="4s")
    report = check_completed(scene.migrate(scene.guest, "--retry-for", "30s", "--verify",
                                           "--connections", "1"), verified=True)
    scene.lab.wan.set(break_=0)
    assert report["breaks"] >= 1
    zstd = report["compress"]["zstd"]
    assert zstd["window"]["bytes_in"] > zstd["bytes_in"] / 3
    assert zstd["window"]["bytes_out"] < zstd["window"]["bytes_in"] / 2
    scene.has_moved(scene.guest)


def test_window_beside_several_connections(far):
    scene = far(rate="20mbit", delay="40ms", loss="0.5%")
    report = check_completed(scene.migrate(scene.guest, "--verify", "--connections", "3"),
                             verified=True)
    assert report["most_connections"] == 3
    scene.has_moved(scene.guest)
