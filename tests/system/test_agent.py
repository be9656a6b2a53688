"""The agent: restarts, crashes, its sockets, its events; a managed guest is left alone."""

import json
import os
import stat
from pathlib import Path

import pytest

from findings import check_failed, error_text, traces_in
from scene import BUSY, wait_progress
from vmferry_lab import Agent, LabError, qemu_pids, wait_gone, wait_until


def read_events(agent, *options) -> list[dict]:
    lines = agent.vmferry("events", "--json", *options).require().stdout.splitlines()
    return [json.loads(line) for line in lines]


# ---- restarts ----

def test_restarted_agent_finds_its_guests(shared):
    here = shared.here(shared.guest)
    pid = here.guest_pid(shared.guest)
    shared.restart(here)
    shared.check(shared.guest)
    assert here.guest_pid(shared.guest) == pid
    shared.move(shared.guest, "--verify")


def test_killed_agent_finds_its_guests(shared):
    here = shared.here(shared.guest)
    here.kill()
    shared.beats[shared.guest.name].wait(5)
    shared.restart(here)
    shared.check(shared.guest)
    shared.move(shared.guest, "--verify")


def test_stopped_agent_says_goodbye_and_leaves_guests_alone(shared):
    here = shared.here(shared.guest)
    assert here.stop() == 0
    shared.beats[shared.guest.name].wait(5)
    assert not here.socket.exists()
    shared.restart(here)
    shared.check(shared.guest)


def test_guest_that_ended_while_no_agent_looked(scene):
    guest = scene.run()
    pid = scene.a.guest_pid(guest)
    scene.a.kill()
    os.kill(pid, 9)
    wait_gone(pid)
    scene.restart(scene.a, finds_guests=False)
    wait_until(lambda: scene.a.guest_names() == [], "agent notices")
    assert read_events(scene.a)[-1]["type"] == "ended"
    assert list(scene.lab.host_a.path("run").iterdir()) == []


def test_guest_that_ends_is_noticed(scene):
    guest = scene.run()
    os.kill(scene.a.guest_pid(guest), 9)
    wait_until(lambda: scene.a.guest_names() == [], "agent notices")
    assert read_events(scene.a)[-1]["type"] == "ended"


def test_stop_ends_a_guest(scene):
    guest = scene.run()
    pid = scene.a.guest_pid(guest)
    scene.a.vmferry("stop", guest.name).require()
    assert not qemu_pids(scene.lab.host_a, guest)
    wait_gone(pid, 1)
    assert scene.a.guest_names() == []
    assert list(scene.lab.host_a.path("run").iterdir()) == []
    check_failed(scene.a.vmferry("stop", guest.name), guest.name, "vmferry list")


# ---- one agent at a time ----

def second_agent(agent, **settings) -> Agent:
    """Another agent on the same host; *settings* tell what it has of its own."""
    own = {"socket": agent.host.path("second.sock"), "state-dir": agent.host.path("state2"),
           "runtime-dir": agent.host.path("run2"), "listen": f"{agent.host.ip}:4750"}
    second = Agent(agent.lab, agent.host, None, {**own, "pki": agent.settings["pki"],
                                                 "insecure": None, **settings})
    second.config = agent.host.path("second.conf")
    agent.lab.at_close(lambda: second.process and second.process.kill())
    return second


@pytest.mark.parametrize("same, words", [
    ("state-dir", "another agent uses the state directory"),
    ("socket", "agent.sock"),
    ("listen", "is another agent running"),
])
def test_second_agent_is_refused(scene, same, words):
    second = second_agent(scene.a, **{same: scene.a.settings[same]})
    second.host.path("second.sock").unlink(missing_ok=True)
    with pytest.raises(LabError, match=words):
        second.start()
        second.process.wait(5)  # its socket may be the other's, which answers
        raise LabError(second.log())
    assert scene.a.guest_names() == []


def test_two_agents_on_one_host(scene):
    assert second_agent(scene.a).start().guest_names() == []


# ---- its sockets and files ----

def test_control_socket_is_for_owner_and_group(scene):
    mode = scene.a.socket.stat()
    assert stat.S_IMODE(mode.st_mode) == 0o660 and mode.st_uid == os.geteuid()


def test_guests_files_are_private(shared):
    here = shared.here(shared.guest)
    for path in here.host.path("run").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(here.host.path("state").stat().st_mode) & 0o022 == 0


def test_socket_of_a_killed_agent_is_replaced(scene):
    scene.a.kill()
    assert scene.a.socket.exists()
    result = scene.a.vmferry("list")
    assert result.exit_code == 1 and "agent" in error_text(result)
    scene.a.start()
    assert scene.a.guest_names() == []


