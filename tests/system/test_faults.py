"""Every fault point (`vmferry agent --list-faults`) is hit: by a crash, a failure, a freeze.

After each, exactly one copy of the guest runs, unharmed and with its connection whole, nothing
is left in it or beside it once a killed agent was started again, and the next move works.
"""

from dataclasses import dataclass

import pytest

from disks import DISK_POINTS
from fake_agents import ENGINE_POINTS
from findings import check_failed
from other_vmm import LOOK_POINTS
from postcopy import FULL_POINTS, POSTCOPY_POINTS, STORE_POINTS, TAKEOVER_POINTS
from protection import PROTECT_POINTS
from saving import ALL_POINTS as IMAGE_POINTS
from scene import is_stopped
from vmferry_lab import qemu_pids, vmferry_program, wait_until

SOURCE, DESTINATION = "source", "destination"
STAYS, MOVES = "stays", "moves"


@dataclass
class Point:
    name: str
    side: str             # whose agent comes by it
    killed: str           # where the guest is in the end when that agent is killed there
    fails: bool = True    # action "fail" means something there (the guest stays then)
    behind: str = ""      # a fault without which nobody comes there


POINTS = [
    Point("inject.stopped", SOURCE, STAYS),
    Point("inject.prepared", SOURCE, STAYS),
    Point("inject.registers-set", SOURCE, STAYS),
    Point("inject.called", SOURCE, STAYS),
    Point("memory.tracker-started", SOURCE, STAYS),
    Point("source.image-lock", SOURCE, STAYS, fails=False),
    Point("source.image-token", SOURCE, STAYS, fails=False, behind="source.image-lock=fail,"),
    Point("source.accepted", SOURCE, STAYS),
    Point("source.first-round", SOURCE, STAYS),
    Point("source.decided", SOURCE, STAYS),
    Point("source.paused", SOURCE, STAYS),
    Point("source.device-state-saved", SOURCE, STAYS),
    Point("source.before-start", SOURCE, STAYS),
    Point("source.switching-over", SOURCE, STAYS),
    Point("source.start-sent", SOURCE, MOVES, fails=False),
    Point("source.after-started", SOURCE, MOVES, fails=False),
    Point("destination.launched", DESTINATION, STAYS),
    Point("destination.opened", DESTINATION, STAYS),
    Point("destination.round-applied", DESTINATION, STAYS),
    Point("destination.before-load", DESTINATION, STAYS),
    Point("destination.before-ready", DESTINATION, STAYS),
    Point("destination.before-commit", DESTINATION, STAYS),
    Point("destination.before-journal", DESTINATION, STAYS),
    Point("destination.committed", DESTINATION, MOVES, fails=False),
    Point("destination.after-commit", DESTINATION, MOVES, fails=False),
    Point("destination.cont", DESTINATION, MOVES),
    Point("destination.taking-back", DESTINATION, MOVES, fails=False,
          behind="destination.cont=fail,"),
    Point("destination.taken-back", DESTINATION, STAYS, fails=False,
          behind="destination.cont=fail,"),
    Point("destination.before-started", DESTINATION, MOVES, fails=False),
]


def names(points) -> list[str]:
    return [point.name for point in points]


# Much like the points right before or after them.
LONG_KILLED = ("destination.before-load", "source.image-lock", "source.image-token",
               "inject.prepared", "inject.registers-set", "source.accepted", "source.decided",
               "source.device-state-saved", "source.after-started", "destination.before-started")
LONG_FAILING = (*LONG_KILLED, "inject.stopped", "memory.tracker-started", "source.paused",
                "source.device-state-saved", "destination.round-applied",
                "destination.before-load", "destination.before-ready")


def rows(points, long):
    return [pytest.param(point, marks=[pytest.mark.long] if point.name in long else [])
            for point in points]


def agent_at(scene, point):
    return scene.here(scene.guest) if point.side == SOURCE else scene.there(scene.guest)


