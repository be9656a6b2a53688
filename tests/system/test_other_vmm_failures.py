"""What goes wrong while a guest moves between QEMU and Bochs: one copy goes on, where it should.

Afterwards its memory and its disk are right by what it says itself, its clock has made no step, and nothing is left: no
process, no folder, no lock beside an image.
"""

import os
import shutil
import signal

import pytest

from conftest import keep_scene
from findings import check_failed
from other_vmm import PC
from other_vmm_trouble import TroubledJourney
from vmferry_lab import Agent, Lab, wait_until
from vmferry_lab.qmp import Qmp

pytestmark = pytest.mark.skipif(not shutil.which("bochs-bin"), reason="there is no bochs-bin")

WAYS = {"there": "qemu", "back": "bochs"}  # by what it is in when the move begins


def begin_journey(pki, *, user_qmp=False) -> TroubledJourney:
    """*user_qmp*: its user has a QMP socket of his own."""
    lab = Lab()
    try:
        agents = [Agent(lab, host, pki.folder(host.name)) for host in lab.hosts]
        for agent in agents:
            lab.at_close(lambda agent=agent: agent.process and agent.process.kill())
            agent.start()
        path = lab.host_a.path("user.qmp")  # map rules make it the same on the other host
        extra = ["-qmp", f"unix:{path},server=on,wait=off"] if user_qmp else []
        return TroubledJourney(*agents, lab.guest("web1", **PC, extra=extra)).begin()
    except BaseException:
        lab.close()
        raise


@pytest.fixture
def shared(request, module_scenes, pki):
    """A guest of QEMU on host A to begin with; each test leaves it whole, wherever it is."""
    yield from keep_scene(request, module_scenes, lambda: begin_journey(pki))
    if module_scenes and module_scenes[0].over:
        module_scenes.pop().lab.close()


def rows(*table):
    """(way, …) each; those behind a True at the end belong to the long suite."""
    return [pytest.param(*row[:-1], id="-".join(str(word) for word in row[:-1] if isinstance(word, str)),
                         marks=[pytest.mark.long] if row[-1] else []) for row in table]


# ---- agents that die ----

@pytest.mark.parametrize("way, point, moved", rows(
    ("there", "source.first-round", False, True),
    ("there", "source.paused", False, True),
    ("there", "source.device-state-saved", False, True),
    ("there", "source.switching-over", False, True),
    ("there", "source.start-sent", True, False),
    ("back", "source.first-round", False, True),
    ("back", "source.paused", False, True),
    ("back", "source.device-state-saved", False, False),
    ("back", "source.switching-over", False, True),
    ("back", "source.start-sent", True, True),
))
def test_source_agent_killed(shared, way, point, moved):
    trip = shared.be_in(WAYS[way])
    with trip.fault(trip.here, f"{point}=kill"):
        trip.fail_move()
        wait_until(lambda: not trip.here.process.running, "the agent dies")
        if not moved and trip.vmm == "qemu":
            trip.hear(2)  # by its guard, with no agent: a Bochs waits for that
    if moved:
        trip.arrived()
    trip.check_runs()


@pytest.mark.parametrize("way, point, moved", rows(
    ("there", "destination.launched", False, True),
    ("there", "destination.before-load", False, True),
    ("there", "destination.before-ready", False, True),
    ("there", "destination.before-commit", False, True),
    ("there", "destination.committed", True, True),
    ("there", "destination.after-commit", True, True),
    ("back", "destination.launched", False, True),
    ("back", "destination.before-load", False, True),
    ("back", "destination.before-ready", False, True),
    ("back", "destination.before-commit", False, True),
    ("back", "destination.committed", True, False),
    ("back", "destination.after-commit", True, True),
))
def test_destination_agent_killed(shared, way, point, moved):
    trip = shared.be_in(WAYS[way])
    there = trip.other()
    with trip.fault(there, f"{point}=kill"):
        result = trip.fail_move()
        wait_until(lambda: not there.process.running, "the agent dies")
        assert result.exit_code != 0 or moved
        if not moved:  # its guard ends the copy, with no agent
            wait_until(lambda: not trip.copies(there), "end of the copy there", 15)
    if moved:
        trip.arrived()
    trip.check_runs()


# ---- VMMs that die ----

@pytest.mark.parametrize("way", [pytest.param("there", marks=pytest.mark.long),
                                 pytest.param("back", marks=pytest.mark.long)])
def test_destination_killed_in_precopy(shared, way):
    trip = shared.be_in(WAYS[way])
    move = trip.begin_slow()
    trip.kill_copy(trip.other())
    check_failed(move.finish(30), trip.other().host.name)
    trip.check_runs()