@pytest.mark.parametrize("settings, rules, words", [
    ({"alow": "hostB"}, {}, "unknown key"),
    ({"allow": " "}, {}, "names no peer"),
    ({"bandwidth": "fast"}, {}, "bandwidth"),
    ({"max-downtime": "0"}, {}, "max-downtime"),
    ({"downtime-cap": "2h"}, {}, "from 1 ms to 1 h"),
    ({"max-downtime": "2s", "downtime-cap": "1s"}, {}, "downtime-cap of 1000 ms is below"),
    ({"memory-budget": "0"}, {}, "from 1Mi to 1024Gi"),
    ({"streams": "17"}, {}, "must be auto, or from 1 to 16"),
    ({"throttle": "hard"}, {}, "use auto, cgroup, duty or off"),
    ({"tracker": "magic"}, {}, "tracker"),
    ({"listen": "10.66.0.1:x"}, {}, "not a valid address"),
    ({}, {"broken": "no arrow"}, "FROM => TO"),
], ids=lambda value: next(iter(value), None) if isinstance(value, dict) else None)
def test_wrong_configuration(scene, settings, rules, words):
    agent = second_agent(scene.a, **settings)
    agent.rules.update(rules)
    with pytest.raises(LabError, match=words):
        agent.start()
    assert agent.process.wait() in (1, 2)


def test_bad_record_is_put_aside(scene):
    """A file that nobody can read costs its guest's memory, not everybody's."""
    guest = scene.run()
    scene.a.stop()
    (scene.lab.host_a.path("state") / "guests" / "other.json").write_text("{nonsense")
    scene.restart(scene.a)
    scene.move(guest)
    assert "bad-record" in [event["type"] for event in read_events(scene.a)]


# ---- events ----

def test_events_survive_a_restart(shared):
    here = shared.here(shared.guest)
    before = read_events(here)
    shared.restart(here)
    assert read_events(here)[:len(before)] == before
    numbers = [event["seq"] for event in read_events(here)]
    assert numbers == sorted(set(numbers))


def test_events_since(shared):
    here = shared.here(shared.guest)
    events = read_events(here)
    last = events[-1]["seq"]
    assert read_events(here, "--since", str(last - 1)) == events[-1:]
    assert read_events(here, "--since", str(last)) == []


# ---- managed guests ----

def test_idle_guest_in_care_is_untouched(scene):
    """No tracer, no userfaultfd, nothing mapped; its agent looks into none of its files."""
    guest = scene.adopt()
    pid = scene.a.guest_pid(guest)
    maps = mapped_files(pid)
    scene.beats[guest.name].wait(20)
    assert traces_in(pid) == [] and mapped_files(pid) == maps
    assert looks_into(scene.a.pid, pid) == []
    move = scene.a.begin_migrate(guest, scene.b, "--bandwidth", "4M")
    wait_progress(scene.a, guest, "precopy", 1_000_000)
    assert looks_into(scene.a.pid, pid) != []  # that the look can find something
    scene.a.vmferry("cancel", guest.name).require()
    move.finish()
    wait_until(lambda: looks_into(scene.a.pid, pid) == [], "the agent has let go of it", 5)
    assert traces_in(pid) == [] and mapped_files(pid) == maps


def looks_into(agent: int, pid: int) -> list[str]:
    """What an agent has open of a guest's memory, and any userfaultfd."""
    found = []
    for fd in Path(f"/proc/{agent}/fd").iterdir():
        try:
            target = os.readlink(fd)
        except FileNotFoundError:
            continue
        if target.startswith(f"/proc/{pid}/") or "userfaultfd" in target:
            found.append(target)
    return found


def mapped_files(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split(None, 5)[5] for line in lines if len(line.split(None, 5)) > 5}


def test_list_and_status(shared):
    here, guest = shared.here(shared.guest), shared.guest
    [entry] = here.vmferry("list", "--json").require().json["guests"]
    assert entry["name"] == guest.name and entry["state"] == "running"
    status = here.status(guest)
    assert status["machine"] == "pc-i440fx-7.2" and status["vcpus"] == 1
    assert status["memory_bytes"] == 128 << 20 and status["accelerator"] == "tcg"
    assert status["command_line"][0] == guest.qemu.program
    assert not any("incoming" in word for word in status["command_line"])
    assert here.vmferry("status", "--json").require().json["secure"] is True
    text = here.vmferry("list").require().stdout
    assert guest.name in text and "running" in text
    assert guest.name in here.vmferry("status", guest.name).require().stdout


def test_name_can_be_had_once(shared):
    here = shared.here(shared.guest)
    result = here.vmferry("run", shared.guest.name, "--", "qemu-system-x86_64")
    check_failed(result, shared.guest.name, "already")
    shared.check(shared.guest)


@pytest.mark.long
def test_busy_guest_and_restarts_in_a_row(scene):
    guest = scene.run(**BUSY)
    for _ in range(3):
        scene.restart(scene.a)
        scene.a.kill()
        scene.restart(scene.a)
    scene.move(guest, "--verify")
