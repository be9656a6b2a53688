"""Post-copy at safety level full with a third agent, store and witness: hosts may fail, or be cut off."""

import json

import pytest

from findings import check_completed, check_failed
from live import check_disk
from postcopy import WRITER, begin_split, is_split, outstanding_bytes, wait_whole
from scene import move_progress
from test_store import end_everything, has_all_there, store, uncovered_bytes  # noqa: F401
from vmferry_lab import qemu_pids, wait_until

# Writes and flushes all the time, and knows what it has written.
DISK = {"disk_mb": 16, "disk_rate": 50}


def witnessed(store) -> list:
    folder = store.host.path("state/witness")
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]


def begin_protected(scene, store, rate="4M"):
    begun = begin_split(scene, "--safety", "full", "--store", store.address, rate=rate)
    assert scene.a.events("witnessed")
    scene.beats[scene.guest.name].wait(20)
    return begun


def alone_after(scene, seconds) -> None:
    scene.b.settings["alone-after"] = str(seconds)
    scene.restart(scene.b)


def runs_here(scene, guest, timeout=60) -> None:
    """Its source has taken it over, unharmed, with all of its memory."""
    wait_until(lambda: scene.a.status(guest)["role"] == "ours", "it is whole here", timeout)
    scene.beats[guest.name].wait(5)
    scene.beats[guest.name].check()
    assert len(qemu_pids(scene.a.host, guest)) == 1
    guest.check()
    print(scene.beats[guest.name].largest_gap_ms())


def forgets(store) -> None:
    wait_until(lambda: not witnessed(store), "the witness's record goes", 15)


def test_destination_host_is_lost(scene, store):
    """Its source takes it over by itself; a client outside notices a pause."""
    guest = scene.run(**WRITER, **DISK)
    begun = begin_protected(scene, store)
    [record] = witnessed(store)
    assert record["guest"] == guest.name and record["state"] == "undecided"
    end_everything(scene.b.host)
    assert begun.finish().exit_code != 0
    runs_here(scene, guest)
    check_disk(guest)
    assert scene.a.events("taken-over")
    forgets(store)


@pytest.mark.long
def test_witness_is_lost(scene, store):
    """Nothing happens, as long as nothing else does."""
    guest = scene.run(**WRITER)
    begun = begin_protected(scene, store, rate="10M")
    store.kill()
    check_completed(begun.finish(), mode="postcopy")
    scene.has_moved(guest)


def test_source_host_is_lost(scene, store):
    """The guest goes on alone, by the witness's leave, with the store's pages."""
    alone_after(scene, 3)
    guest = scene.run(**WRITER, **DISK)
    begun = begin_protected(scene, store, rate="6M")
    wait_until(lambda: uncovered_bytes(scene.b, guest) == 0, "the store has all", 30)
    assert outstanding_bytes(scene) > 1 << 20
    end_everything(scene.a.host)
    begun.popen.kill()
    begun.finish()
    has_all_there(scene)
    check_disk(guest)
    assert scene.b.events("alone") and scene.b.events("fetching")
    print(scene.beats[guest.name].largest_gap_ms())
    forgets(store)


def cut_between(scene) -> None:
    """What one sends to the other goes astray; the third host hears both."""
    astray = ["lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent"]
    for host, other in ((scene.a.host, scene.b.host), (scene.b.host, scene.a.host)):
        host.namespace.ip("neigh", "replace", other.ip, *astray)


def join_again(scene) -> None:
    for host, other in ((scene.a.host, scene.b.host), (scene.b.host, scene.a.host)):
        host.namespace.ip("neigh", "del", other.ip, "dev", "eth0")


@pytest.mark.long
def test_hosts_lose_each_other(scene, store):
    """Both live, and reach the witness: one goes on, and the other one's copy ends when it hears of it."""
    alone_after(scene, 8)
    guest = scene.run(**WRITER)
    begun = begin_protected(scene, store)
    wait_until(lambda: uncovered_bytes(scene.b, guest) == 0, "the store has all", 30)
    cut_between(scene)
    wait_until(lambda: scene.b.events("alone"), "it goes on alone", 40)
    has_all_there(scene)
    assert scene.a.status(guest)["role"] == "postcopy-source"
    join_again(scene)
    begun.finish()
    scene.check(guest)
    assert not scene.a.events("taken-over")
    scene.move(guest, "--verify")


def test_destination_is_cut_off(scene, store):
    """Its copy stands still, and ends when its source, which has taken over, reaches it again."""
    guest = scene.run(**WRITER)
    begun = begin_protected(scene, store)
    [copy] = qemu_pids(scene.b.host, guest)
    scene.lab.link.cut("hostB")
    assert begun.finish().exit_code != 0
    runs_here(scene, guest)
    assert qemu_pids(scene.b.host, guest) == [copy] and is_split(scene)
    assert move_progress(scene.b.status(guest))["held"] is True
    forgets(store)
    scene.lab.link.restore()
    wait_until(lambda: scene.b.events("superseded"), "it hears of that", 40)
    scene.check(guest)
    assert not list((scene.b.host.directory / "state" / "overlays").glob("*"))
    scene.move(guest, "--verify")


@pytest.mark.long
@pytest.mark.parametrize("side", ["here", "there"])
def test_agent_is_restarted(scene, store, side):
    """Its guest has a lease of the witness meanwhile, or gets one again."""
    guest = scene.run(**WRITER)
    begun = begin_protected(scene, store)
    agent = scene.a if side == "here" else scene.b
    agent.kill()
    agent.start()
    begun.finish()
    wait_whole(scene)
    scene.has_moved(guest)
    assert not scene.a.events("taken-over") and not scene.b.events("alone")
    forgets(store)
    scene.move(guest, "--verify")


@pytest.mark.long
def test_agent_there_stays_away(scene, store):
    """Its guest stands still when its lease ends, and its source goes on; it learns that later."""
    guest = scene.run(**WRITER)
    begun = begin_protected(scene, store)
    scene.b.kill()
    begun.finish()
    runs_here(scene, guest)
    scene.b.start()
    wait_until(lambda: scene.b.events("superseded"), "it hears of that", 40)
    scene.check(guest)


@pytest.mark.long
def test_witness_is_not_told(scene, store):
    """Then the move does not begin, for the guest."""
    guest = scene.run(**WRITER)
    scene.restart(scene.a, {"VMFERRY_FAULT": "source.register=fail"})
    check_failed(scene.migrate(guest, "--mode", "postcopy", "--safety", "full", "--store",
                               store.address), "the witness")
    scene.check(guest)
    assert not scene.b.events("arrived") and not witnessed(store)
