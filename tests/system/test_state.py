"""`vmferry state`: what a guest's processors and devices are, told and compared."""

import json
import subprocess
import time

import pytest

from live import monitor, user_monitor
from scene import SMALL
from vmferry_lab import vmferry_program

CARD = "qemu,virtio-net"


def state(scene, guest, *words):
    return scene.here(guest).vmferry("state", *words)


def shown(scene, guest, name=None) -> dict:
    result = state(scene, guest, "show", name or guest.name, "--json")
    assert result.exit_code == 0, result.stderr
    return result.json


def check_running(scene, guest):
    first, second = shown(scene, guest), shown(scene, guest)
    assert first["format"] == "vmferry-state" and len(first["cpus"]) == 2
    # Its kernel runs, in long mode with paging.
    assert int(first["cpus"][0]["ia32_efer"], 16) & 0xd00 == 0xd00
    assert second["clock"]["since_start"] > first["clock"]["since_start"]
    assert int(first["machine"]["ram_bytes"], 16) == sum(int(part["bytes"], 16) for part in first["memory"]
                                                      if part["kind"] == "ram")
    checked = state(scene, guest, "check", guest.name)
    assert checked.exit_code == 1 and CARD in checked.stdout


def without_wall_clock(state: dict) -> dict:
    """QEMU's real-time clock is the host's, and goes on."""
    devices = [device for device in state["devices"] if device["type"] != "motorola,mc146818"]
    assert len(devices) + 1 == len(state["devices"])
    return {**state, "devices": devices, "digest": None}


def check_paused(scene, guest):
    """A guest that its user has paused stays paused, and as it is."""
    with_qmp = monitor(scene, guest)
    with_qmp.execute("stop")
    assert without_wall_clock(shown(scene, guest)) == without_wall_clock(shown(scene, guest))
    assert with_qmp.execute("query-status")["status"] == "paused"
    with_qmp.execute("cont")


def check_saved(scene, guest, folder):
    """Compared with the guest that went on, it differs by what has happened since."""
    image = folder / "web1.vmfi"
    assert scene.a.vmferry("save", guest.name, image, timeout=120).exit_code == 0
    (folder / "saved.json").write_text(json.dumps(shown(scene, guest, image)))
    assert state(scene, guest, "diff", folder / "saved.json", image).exit_code == 0
    result = state(scene, guest, "diff", image, guest.name, "--json")
    paths = {difference["path"] for difference in result.json["differences"]}
    assert result.exit_code == 1 and "clock.since_start" in paths
    assert not any(path.startswith("machine") for path in paths)


def test_state_of_a_guest(scene, any_qemu, tmp_path):
    guest = scene.run(**SMALL, vcpus=2, qemu=any_qemu, extra=user_monitor(scene))
    check_running(scene, guest)
    check_paused(scene, guest)
    check_saved(scene, guest, tmp_path)
    scene.check(guest)


@pytest.mark.long
def test_agent_dies_meanwhile(scene):
    """At whatever moment of a look: the guest runs on."""
    guest = scene.run(**SMALL)
    command = [vmferry_program(), "state", "show", guest.name, "--socket", scene.a.socket]
    for milliseconds in (0, 2, 5, 10, 20):
        look = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(milliseconds / 1000)
        scene.a.kill()
        look.wait(30)
        scene.restart(scene.a)
        scene.check(guest)
