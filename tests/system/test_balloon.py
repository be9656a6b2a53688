"""A move with --reclaim-free: the guest's free memory is taken by its balloon and not sent, and
the guest has it again afterwards, wherever it runs and whoever was killed."""

import pytest

from findings import check_failed
from vmferry_lab import backports_qemu, wait_until
from vmferry_lab.qmp import Qmp

MIB = 1 << 20
MEMORY = 512 * MIB
ARENA_MB = 288
FREED_MB = 256


def balloon(scene, agent) -> int:
    """What the guest has at a host, by a QMP socket that is not the agent's."""
    with Qmp(agent.host.path("watch.qmp")) as qmp:
        return qmp.execute("query-balloon")["actual"]


def await_full(scene, agent) -> None:
    wait_until(lambda: balloon(scene, agent) == MEMORY, f"all memory on {agent.host.name}", 10)


def run(scene, device="virtio-balloon-pci", arena_mb=ARENA_MB, freed_mb=FREED_MB, **options):
    """A guest whose memory was used, and is free for the most part."""
    socket = scene.lab.host_a.path("watch.qmp")
    guest = scene.run(memory_mb=MEMORY // MIB, arena_mb=arena_mb, **options, extra=[
        "-qmp", f"unix:{socket},server=on,wait=off", *(["-device", device] if device else [])])
    with guest.control() as control:
        control.free(freed_mb)
    return guest


def begin_slow(scene, guest, *options):
    """A move that takes some seconds, at the moment when the balloon has been inflated."""
    here = scene.here(guest)
    scene.lab.link.shape("50mbit")
    move = here.begin_migrate(guest, scene.there(guest), "--reclaim-free", *options)
    wait_until(lambda: balloon(scene, here) < MEMORY - FREED_MB // 2 * MIB, "the balloon is big")
    return move


@pytest.mark.parametrize("device, version, guest", [
    ("virtio-balloon-pci,id=balloon0", "7.2", {}),
    ("virtio-balloon-pci-non-transitional", "10.0", {"vcpus": 2, "machine": "q35"}),
    pytest.param("virtio-balloon-device", "7.2", {"machine": "microvm", "shared_memory": True},
                 marks=pytest.mark.long)])
def test_free_memory_is_taken_and_given_back(scene, device, version, guest):
    guest = run(scene, device, qemu=backports_qemu() if version == "10.0" else None, **guest)
    options = ["--compress", "none", "--verify"]
    report = scene.move(guest, "--reclaim-free", *options)
    assert report["reclaim"] == "done"
    assert report["reclaimed_bytes"] > FREED_MB // 2 * MIB
    assert report["wire_bytes"] < (ARENA_MB - 48) * MIB
    await_full(scene, scene.here(guest))
    # Nothing was written to what it got back; nor does a guest lose what it had.
    again = scene.move(guest, "--reclaim-free", "--tracker", "uffd-sync", *options)
    await_full(scene, scene.here(guest))
    scene.check(guest)
    assert again["reclaim"] == "done"


@pytest.mark.long
def test_without_the_option_all_is_sent(scene):
    guest = run(scene)
    report = scene.move(guest, "--compress", "none")
    assert report["reclaim"] is None and report["reclaimed_bytes"] == 0
    assert report["wire_bytes"] > ARENA_MB * MIB
    assert balloon(scene, scene.here(guest)) == MEMORY


def test_too_little_is_free(scene):
    guest = run(scene, arena_mb=384, freed_mb=1)
    report = scene.move(guest, "--reclaim-free")
    assert report["reclaim"] == "little-free" and report["reclaimed_bytes"] == 0
    assert balloon(scene, scene.here(guest)) == MEMORY


@pytest.mark.long
def test_one_move_after_the_other(scene):
    """The second begins while the guest takes its memory back: that is waited for."""
    guest = run(scene)
    for _ in range(3):
        scene.here(guest).migrate(guest, scene.there(guest), "--reclaim-free").require()
        scene.place[guest.name] = scene.there(guest)
    await_full(scene, scene.here(guest))
    scene.check(guest)


def test_cancelled(scene):
    guest = run(scene)
    here = scene.here(guest)
    move = begin_slow(scene, guest)
    here.vmferry("cancel", guest.name).require()
    assert move.finish().exit_code == 1
    await_full(scene, here)
    scene.check(guest)


def test_refused_after_the_balloon(scene):
    guest = run(scene)
    here = scene.here(guest)
    check_failed(scene.migrate(guest, "--reclaim-free", "--deadline", "1s", "--bandwidth", "10M"),
                 "reclaim", "deadline")
    await_full(scene, here)
    scene.check(guest)


def test_no_balloon(scene):
    guest = run(scene, device=None)
    check_failed(scene.migrate(guest, "--reclaim-free"),
                 "no balloon device", "needs virtio-balloon")
    scene.check(guest)
    scene.move(guest)


def test_balloon_that_does_not_answer(scene):
    """Without its driver in the guest the move goes on without, a little later."""
    guest = scene.run(extra=["-device", "virtio-balloon-pci"],
                      kernel_words="module_blacklist=virtio_balloon")
    report = scene.move(guest, "--reclaim-free")
    assert report["reclaim"] == "no-answer" and report["reclaimed_bytes"] == 0


@pytest.mark.long
def test_source_agent_killed(scene):
    guest = run(scene)
    here = scene.here(guest)
    move = begin_slow(scene, guest)
    here.kill()
    await_full(scene, here)  # with no agent at work
    move.finish()
    scene.restart(here)
    scene.check(guest)
    await_full(scene, here)
    scene.lab.link.restore()
    scene.move(guest, "--reclaim-free", "--verify")
    await_full(scene, scene.here(guest))


@pytest.mark.parametrize("point", [
    "destination.after-commit",
    pytest.param("destination.before-started", marks=pytest.mark.long)])
def test_destination_agent_killed(scene, point):
    """The guest is there already: its guard gives it its memory back, or the agent's next start."""
    guest = run(scene)
    there = scene.there(guest)
    scene.restart(there, {"VMFERRY_FAULT": f"{point}=kill"})
    move = scene.here(guest).begin_migrate(guest, there, "--reclaim-free")
    there.process.wait(60)
    await_full(scene, there)  # with no agent at work
    scene.restart(there, finds_guests=False)
    move.finish()
    scene.has_moved(guest)
    await_full(scene, there)


def test_source_agent_killed_at_the_word(scene):
    """Nobody can tell where the guest is to run until the agents have spoken."""
    guest = run(scene)
    here = scene.here(guest)
    scene.restart(here, {"VMFERRY_FAULT": "source.start-sent=kill"})
    move = here.begin_migrate(guest, scene.there(guest), "--reclaim-free")
    here.process.wait(60)
    scene.restart(here, finds_guests=False)
    move.finish()
    scene.has_moved(guest)
    await_full(scene, scene.here(guest))
