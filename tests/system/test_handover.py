"""The switchover: whatever is lost, killed or frozen around the word, one copy goes on.

The source gives its word when the destination is ready; the destination commits, then starts
the guest.  docs/protocol.md has the rule by which both agree when they lose each other then.
"""

import pytest

from findings import check_failed, error_text, traces_in
from scene import move_until
from vmferry_lab import qemu_pids, wait_until


def wait_in_doubt(scene, move) -> None:
    """The source says that it does not know; the guest stands still everywhere."""
    here = scene.here(scene.guest)
    result = move.finish()
    text = check_failed(result, "switchover", "resolve", exit_code=3)
    status = here.status(scene.guest)
    assert status["state"] == "in-doubt" and status["problem"], text
    assert traces_in(status["pid"]) == []


@pytest.fixture
def doubtful(shared):
    """`shared`, whose agents run without faults and whose link is whole again afterwards."""
    yield shared
    shared.lab.link.restore()


def settle(scene, *, moved: bool) -> None:
    """The guest is where it must be, by the work of the agents that lost each other: only a dead
    one is started.  It moves again without the fault."""
    if moved:
        scene.place[scene.guest.name] = scene.there(scene.guest)
    for agent in (scene.a, scene.b):
        if not agent.process.running:
            scene.restart(agent, finds_guests=False)
    scene.check(scene.guest)
    for agent in (scene.a, scene.b):
        scene.restart(agent)
    scene.move(scene.guest, "--verify")


# ---- before the word: the source decides ----

def test_link_cut_before_the_word(doubtful):
    scene, here = doubtful, doubtful.here(doubtful.guest)
    move = move_until(scene, here, "source.before-start")
    scene.lab.link.cut()
    there = scene.there(scene.guest)
    wait_until(lambda: not qemu_pids(there.host, scene.guest), "the destination gives up", 15)
    scene.lab.link.restore()
    here.thaw()
    check_failed(move.finish(), "switchover", "--downtime-cap")
    settle(scene, moved=False)


@pytest.mark.long
def test_source_frozen_before_the_word(doubtful):
    """Its word comes when nobody listens any more."""
    scene, here = doubtful, doubtful.here(doubtful.guest)
    move = move_until(scene, here, "source.before-start")
    there = scene.there(scene.guest)
    wait_until(lambda: not qemu_pids(there.host, scene.guest), "the destination gives up", 15)
    here.thaw()
    check_failed(move.finish(), "switchover", "--downtime-cap")
    settle(scene, moved=False)


@pytest.mark.long
def test_word_lost_on_the_way(doubtful):
    """Given into a dead link: in doubt, until the destination can be asked."""
    scene, here = doubtful, doubtful.here(doubtful.guest)
    move = move_until(scene, here, "source.before-start")
    scene.lab.link.cut()
    here.thaw()
    wait_in_doubt(scene, move)
    there = scene.there(scene.guest)
    wait_until(lambda: not qemu_pids(there.host, scene.guest), "the destination gives up", 15)
    scene.require_silence(scene.guest)
    scene.lab.link.restore()
    settle_by_itself(scene, moved=False)


def settle_by_itself(scene, *, moved: bool) -> None:
    """No restart, no operator: the source asks until it knows."""
    wait_until(lambda: not scene.beats[scene.guest.name].is_silent(0.1), "guest goes on", 40)
    settle(scene, moved=moved)


# ---- after the word: the destination decides ----

@pytest.mark.long
def test_answer_lost_on_the_way(doubtful):
    """It runs there, and the source does not know: its copy stays paused until it does."""
    scene, there = doubtful, doubtful.there(doubtful.guest)
    move = move_until(scene, there, "destination.after-commit")
    scene.lab.link.cut()
    there.thaw()
    scene.beats[scene.guest.name].wait(5)
    wait_in_doubt(scene, move)
    scene.beats[scene.guest.name].wait(5)
    here = scene.here(scene.guest)
    scene.lab.link.restore()
    wait_until(lambda: not qemu_pids(here.host, scene.guest), "the old copy ends", 40)
    settle(scene, moved=True)


def test_source_frozen_after_the_word(doubtful):
    scene, here = doubtful, doubtful.here(doubtful.guest)
    move = move_until(scene, here, "source.start-sent")
    scene.beats[scene.guest.name].wait(5)  # it runs there
    wait_until(lambda: scene.there(scene.guest).status(scene.guest)["state"] == "running",
               "arrival")
    here.thaw()
    assert move.finish().exit_code == 0
    settle(scene, moved=True)


