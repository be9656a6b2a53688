"""Moves whose pages go over several connections, where that helps, and over one where it does not."""

import time

import pytest

from findings import check_completed
from scene import Scene, wait_progress
from vmferry_lab import Lab, WanLink

GUEST = {"memory_mb": 128, "arena_mb": 16, "content": "random"}
# CUBIC gets little of it over one connection: 1460 B * 1.2 / (100 ms * sqrt(1 %)) = 175 kB/s.
LOSSY = {"rate": "100mbit", "delay": "50ms", "loss": "1%"}
# The guest does not write enough to need a short pause, and a way like that gives none.
PATIENT = ("--max-downtime", "3s", "--downtime-cap", "10s")


@pytest.fixture
def far(pki):
    """A scene whose other host is far away; with CUBIC, whatever a program asks for."""
    labs = []

    def make(**link) -> Scene:
        lab = Lab(wan=WanLink(seed=1, **link))
        labs.append(lab)
        for host in lab.hosts:
            host.namespace.lock_congestion_control("cubic")
        scene = Scene(lab, pki)
        scene.run(**GUEST)
        return scene

    yield make
    for lab in labs:
        lab.close()


def move(scene, *options):
    """A report and what it has to say about the rate of the first round, bytes per second."""
    begun = scene.here(scene.guest).begin_migrate(scene.guest, scene.there(scene.guest), *PATIENT, *options)
    report = check_completed(begun.finish(400), verified=True if "--verify" in options else None)
    scene.has_moved(scene.guest)
    first = report["rounds"][0]
    return report, first["wire_bytes"] / first["ms"] * 1000


def carried(scene) -> int:
    """Bytes that the way has brought so far, both ways."""
    stats = scene.lab.wan.stats()
    return stats["forward"]["delivered_bytes"] + stats["backward"]["delivered_bytes"]


@pytest.mark.long
def test_several_where_losses_hold_one_back(far):
    """The same guest over the same way: with one, and then with as many as help."""
    scene = far(**LOSSY)
    several, rate = move(scene, "--verify")
    assert several["most_connections"] == several["connections"] == 8
    # It begins with one, and that is in the mean; one alone, for some seconds, on the way back.
    begun = scene.here(scene.guest).begin_migrate(scene.guest, scene.there(scene.guest), "--connections", "1")
    agent = scene.here(scene.guest)
    wait_progress(agent, scene.guest, "precopy", 1_000_000)
    start, before = time.monotonic(), carried(scene)
    time.sleep(10)
    rate_of_one = (carried(scene) - before) / (time.monotonic() - start)
    agent.vmferry("cancel", scene.guest.name)
    begun.finish()
    scene.check(scene.guest)
    assert rate > 2.5 * rate_of_one, (rate, rate_of_one)


@pytest.mark.long
def test_as_many_as_the_user_says(far):
    scene = far(rate="100mbit", delay="20ms", loss="1%")
    report, _ = move(scene, "--connections", "3", "--verify")
    assert report["most_connections"] == 3


@pytest.mark.long
def test_each_survives_its_breaks(far):
    scene = far(rate="50mbit", delay="40ms", loss="0.5%")
    scene.lab.wan.set(break_="4s", break_every="12s", break_after="6s")
    report, _ = move(scene, "--connections", "4", "--retry-for", "30s", "--verify", "--bandwidth", "3M")
    scene.lab.wan.set(break_=0)
    assert report["most_connections"] == 4
    assert report["breaks"] >= 4


def test_one_on_a_clean_local_link(scene):
    """No try, either: a short clean way."""
    scene.run(**GUEST)
    report = scene.move(scene.guest, "--bandwidth", "10M")
    assert report["connections"] == report["most_connections"] == 1
