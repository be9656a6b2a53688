"""A protected guest whose standby, witness or link is not there, and what its user is told."""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from findings import check_failed
from kill_campaign import send_signal
from kill_full import Talker
from live import check_disk
from protection import (BUSY, epochs, has_gone_on, overlays, progress, protect, wait_connected,
                        with_disk)
from test_store import end_everything, store  # noqa: F401
from vmferry_lab import qemu_pids, run_pids, vmferry_program, wait_until

RECONNECT_S = 60


@contextmanager
def talking(guest):
    """A client holds one conversation with the guest all the time, and knows what it was told."""
    talker = Talker(guest)
    try:
        yield talker
        talker.finish()
    finally:
        talker.close()


def problem(agent, guest) -> str:
    return agent.status(guest)["problem"] or ""


def wait_problem(agent, guest, *words, timeout=40) -> None:
    wait_until(lambda: all(word in problem(agent, guest) for word in words),
               f"{agent.host.name} says {words}", timeout)


def wait_output_held(scene, guest) -> None:
    wait_until(lambda: scene.beats[guest.name].is_silent(1), "what it sends is held", 30)


def gains_epochs(scene, guest, count=5) -> None:
    before = epochs(scene.here(guest), guest)
    wait_until(lambda: epochs(scene.here(guest), guest) > before + count, "epochs", 30)


# ---- no witness ----

@pytest.mark.long
def test_link_is_cut_without_a_witness(scene):
    """For a moment, for a while, for long: it runs, what it sends waits, and its user decides."""
    guest = with_disk(scene)
    [pid] = qemu_pids(scene.a.host, guest)
    protect(scene, guest, None)
    link, beats = scene.lab.link, scene.beats[guest.name]
    with talking(guest):
        for seconds in (0.2, 5):
            link.cut()
            time.sleep(seconds)
            link.restore()
            wait_connected(scene, guest, RECONNECT_S)
            gains_epochs(scene, guest)
            beats.wait(5)
            wait_until(lambda: not problem(scene.a, guest), "all is well again", 20)
        link.cut()
        wait_output_held(scene, guest)
        wait_problem(scene.a, guest, "does not answer", "waits", f"unprotect {guest.name} --force")
        wait_problem(scene.b, guest, f"resolve {guest.name} --keep here")
        assert scene.a.status(guest)["state"] == "protected"
        assert scene.b.status(guest)["state"] == "standby"
        check_failed(scene.a.vmferry("unprotect", guest.name), "no witness", "--force")
        check_failed(scene.a.vmferry("failover", guest.name), "does not answer")
        assert not run_pids(scene.b.host, guest)
        scene.a.vmferry("unprotect", guest.name, "--force").require()
        beats.wait(20)
        assert scene.a.status(guest)["state"] == "running"
        assert not run_pids(scene.b.host, guest)
        link.restore()
        wait_until(lambda: guest.name not in scene.b.guest_names(), "its standby ends", 60)
    assert qemu_pids(scene.a.host, guest) == [pid]
    scene.check(guest)
    check_disk(guest)
    assert not overlays(scene.a)


def test_host_dies_without_a_witness(scene):
    """Its standby cannot know that, and says so to who can."""
    guest = with_disk(scene)
    protect(scene, guest, None)
    with talking(guest):
        gains_epochs(scene, guest)
        end_everything(scene.a.host)
        wait_problem(scene.b, guest, f"resolve {guest.name} --keep here")
        assert not run_pids(scene.b.host, guest)
        scene.b.vmferry("resolve", guest.name, "--keep", "here").require()
        wait_until(lambda: scene.b.status(guest)["role"] == "ours", "it goes on there", 60)
        scene.a.start()
        has_gone_on(scene, guest)
        check_disk(guest)


# ---- with a witness ----

