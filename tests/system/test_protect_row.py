"""Fail-overs in a row: each time the guest is protected again by itself, towards where it was."""

import signal

import pytest

from kill_campaign import packets_counted, send_signal
from kill_full import Talker
from kill_plan import double_run
from live import check_disk
from protection import epochs, overlays, progress, protect, with_disk
from scene import Scene
from test_store import end_everything, store  # noqa: F401
from vmferry_lab import qemu_pids, run_pids, wait_until

PROCESS, HOST, AGENT, PLANNED = "its process", "its host", "agent and process", "planned"
PROTECTED_S = 90


class Row:
    """A guest with a disk, which goes from host to host; `talker` holds one conversation with it."""

    def __init__(self, scene: Scene, witness):
        for agent in (scene.a, scene.b):
            agent.settings["protect-again"] = "1"
            scene.restart(agent)
        self.scene = scene
        self.guest = with_disk(scene)
        protect(scene, self.guest, witness)
        self.talker = Talker(self.guest)

    def go_on(self, how: str) -> None:
        """Its host fails; its standby goes on, and has one in its turn: that host, which is back."""
        scene, guest = self.scene, self.guest
        old, new = scene.here(guest), scene.there(guest)
        [pid] = qemu_pids(old.host, guest)
        times = len(new.events("protected"))
        wait_until(lambda: epochs(old, guest) > 10, "epochs", 30)
        self._end(how, old)
        wait_until(lambda: new.status(guest)["role"] != "postcopy-source",
                   f"{how}: its standby goes on with it", 60)
        scene.place[guest.name] = new
        scene.beats[guest.name].wait(20)
        assert pid not in qemu_pids(old.host, guest)
        if not old.process.running:
            old.start()
        wait_until(lambda: self._is_protected(times), f"{how}: it is protected again", PROTECTED_S)
        self._check()

    def _end(self, how: str, agent) -> None:
        if how == PLANNED:
            agent.vmferry("failover", self.guest.name).require()
            return
        if how == AGENT:
            agent.kill()
        if how == HOST:
            end_everything(agent.host)
        else:
            send_signal(qemu_pids(agent.host, self.guest), signal.SIGKILL)

    def _is_protected(self, times: int) -> bool:
        here, there = self.scene.here(self.guest), self.scene.there(self.guest)
        return (len(here.events("protected")) > times
                and here.status(self.guest)["state"] == "protected"
                and progress(here, self.guest).get("standby_connected")
                and there.status(self.guest)["state"] == "standby")

    def _check(self) -> None:
        """One copy runs, and it knows all that anybody was told."""
        scene, guest = self.scene, self.guest
        assert len(run_pids(scene.here(guest).host, guest)) == 1
        assert not run_pids(scene.there(guest).host, guest)
        wait_until(lambda: not overlays(scene.there(guest)), "its writes are gone there", 20)
        self.talker.require()
        scene.beats[guest.name].wait(5)
        scene.beats[guest.name].check()
        guest.check()
        check_disk(guest)

    def finish(self) -> None:
        """Unprotected, it is as any other guest."""
        self.talker.finish()
        self.scene.here(self.guest).vmferry("unprotect", self.guest.name).require()
        self.scene.check(self.guest)
        check_disk(self.guest)


@pytest.fixture
def row(scene, store):  # noqa: F811
    one = Row(scene, store)
    yield one
    one.talker.close()


def go_through(row: Row, ends: list[str]) -> None:
    with packets_counted(row.scene, row.guest) as samples:
        for how in ends:
            row.go_on(how)
    at = double_run(samples)
    assert at is None, f"both copies sent packets at {at:.1f} s"
    row.finish()


def test_three_times(row):
    go_through(row, [PROCESS, HOST, PLANNED])


@pytest.mark.long
def test_ten_times(row):
    go_through(row, [PROCESS, HOST, AGENT, PLANNED, HOST, PROCESS, PLANNED, AGENT, HOST, PROCESS])
