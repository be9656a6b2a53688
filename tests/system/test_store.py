"""A store: a third host keeps a split guest's pages, so that its source may fail."""

import os
import signal

import pytest

from findings import check_completed, check_failed, left_files
from postcopy import WRITER, is_split, move, outstanding_bytes, wait_split
from scene import BUSY, move_progress
from vmferry_lab import Agent, qemu_pids, wait_until


@pytest.fixture
def store(scene, pki):
    """The agent of a third host."""
    agent = Agent(scene.lab, scene.lab.third_host(), pki.folder("hostC"))
    scene.lab.at_close(lambda: agent.process and agent.process.kill())
    return agent.start()


def stored(store) -> list[dict]:
    return store.vmferry("status", "--json").require().json["stored"]


def uncovered_bytes(agent, guest) -> int:
    progress = move_progress(agent.status(guest))
    return progress["uncovered_bytes"] if progress and progress["phase"] == "postcopy" else -1


def begin_covered(scene, store, *options):
    """A post-copy whose guest runs at its destination, with all of its pages at the store, too."""
    guest = scene.guest
    begun = scene.a.begin_migrate(guest, scene.b, "--mode", "postcopy", "--store", store.address,
                                  "--bandwidth", "6M", *options)
    wait_until(lambda: is_split(scene), "the guest runs there", 60)
    wait_until(lambda: uncovered_bytes(scene.b, guest) == 0, "the store has all", 30)
    assert outstanding_bytes(scene) > 1 << 20
    return begun


def end_everything(host) -> None:
    """As if its power had gone."""
    for _ in range(3):
        for pid in host.namespace.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    wait_until(lambda: not host.namespace.pids(), f"end of {host.name}")


def has_all_there(scene, timeout=60) -> None:
    """The guest at its destination lacks nothing, and is what it should be."""
    guest = scene.guest
    wait_until(lambda: scene.b.status(guest)["role"] == "ours", "all memory is there", timeout)
    scene.place[guest.name] = scene.b
    scene.beats[guest.name].wait(5)
    scene.beats[guest.name].check()
    assert len(qemu_pids(scene.b.host, guest)) == 1
    guest.check()


def keeps_nothing(store) -> None:
    wait_until(lambda: not stored(store) and not left_files(store), "nothing is stored", 10)


def test_move_with_a_store(scene, store):
    guest = scene.run(**BUSY)
    report = check_completed(scene.migrate(guest, "--mode", "postcopy", "--store", store.address),
                             mode="postcopy")
    assert report["postcopy"]["stored"] is True
    scene.has_moved(guest)
    keeps_nothing(store)
    assert store.events("storing") and scene.a.events("stored")
    scene.move(guest, "--verify")


# With direct I/O, and without; of the second all memory is written anew all the time.
GUESTS = {"disk": BUSY, "writer": {**WRITER, "shared_memory": True}}


@pytest.mark.parametrize("kind", ["disk", pytest.param("writer", marks=pytest.mark.long)])
def test_process_at_the_source_is_killed(scene, store, kind):
    guest = scene.run(**GUESTS[kind])
    begun = begin_covered(scene, store)
    [entry] = stored(store)
    assert entry["guest"] == guest.name and entry["sealed"] is True and entry["stored_bytes"] > 0
    os.kill(qemu_pids(scene.a.host, guest)[0], signal.SIGKILL)
    begun.finish()
    has_all_there(scene)
    assert scene.b.events("fetching") and not scene.b.events("memory-lost")
    keeps_nothing(store)
    wait_until(lambda: guest.name not in scene.a.guest_names(), "the source forgets it", 20)
    scene.move(guest, "--verify")


@pytest.mark.long
def test_hybrid_with_a_store(scene, store):
    """What pre-copy did not bring is what the store has."""
    guest = scene.run(**WRITER)
    report = move(scene, guest, "--store", store.address, "--bandwidth", "8M", "--max-downtime",
                  "50ms", mode="hybrid")
    assert report["postcopy"]["stored"] is True
    keeps_nothing(store)
    scene.move(guest, "--verify")


@pytest.mark.long
def test_hybrid_that_needs_none(scene, store):
    guest = scene.run()
    check_completed(scene.migrate(guest, "--mode", "hybrid", "--store", store.address),
                    mode="precopy")
    scene.has_moved(guest)
    keeps_nothing(store)


@pytest.mark.long
def test_agent_at_the_source_stays_away(scene, store):
    """The guest need not wait for it; when it comes back nothing is needed of it."""
    guest = scene.run(**BUSY)
    begun = begin_covered(scene, store)
    scene.a.kill()
    begun.finish()
    has_all_there(scene)
    keeps_nothing(store)
    scene.a.start()
    scene.place[guest.name] = scene.b
    scene.check(guest)


@pytest.mark.long
def test_source_host_is_lost(scene, store):
    """Its guest goes on, and finds the rest of its memory elsewhere."""
    guest = scene.run(**BUSY)
    begun = begin_covered(scene, store)
    end_everything(scene.a.host)
    begun.popen.kill()
    begun.finish()
    has_all_there(scene)
    keeps_nothing(store)


@pytest.mark.long
def test_source_of_a_protected_guest_comes_back(scene, store):
    """Its process is gone, so it cannot take over: output need not wait for that any more."""
    guest = scene.run(**BUSY)
    begun = begin_covered(scene, store, "--safety", "full")
    end_everything(scene.a.host)
    begun.popen.kill()
    begun.finish()
    scene.a.start()
    has_all_there(scene)
    wait_until(lambda: guest.name not in scene.a.guest_names(), "the source forgets it", 20)
    scene.move(guest, "--verify")