@pytest.mark.long
def test_witness_is_gone_then_the_standby(scene, store):  # noqa: F811
    """It cannot know whether it is itself cut off: it stands still until one of them is back."""
    guest = with_disk(scene)
    protect(scene, guest, store)
    with talking(guest):
        store.kill()
        gains_epochs(scene, guest, 20)
        scene.beats[guest.name].wait(20)
        scene.b.kill()
        wait_until(lambda: progress(scene.a, guest).get("held"), "it stands still", 30)
        wait_problem(scene.a, guest, "stands still", scene.b.address, store.address)
        scene.require_silence(guest, 2)
        scene.b.start()
        wait_connected(scene, guest, RECONNECT_S)
        scene.beats[guest.name].wait(20)
        wait_until(lambda: not problem(scene.a, guest), "all is well again", 20)
        gains_epochs(scene, guest)
        # The other of the two.
        scene.b.kill()
        wait_until(lambda: progress(scene.a, guest).get("held"), "it stands still", 30)
        store.start()
        scene.beats[guest.name].wait(20)
        wait_until(lambda: scene.a.status(guest)["state"] == "running", "it goes on alone", 60)
    scene.b.start()
    scene.check(guest)
    check_disk(guest)


# ---- clocks ----

DAY_S = 86400
DAYS_S = 40 * DAY_S


@contextmanager
def other_boot_time(scene, agent, seconds: int):
    """The agent, and what it starts, see a host that has run for so much longer."""
    agent.wrapper = ["unshare", "--time", "--boottime", seconds, "--monotonic", seconds]
    try:
        scene.restart(agent, finds_guests=False)
        assert os.readlink(f"/proc/{agent.pid}/ns/time") != os.readlink("/proc/self/ns/time")
        yield
    finally:
        agent.wrapper = []


@pytest.mark.long
@pytest.mark.parametrize("side", ["host", "standby", "witness"])
def test_another_boot_time(scene, store, side):  # noqa: F811
    """No time of one host means anything at another: leases, fail-over and the way back work."""
    agent = {"host": scene.a, "standby": scene.b, "witness": store}[side]
    with other_boot_time(scene, agent, DAYS_S):
        guest = scene.run(**BUSY)
        protect(scene, guest, store)
        with talking(guest):
            gains_epochs(scene, guest, 10)
            scene.lab.link.cut("hostB")
            wait_until(lambda: scene.a.status(guest)["state"] == "running", "it goes on alone", 60)
            scene.lab.link.restore()
            wait_until(lambda: guest.name not in scene.b.guest_names(), "its standby ends", 60)
            protect(scene, guest, store)
            gains_epochs(scene, guest)
            scene.a.kill()
            send_signal(qemu_pids(scene.a.host, guest), signal.SIGKILL)
            wait_until(lambda: scene.b.status(guest)["role"] == "ours", "it goes on there", 60)
            scene.a.start()
            has_gone_on(scene, guest)


WALL_CLOCK = Path(vmferry_program()).parents[2] / "tests/system/wall_clock.so"


class WallClock:
    """Of an agent, not of what it starts: set() moves it, from one moment to the next."""

    def __init__(self, agent):
        self._file = agent.host.path("wall-clock")
        self.set(0)
        agent.wrapper = ["env", f"LD_PRELOAD={WALL_CLOCK}", f"WALL_CLOCK={self._file}"]

    def set(self, seconds: int) -> None:
        """So far off from now on."""
        new = self._file.with_name("wall-clock.new")
        new.write_text(str(seconds))
        new.rename(self._file)


@pytest.mark.long
def test_wall_clocks_jump(scene, store):  # noqa: F811
    """Neither leases nor epochs go by them."""
    agents = [scene.a, scene.b, store]
    clocks = [WallClock(agent) for agent in agents]
    for agent in agents:
        scene.restart(agent, finds_guests=False)
    guest = scene.run(**BUSY)
    protect(scene, guest, store)
    with talking(guest):
        for clock in clocks:
            for seconds in (DAY_S, -DAY_S, 0):
                clock.set(seconds)
                gains_epochs(scene, guest)
        times = [one["time"][:10] for one in scene.a.events()]
        clocks[0].set(DAY_S)
        assert scene.a.status(guest)["state"] == "protected"
        assert not scene.a.events("alone") and not scene.b.events("taking-over")
        clocks[1].set(-DAY_S)
        scene.a.kill()
        send_signal(qemu_pids(scene.a.host, guest), signal.SIGKILL)
        wait_until(lambda: scene.b.status(guest)["role"] == "ours", "it goes on there", 60)
        today = scene.b.events("taken-over")[0]["time"][:10]
        assert today < max(times)  # the clock was what it should be
        clocks[1].set(0)
        scene.a.start()
        has_gone_on(scene, guest)
