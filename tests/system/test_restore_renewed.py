"""What a restored guest is told of the time and the place: its clock, its addresses."""

import time

import pytest

from findings import check_failed
from live import monitor, user_monitor
from saving import restore, save
from scene import SMALL
from vmferry_lab import qemu_pids, wait_until

AWAY_S = 4


def await_event(agent, kind, timeout=30):
    wait_until(lambda: agent.events(kind), f"event {kind}", timeout)
    return agent.events(kind)[-1]


def look_at_clocks(guest):
    with guest.control() as control:
        return control.clocks()


@pytest.mark.parametrize("policy", ["keep", "host"])
def test_clock(scene, any_qemu, tmp_path, policy):
    """What the guest has measured never goes back, nor does it jump; its wall clock is as it was wished."""
    guest = scene.run(**SMALL, guest_agent=True, qemu=any_qemu)
    file = tmp_path / "web1.image"
    before, began = look_at_clocks(guest), time.time()
    save(scene, guest, file, "--stop")
    time.sleep(AWAY_S)
    restore(scene, scene.a, file, "--clock", policy)
    if policy == "host":
        await_event(scene.a, "clock-set")
    after, now = look_at_clocks(guest), time.time()
    assert 0 < (after["mono_ns"] - before["mono_ns"]) / 1e9 < now - began - AWAY_S + 1
    late = now - after["real_ns"] / 1e9
    assert abs(late) < 1.5 if policy == "host" else AWAY_S - 0.5 < late < now - began + 1
    # The clock of QEMU's machine shows this host's time by itself.
    assert abs(now - after["rtc_s"]) < 2.5
    scene.check(guest)


@pytest.mark.long
def test_nobody_answers(scene, tmp_path):
    """The guest has a port, and no agent in it."""
    guest = scene.run(**SMALL, guest_agent=True, kernel_words="lab.agent=")
    file = tmp_path / "web1.image"
    save(scene, guest, file, "--stop")
    result = scene.a.vmferry("restore", file, "--clock", "host", "--full", "--json", timeout=60)
    assert result.exit_code == 3 and "does not answer" in result.json["problem"]
    await_event(scene.a, "clock-not-set")
    scene.check(guest)


@pytest.mark.parametrize("machine", ["pc", pytest.param("q35", marks=pytest.mark.long)])
def test_new_mac(scene, any_qemu, tmp_path, machine):
    """The guest finds another card in the place of the one that it had, and moves with it."""
    guest = scene.run(**SMALL, machine=machine, follow_card=True, qemu=any_qemu, extra=user_monitor(scene))
    file = tmp_path / "web1.image"
    with guest.control() as control:
        assert control.mac("eth0") == guest.mac
    save(scene, guest, file, "--stop")
    check_failed(scene.a.vmferry("restore", file, "--clock", "host"), "no channel to an agent")
    assert guest.name not in scene.a.guest_names()
    restore(scene, scene.a, file, "--new-mac")
    card, = await_event(scene.a, "new-addresses")["data"]["cards"]
    assert card["netdev"] == "net0" and card["mac_before"] == guest.mac != card["mac"]
    assert int(card["mac"][:2], 16) & 3 == 2
    scene.check(guest)
    for _ in range(2):
        with guest.control() as control:
            assert control.mac("eth0") == card["mac"]
        with monitor(scene, guest) as qmp:
            assert qmp.execute("qom-get", path="/machine/peripheral/vmferry-net0", property="mac") == card["mac"]
        scene.move(guest)


def test_cards_that_stay_are_named(scene, tmp_path):
    guest = scene.run(**SMALL, machine="microvm")
    file = tmp_path / "web1.image"
    save(scene, guest, file, "--stop")
    check_failed(scene.a.vmferry("restore", file, "--new-mac"), "virtio-net", "cannot get a new address")
    assert not qemu_pids(scene.a.host, guest) and guest.name not in scene.a.guest_names()
    restore(scene, scene.a, file, "--full")
    scene.check(guest)


@pytest.mark.long
def test_agent_killed_before_the_cards_are_exchanged(scene, tmp_path):
    """It is on record that they are to be."""
    guest = scene.run(**SMALL, follow_card=True)
    file = tmp_path / "web1.image"
    save(scene, guest, file, "--stop")
    scene.restart(scene.a, {"VMFERRY_FAULT": "restore.on-record=kill"}, finds_guests=False)
    assert scene.a.vmferry("restore", file, "--new-mac", timeout=60).exit_code != 0
    scene.a.kill()
    scene.a.start()
    card, = await_event(scene.a, "new-addresses")["data"]["cards"]
    scene.check(guest)
    with guest.control() as control:
        assert control.mac("eth0") == card["mac"]


@pytest.mark.long
def test_a_guest_that_keeps_its_card(scene, tmp_path):
    """It hears of no unplugging; it goes on without a network."""
    guest = scene.run(**SMALL, kernel_words="acpi=off")
    file = tmp_path / "web1.image"
    save(scene, guest, file, "--stop")
    result = scene.a.vmferry("restore", file, "--new-mac", "--full", "--json", timeout=60)
    assert result.exit_code == 3 and "cut off" in result.json["problem"]
    await_event(scene.a, "no-new-addresses")
    assert scene.a.status(guest)["state"] == "running"
    scene.require_silence(guest)