@pytest.mark.long
def test_source_of_a_protected_guest_stays_away(scene, store):
    """Output waits for it, until an operator decides; it must not take over after that."""
    guest = scene.run(**BUSY)
    begun = begin_covered(scene, store, "--safety", "full")
    assert "answers" in scene.b.vmferry("resolve", guest.name, "--keep", "here").stderr
    end_everything(scene.a.host)
    begun.popen.kill()
    begun.finish()
    wait_until(lambda: outstanding_bytes(scene) == 0, "all pages are there", 60)
    assert scene.b.status(guest)["role"] == "postcopy"
    scene.b.vmferry("resolve", guest.name, "--keep", "here").require()
    has_all_there(scene)
    scene.a.start()
    wait_until(lambda: guest.name not in scene.a.guest_names(), "the source forgets it", 20)
    scene.move(guest, "--verify")


@pytest.mark.long
def test_agent_there_is_killed_while_it_fetches(scene, store):
    """What the first one had fetched is not asked for again, and the rest is."""
    guest = scene.run(**BUSY)
    begun = begin_covered(scene, store)
    scene.lab.link.shape("16mbit")
    os.kill(qemu_pids(scene.a.host, guest)[0], signal.SIGKILL)
    begun.finish()
    wait_until(lambda: scene.b.events("fetching"), "it fetches", 15)
    scene.b.kill()
    assert len(qemu_pids(scene.b.host, guest)) == 1
    scene.b.start()
    wait_split(scene)
    scene.lab.link.shape(None)
    has_all_there(scene)
    keeps_nothing(store)


@pytest.mark.long
def test_agent_there_is_killed_before_it_fetches(scene, store):
    guest = scene.run(**BUSY)
    scene.restart(scene.b, {"VMFERRY_FAULT": "destination.fetch=kill"})
    begun = begin_covered(scene, store)
    os.kill(qemu_pids(scene.a.host, guest)[0], signal.SIGKILL)
    begun.finish()
    scene.b.process.wait(30)
    scene.b.start()
    has_all_there(scene)
    keeps_nothing(store)


def test_store_refuses_for_lack_of_memory(scene, store):
    """Before anything has happened to the guest."""
    guest = scene.run()
    with scene.changed(store, settings={"store-memory": "64Mi"}):
        result = scene.migrate(guest, "--mode", "postcopy", "--store", store.address)
        check_failed(result, "store-memory")
        scene.check(guest)
        assert not scene.b.events("receiving")
    keeps_nothing(store)


@pytest.mark.long
def test_store_is_no_third_host(scene):
    guest = scene.run()
    for agent in (scene.a, scene.b):
        check_failed(scene.migrate(guest, "--mode", "hybrid", "--store", agent.address), "store")
    scene.check(guest)


@pytest.mark.long
def test_store_dies_while_it_is_split(scene, store):
    guest = scene.run(**BUSY)
    begun = begin_covered(scene, store)
    store.kill()
    wait_until(lambda: uncovered_bytes(scene.b, guest) > 0, "that it is not covered is shown", 15)
    check_completed(begun.finish(), mode="postcopy")
    scene.has_moved(guest)
    assert scene.a.events("store-lost")


@pytest.mark.long
@pytest.mark.parametrize("point", ["store.seal", "source.store-fill", "source.store-rest"])
def test_store_fails_before(scene, store, point):
    """The move goes on without it, and says so."""
    guest = scene.run(**BUSY)
    scene.restart(store if point.startswith("store") else scene.a, {"VMFERRY_FAULT": f"{point}=fail"})
    check_completed(scene.migrate(guest, "--mode", "postcopy", "--store", store.address),
                    mode="postcopy")
    scene.has_moved(guest)
    assert scene.a.events("store-lost")
    keeps_nothing(store)


@pytest.mark.long
def test_store_hangs_in_the_pause(scene, store):
    """The guest does not wait for it."""
    guest = scene.run(**BUSY)
    scene.restart(store, {"VMFERRY_FAULT": "store.seal=stop"})
    report = check_completed(scene.migrate(guest, "--mode", "postcopy", "--store", store.address),
                             mode="postcopy")
    assert report["downtime_ms"] < 2000 and report["postcopy"]["stored"] is False
    scene.has_moved(guest)
    assert scene.a.events("store-lost")
    store.thaw()
    keeps_nothing(store)


@pytest.mark.long
def test_store_is_restarted(scene, store):
    """What it had lies in files: the next one gives it out."""
    guest = scene.run(**BUSY)
    begun = begin_covered(scene, store)
    store.kill()
    store.start()
    assert stored(store)[0]["sealed"] is True
    os.kill(qemu_pids(scene.a.host, guest)[0], signal.SIGKILL)
    begun.finish()
    has_all_there(scene)
    keeps_nothing(store)


@pytest.mark.long
def test_what_the_store_lacks_is_lost_with_the_source(scene, store):
    """And said to be; nothing is made up for it."""
    guest = scene.run(**WRITER)
    begun = begin_covered(scene, store)
    store.stop()
    store.host.run(["rm", "-r", store.host.path("run") / "store"])
    store.start()
    os.kill(qemu_pids(scene.a.host, guest)[0], signal.SIGKILL)
    begun.finish()
    wait_until(lambda: "does not have" in (scene.b.status(guest)["problem"] or ""), "it is said", 30)
    assert scene.b.events("memory-lost") and is_split(scene)
    scene.b.vmferry("stop", guest.name).require()
    scene.forget(guest)
