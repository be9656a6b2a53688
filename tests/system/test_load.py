"""GET /v1/load and `vmferry top`: what a host and its guests use."""

import socket
import time

import pytest

from load import (Looks, cpu_seconds, get, guest_of, hurry, load, make_group, mount_groups,
                  next_look, pin)
from scene import SMALL
from vmferry_lab import qemu_pids, wait_until

BUSY = {"pattern": "read"}  # without a limit: its vCPU never rests


def run(scene, name, **options):
    """A guest on host A, without a heartbeat: nothing but what a test asks for."""
    guest = scene.lab.guest(name, **{**SMALL, **options})
    scene.a.run(guest)
    return guest


@pytest.fixture
def one(lab, make_agent):
    """A scene's worth of one host."""
    class One:
        pass
    scene = One()
    scene.lab, scene.a = lab, make_agent(lab.host_a).start()
    return scene


def test_a_host_and_a_guest(one):
    """One guest that computes, then receives, then writes: each is counted, by its kind."""
    guest = run(one, "web1", disk_mb=16, check=0)
    [pid] = qemu_pids(one.lab.host_a, guest)
    with guest.control() as control:
        computes(one, guest, pid, control)
        receives(one, guest)
        sends(one, guest, control)
        writes(one, guest, control)
    shows(one, guest)
    ends(one, guest)


def computes(one, guest, pid, control):
    control.write("read")
    with Looks(one.a) as looks:
        looks.begin()
        began, used = time.monotonic(), cpu_seconds(pid)
        looks.take(4)
        truth = (cpu_seconds(pid) - used) / (time.monotonic() - began)
    told = looks.mean(lambda look: guest_of(look, guest)["cpu_used"])
    print(f"CPUs: {truth:.3f}, told {told:.3f}")
    assert truth > 0.1
    assert told == pytest.approx(truth, rel=0.2)
    for look in looks.looks:
        entry = guest_of(look, guest)
        assert entry["role"] == "ours" and entry["state"] == "running" and entry["term"] == 1
        assert entry["vcpus"] == 1 and entry["memory_bytes"] == 128 << 20
        assert 16 << 20 < entry["resident_bytes"] < 1 << 30
        assert entry["vcpu_used"] <= entry["cpu_used"] + 0.1
        assert look["cpu_used"] >= 0.8 * entry["cpu_used"]
        assert look["cpus"] >= 1 and look["memory_available_bytes"] < look["memory_bytes"]
    control.write("idle")
    idle = wait_until(lambda: (entry := guest_of(next_look(one.a, load(one.a)), guest))["cpu_used"]
                      < 0.3 * told and entry, "it rests", 30)
    assert idle["vcpu_used"] < 0.3 * told


def receives(one, guest):
    """Through its tap, whose own counters are turned round."""
    tap = one.lab.host_a.namespace
    with Looks(one.a) as looks, one.lab.client.socket(kind=socket.SOCK_DGRAM) as flood:
        before = tap.bytes_sent(guest.tap)
        for number in range(2000):
            flood.sendto(bytes(1000), (guest.ip, 9))
            if number % 50 == 0:
                time.sleep(0.01)
        looks.take(2)
        truth = tap.bytes_sent(guest.tap) - before
    received = looks.sum(lambda look: guest_of(look, guest)["network"]["received_bytes_per_s"])
    sent = looks.sum(lambda look: guest_of(look, guest)["network"]["sent_bytes_per_s"])
    print(f"received {truth}, told {received}; sent {sent}")
    assert truth > 1_000_000
    assert received == pytest.approx(truth, rel=0.1)
    assert sent < received / 4
    assert guest_of(looks.last, guest)["network"]["backlog_bytes"] == 0


def sends(one, guest, control):
    with Looks(one.a) as looks:
        for _ in range(1000):
            control.read("/dev/zero", 0, 100)
        looks.take(2)
    sent = looks.sum(lambda look: guest_of(look, guest)["network"]["sent_bytes_per_s"])
    received = looks.sum(lambda look: guest_of(look, guest)["network"]["received_bytes_per_s"])
    print(f"sent {sent}, received {received}")
    assert sent > 1000 * 200
    assert sent > 1.5 * received


def writes(one, guest, control):
    """All that it writes and flushes from one look to another, in between which it does so."""
    control.set(disk_rate=0)
    with Looks(one.a) as looks:
        looks.begin()
        before = int(control.status()["disk_sequence"])
        control.set(disk_rate=100)
        looks.take(2)
        control.set(disk_rate=0)
        commits = int(control.status()["disk_sequence"]) - before
        looks.take(2)
    written = looks.sum(lambda look: guest_of(look, guest)["disk"]["written_bytes_per_s"])
    flushes = looks.sum(lambda look: guest_of(look, guest)["disk"]["flushes_per_s"])
    print(f"{commits} commits, told {flushes}; {written} bytes")
    assert commits > 20
    assert flushes == pytest.approx(commits, rel=0.2, abs=4)
    assert written == pytest.approx(commits * 4096, rel=0.2, abs=16384)


def shows(one, guest):
    lines = one.a.vmferry("top").require().stdout.splitlines()
    assert lines[0].split() == ["host", load(one.a)["host"]]
    [heads] = [line.split() for line in lines if line.startswith("GUEST")]
    [row] = [line for line in lines if line.startswith(guest.name)]
    assert heads[:4] == ["GUEST", "STATE", "CPUS", "WAITS"] and " running " in row
    metrics = get(one.a, "/v1/metrics").splitlines()
    for name in ("cpu_seconds_total", "resident_bytes", "network_sent_bytes_total",
                 "disk_written_bytes_total"):
        assert any(line.startswith(f'vmferry_guest_{name}{{guest="{guest.name}"}} ')
                   for line in metrics), name
    assert any(line.startswith('vmferry_host_link_sent_bytes_total{link="eth0"} ')
               for line in metrics)