def begin(scene, point, action: str):
    """A move on its way to *point*, where *action* happens."""
    scene.restart(agent_at(scene, point), {"VMFERRY_FAULT": f"{point.behind}{point.name}={action}"})
    return scene.here(scene.guest).begin_migrate(scene.guest, scene.there(scene.guest))


def settle(scene, where: str) -> None:
    """One copy goes on in the right place, and moves again without the fault."""
    if where == MOVES:
        scene.has_moved(scene.guest)
    else:
        scene.check(scene.guest)
    scene.move(scene.guest, "--verify")


def test_table_is_complete(lab):
    listed = lab.host_a.run([vmferry_program(), "agent", "--list-faults"]).stdout.split()
    others = [*DISK_POINTS, *POSTCOPY_POINTS, *FULL_POINTS, *TAKEOVER_POINTS, *STORE_POINTS,
              *PROTECT_POINTS, *ENGINE_POINTS, *IMAGE_POINTS, *LOOK_POINTS]
    assert sorted([*names(POINTS), *others]) == sorted(listed)


@pytest.mark.parametrize("point", rows(POINTS, LONG_KILLED), ids=names(POINTS))
def test_agent_killed(shared, point):
    agent = agent_at(shared, point)
    move = begin(shared, point, "kill")
    agent.process.wait(30)
    # With no agent at work the guest goes on, or waits for the other host's word.
    if point.name not in WAITS_FOR_AGENT:
        shared.beats[shared.guest.name].wait(3)
    shared.restart(agent, finds_guests=point.killed == STAYS)
    result = move.finish()
    assert result.exit_code in ((1,) if point.killed == STAYS else (0, 1, 3)), result
    settle(shared, point.killed)


# Nobody but the dead agent can know whether the guest may run.
WAITS_FOR_AGENT = ["destination.before-commit", "destination.before-journal",
                   "destination.committed", "destination.taking-back",
                   "destination.taken-back"]


FAILING = [point for point in POINTS if point.fails]


@pytest.mark.parametrize("point", rows(FAILING, LONG_FAILING), ids=names(FAILING))
def test_step_fails(shared, point):
    move = begin(shared, point, "fail")
    text = check_failed(move.finish(), shared.guest.name)
    assert f"fault point {point.name}" in text or point.name == "destination.before-commit"
    shared.restart(agent_at(shared, point))
    settle(shared, STAYS)


# Freezing for longer than the peers wait is slow; these are not in test_handover.py.
FROZEN = [Point("source.paused", SOURCE, STAYS),
          Point("destination.before-ready", DESTINATION, STAYS)]
ALSO_FROZEN = [point for point in POINTS if point.name not in names(FROZEN)]


@pytest.mark.parametrize("point", [*FROZEN, *(pytest.param(point, marks=pytest.mark.long)
                                              for point in ALSO_FROZEN)],
                         ids=names([*FROZEN, *ALSO_FROZEN]))
def test_agent_frozen(shared, point):
    """Longer than the other side waits; then it goes on as if nothing had been."""
    guest, agent = shared.guest, agent_at(shared, point)
    move = begin(shared, point, "stop@1")
    wait_until(lambda: is_stopped(agent.pid), point.name)
    if point.side == SOURCE:
        wait_until(lambda: gave_up_or_took_over(shared), "the destination acts alone", 15)
    else:
        wait_until(lambda: move.popen.poll() is not None, "the source acts alone", 60)
    agent.thaw()
    move.finish()
    if point.side == DESTINATION or point.killed == MOVES:
        wait_until(lambda: len(copies(shared)) == 1, "one copy is left", 40)
    moved = bool(qemu_pids(shared.there(guest).host, guest))
    shared.restart(agent, finds_guests=not moved)
    settle(shared, MOVES if moved else STAYS)


def copies(scene) -> list[int]:
    return [pid for host in scene.lab.hosts for pid in qemu_pids(host, scene.guest)]


def gave_up_or_took_over(scene) -> bool:
    there = scene.there(scene.guest)
    status = there.vmferry("status", scene.guest.name, "--json")
    return not qemu_pids(there.host, scene.guest) or (
        status.exit_code == 0 and status.json["state"] == "running")