@pytest.mark.long
def test_destination_frozen_before_it_commits(doubtful):
    """The word waits in its socket: when it thaws it may commit, and the source has waited."""
    scene, there = doubtful, doubtful.there(doubtful.guest)
    move = move_until(scene, there, "destination.before-commit")
    wait_in_doubt(scene, move)
    scene.require_silence(scene.guest)
    there.thaw()
    here = scene.here(scene.guest)
    wait_until(lambda: not qemu_pids(here.host, scene.guest)
               or not qemu_pids(there.host, scene.guest), "one copy goes on", 40)
    settle(scene, moved=bool(qemu_pids(there.host, scene.guest)))


# ---- in doubt ----

def kill_before_commit(scene):
    """The destination's agent dies with the word in its hand, and stays dead."""
    there = scene.there(scene.guest)
    scene.restart(there, {"VMFERRY_FAULT": "destination.before-commit=kill"})
    move = scene.here(scene.guest).begin_migrate(scene.guest, there)
    wait_in_doubt(scene, move)
    wait_until(lambda: not qemu_pids(there.host, scene.guest), "its guard ends the copy")


def test_in_doubt_survives_a_restart(doubtful):
    scene, here = doubtful, doubtful.here(doubtful.guest)
    kill_before_commit(scene)
    here.kill()
    scene.restart(here)
    wait_until(lambda: here.status(scene.guest)["state"] == "in-doubt", "still in doubt")
    scene.require_silence(scene.guest)
    check_failed(here.migrate(scene.guest, "10.66.0.2"), scene.guest.name)
    settle(scene, moved=False)


def test_operator_keeps_it_here(doubtful):
    scene, here = doubtful, doubtful.here(doubtful.guest)
    kill_before_commit(scene)
    here.vmferry("resolve", scene.guest.name, "--keep", "here").require()
    scene.beats[scene.guest.name].wait(5)
    assert here.status(scene.guest)["state"] == "running"
    settle(scene, moved=False)


def test_operator_gives_it_away(scene):
    """Ends the copy here, even where nobody has another: that is what was asked for."""
    guest = scene.run()
    kill_before_commit(scene)
    scene.a.vmferry("resolve", guest.name, "--keep", "there").require()
    assert scene.a.guest_names() == []
    assert not qemu_pids(scene.lab.host_a, guest)


def test_nothing_to_resolve(doubtful):
    here = doubtful.here(doubtful.guest)
    result = here.vmferry("resolve", doubtful.guest.name, "--keep", "here")
    assert result.exit_code == 1 and "not in doubt" in error_text(result)


@pytest.mark.long
def test_destination_answers_better_than_the_operator(doubtful):
    """It has the guest and says so: the copy here must end, whatever was typed."""
    scene = doubtful
    here, there = scene.here(scene.guest), scene.there(scene.guest)
    move = move_until(scene, there, "destination.after-commit")
    scene.lab.link.cut()
    there.thaw()
    wait_in_doubt(scene, move)
    scene.lab.link.restore()
    result = here.vmferry("resolve", scene.guest.name, "--keep", "here", "--json")
    # It may have settled just before the command came.
    assert result.exit_code == 3 and result.json["kept"] == "there" or \
        scene.guest.name in error_text(result)
    settle(scene, moved=True)


def test_another_agent_cannot_answer(scene):
    """The name leads to an agent that was never sent the guest: its "never heard of it" is no
    reason to run the copy here."""
    guest = scene.run()
    kill_before_commit(scene)
    state = scene.b.settings["state-dir"]
    state.rename(state.with_name("state-lost"))
    scene.restart(scene.b)
    wait_until(lambda: "another agent" in (scene.a.status(guest)["problem"] or ""),
               "the source sees that it is another agent", 40)
    assert scene.a.status(guest)["state"] == "in-doubt"
    scene.require_silence(guest)
    scene.b.stop()
    state.rename(state.with_name("state-of-another"))
    state.with_name("state-lost").rename(state)
    scene.restart(scene.b)
    wait_until(lambda: scene.a.status(guest)["state"] == "running", "it goes on", 60)
    scene.check(guest)