@pytest.mark.parametrize("way", ["there", pytest.param("back", marks=pytest.mark.long)])
def test_destination_killed_before_the_word(shared, way):
    trip = shared.be_in(WAYS[way])
    with trip.fault(trip.here, "source.before-start=stop"):
        move = trip.move_until(trip.here, "source.before-start")
        trip.kill_copy(trip.other())
        trip.here.thaw()
        move.finish()
        trip.check_runs()


# ---- the link ----

@pytest.mark.parametrize("way", [pytest.param("there", marks=pytest.mark.long),
                                 pytest.param("back", marks=pytest.mark.long)])
def test_link_cut_in_precopy(shared, way):
    trip = shared.be_in(WAYS[way])
    move = trip.begin_slow()
    trip.lab.link.cut()
    try:
        check_failed(move.finish(), "10.66.0")
        wait_until(lambda: not trip.copies(trip.other()), "the destination gives up", 20)
        trip.hear(2)
    finally:
        trip.lab.link.restore()
    trip.check_runs()


@pytest.mark.parametrize("way", [pytest.param("there", marks=pytest.mark.long), "back"])
def test_link_cut_in_the_pause(shared, way):
    trip = shared.be_in(WAYS[way])
    with trip.fault(trip.here, "source.before-start=stop"):
        move = trip.move_until(trip.here, "source.before-start")
        trip.lab.link.cut()
        wait_until(lambda: not trip.copies(trip.other()), "the destination gives up", 20)
        trip.lab.link.restore()
        trip.here.thaw()
        check_failed(move.finish(), "switchover")
        trip.check_runs()


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_answer_lost_on_the_way(shared, way):
    """It runs there, and the source does not know until it can ask."""
    trip = shared.be_in(WAYS[way])
    there = trip.other()
    with trip.fault(there, "destination.after-commit=stop"):
        move = trip.move_until(there, "destination.after-commit")
        trip.lab.link.cut()
        there.thaw()
        assert move.finish().exit_code == 3
        trip.lab.link.restore()
        trip.arrived().check_runs()


# ---- users ----

@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_cancelled(shared, way):
    trip = shared.be_in(WAYS[way])
    move = trip.begin_slow()
    trip.here.vmferry("cancel", trip.guest.name).require()
    check_failed(move.finish(), "cancel", status="cancelled")
    trip.check_runs()


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moment", ["source.paused", "source.device-state-saved"])
def test_cancelled_in_the_pause(shared, way, moment):
    trip = shared.be_in(WAYS[way])
    with trip.fault(trip.here, f"{moment}=sleep:1500"):
        move = trip.begin_move()
        wait_until(lambda: trip.here.vmferry("cancel", trip.guest.name).exit_code == 0
                   or move.popen.poll() is not None, "something to cancel")
        check_failed(move.finish(), "cancel", status="cancelled")
        trip.check_runs()


@pytest.mark.long
def test_paused_by_another_program(pki):
    """A guest that stood still when it left stands still where it arrives, until somebody lets it go on."""
    trip = begin_journey(pki, user_qmp=True)
    try:
        check_paused_moves(trip)
    finally:
        trip.lab.close()


def check_paused_moves(trip) -> None:
    tell_qemu(trip, "stop")
    arrive_paused(trip)
    arrive_paused(trip)
    tell_qemu(trip, "cont")
    trip.check_runs()
    trip.be_in("bochs")
    os.kill(trip.here.guest_pid(trip.guest), signal.SIGINT)
    arrive_paused(trip)
    tell_qemu(trip, "cont")
    trip.check_runs()


def tell_qemu(trip, order: str) -> None:
    with Qmp(trip.here.host.path("user.qmp")) as qmp:
        qmp.execute(order)


def arrive_paused(trip) -> None:
    wait_until(lambda: trip.status()["state"] == "paused", "the pause", 20)
    trip.note()
    result = trip.here.migrate(trip.guest, trip.other(), "--vmm", trip.next_vmm)
    assert result.exit_code == 0 and result.json["paused"], result
    trip.arrived()
    assert trip.status()["state"] == "paused"
    assert trip.copies(trip.other()) == []


# ---- the guest itself ends ----

@pytest.mark.parametrize("way", ["back", pytest.param("there", marks=pytest.mark.long)])
def test_source_killed(shared, way):
    """Nobody can save the guest then; both hosts say so, and nothing is left."""
    trip = shared.be_in(WAYS[way])
    move = trip.begin_slow()
    os.kill(trip.here.guest_pid(trip.guest), signal.SIGKILL)
    check_failed(move.finish(), trip.guest.name, "has ended", exit_code=4, status="ended")
    trip.check_gone()
    trip.over = True