def ends(one, guest):
    one.a.vmferry("stop", guest.name).require()
    wait_until(lambda: not load(one.a)["guests"], "its figures end with it", 10)


@pytest.mark.long
def test_two_guests_on_one_cpu(one):
    """Each vCPU then waits for half of the time at least; one that goes first does not."""
    guests = [run(one, name, check=0, **BUSY) for name in ("web1", "web2")]
    pids = [qemu_pids(one.lab.host_a, guest)[0] for guest in guests]
    for pid in pids:
        pin(pid, 0)
    with Looks(one.a) as looks:
        looks.begin()
        looks.take(4)
        waits = [mean_wait(looks, guest) for guest in guests]
        used = looks.mean(lambda look: sum(entry["cpu_used"] for entry in look["guests"]))
        print(f"waits {waits}, used {used}")
        assert min(waits) > 0.35
        assert used < 1.15
        assert looks.mean(lambda look: look["pressure"]["cpu"]["some"]) > 0.3
        # Whatever else this machine does, the first one need not wait for it now.
        hurry(pids[0])
        looks.begin()
        looks.take(2)
        waits_now = [mean_wait(looks, guest) for guest in guests]
    print(f"waits {waits_now}")
    assert waits_now[0] < 0.5 * waits[0]
    assert waits_now[1] > waits[1]


def mean_wait(looks, guest):
    return looks.mean(lambda look: guest_of(look, guest)["cpu_wait"])


@pytest.mark.long
def test_while_a_guest_moves(scene):
    """Its traffic is told apart, its figures make sense, and it is told where it is."""
    scene.lab.link.shape("100mbit")
    guest = scene.run(memory_mb=256, arena_mb=64, disk_mb=16, disk_rate=20, pattern="dense", pages_per_second=200)
    scene.beats[guest.name].wait(5)
    with Looks(scene.a) as here, Looks(scene.b) as there:
        here.begin()
        assert here.last["moves"]["sent_bytes_per_s"] < 50_000
        report = scene.a.migrate(guest, scene.b).require().json
        here.take(2)
        there.take(2)
    sent = here.sum(lambda look: look["moves"]["sent_bytes_per_s"])
    received = there.sum(lambda look: look["moves"]["received_bytes_per_s"])
    print(f"wire {report['wire_bytes']}, sent {sent}, received {received}")
    assert sent == pytest.approx(report["wire_bytes"], rel=0.1)
    assert received == pytest.approx(sent, rel=0.1)
    assert max(look["moves"]["cpu_used"] for look in here.looks) > 0.01
    link = {link["name"]: link for link in here.last["links"]}["eth0"]
    assert link["speed_bytes_per_s"] == 12_500_000
    assert max(entry["sent_bytes_per_s"] for look in here.looks for entry in look["links"]
               if entry["name"] == "eth0") > 4e6
    moving = [entry for look in here.looks for entry in look["guests"]
              if entry["state"] == "migrating"]
    assert moving and any(entry["cpu_used"] is not None for entry in moving)
    assert all(entry["disk"]["written_bytes_per_s"] is None for entry in moving[1:])
    scene.has_moved(guest)
    entry = wait_until(lambda: (entry := guest_of(next_look(scene.b, load(scene.b)), guest))
                       ["disk"]["written_bytes_per_s"] and entry, "it is looked at there", 20)
    assert entry["role"] == "ours" and entry["term"] == 2 and entry["vcpus"] == 1
    assert not load(scene.a)["guests"]


@pytest.mark.long
def test_a_control_group_is_the_host(lab, make_agent):
    """Two agents on one machine, each with a group of its own: the busy guest is in one of them."""
    root = mount_groups(lab)
    agents = []
    for host in lab.hosts:
        agent = make_agent(host)
        agent.metrics_root = make_group(lab, root, host.name)
        agent.wrapper = ["sh", "-c", f"echo $$ >{agent.metrics_root}/cgroup.procs && exec \"$@\"",
                         "sh"]
        agents.append(agent.start())
    guest = lab.guest(**{**SMALL, **BUSY, "check": 0})
    agents[0].run(guest)
    with Looks(agents[0]) as here, Looks(agents[1]) as there:
        here.begin()
        here.take(3)
        there.take(2)
    busy, idle = (looks.mean(lambda look: look["cpu_used"]) for looks in (here, there))
    used = here.mean(lambda look: guest_of(look, guest)["cpu_used"])
    print(f"busy {busy:.3f}, idle {idle:.3f}, guest {used:.3f}")
    assert used > 0.1 and busy == pytest.approx(used, rel=0.25, abs=0.05)
    assert idle < 0.2
    assert here.last["run_queue"] is None
    assert here.last["pressure"]["cpu"]["some"] is not None


def test_a_root_that_is_no_group(lab, make_agent):
    agent = make_agent(lab.host_a)
    agent.metrics_root = lab.directory
    agent._write_config()
    done = lab.host_a.run([agent.program, "agent", "--config", agent.config], timeout=20)
    assert done.returncode == 1
    assert f"[metrics] root: {lab.directory} is not the folder of a control group" in done.stderr
