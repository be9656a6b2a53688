"""Guests that libvirt runs: its daemon is at work all the time.

The rows share one guest, in their order: it takes long to boot beside a daemon.
"""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from vmferry_lab import Agent, Lab, Libvirt, client_environment, has_libvirt, is_alive, wait_until

pytestmark = [pytest.mark.long, pytest.mark.skipif(not has_libvirt(), reason="libvirt is not installed")]

SMALL = {"memory_mb": 128, "arena_mb": 16, "check": 256, "disk_mb": 16}
NOWHERE = "qemu:///system?socket=/nowhere/libvirt-sock"


class Domain:
    """A guest that libvirt runs on host A, and the agent there."""

    def __init__(self, lab):
        self.lab = lab
        self.libvirt = Libvirt(lab.host_a).start()
        self.guest = lab.guest("web1", **SMALL, pattern="mixed", pages_per_second=300)
        self.pid = self.libvirt.begin(self.guest)
        self.agent = Agent(lab, lab.host_a, None)
        lab.at_close(lambda: self.agent.process.kill())
        self.start()
        self.beats = self.guest.heartbeat()

    def start(self, uri=None, **env):
        self.agent.start({"LIBVIRT_DEFAULT_URI": uri or self.libvirt.uri, **client_environment(self.agent.program),
                          **env})

    def restart(self, uri=None, **env):
        self.agent.kill()
        self.start(uri, **env)

    def adopt(self, *how):
        return self.agent.vmferry("adopt", "web1", *(how or ("--libvirt", "web1")))

    def forget(self):
        """An agent without records, as if it had never adopted the guest."""
        self.agent.kill()
        for file in self.lab.host_a.path("state").glob("**/*.json"):
            file.unlink()

    def adopted(self):
        """The agent, which manages the guest from now on, if it does not yet."""
        if "web1" not in self.agent.guest_names():
            self.adopt().require()
        self.await_reached()
        return self.agent

    def await_reached(self):
        wait_until(lambda: self.agent.status(self.guest)["state"] == "running", "the guest is reached", 60)

    def check(self):
        """It runs, as the process that it was, for libvirt and for its users."""
        assert self.libvirt.pid(self.guest) == self.pid and is_alive(self.pid)
        self.libvirt.wait_state(self.guest, "running")
        self.guest.check()
        self.beats.wait(3)
        self.beats.check()

    def save(self, name, **options):
        file = self.lab.shared / name
        file.unlink(missing_ok=True)
        return file, self.agent.vmferry("save", "web1", file, "--json", **options)


@pytest.fixture(scope="module")
def domain():
    with Lab() as lab:
        yield Domain(lab)


def libvirt_finding(domain, uri):
    env = {"LIBVIRT_DEFAULT_URI": uri, **client_environment(domain.agent.program)}
    done = domain.lab.host_a.run([domain.agent.program, "check", "--json"], env={**os.environ, **env})
    return next(entry for entry in json.loads(done.stdout)["findings"] if entry["topic"] == "libvirt")


def test_check_tells_what_is_there(domain):
    good = libvirt_finding(domain, domain.libvirt.uri)
    assert good["grade"] == "ok" and "1 running domains" in good["detail"], good
    missing = libvirt_finding(domain, NOWHERE)
    assert missing["grade"] == "note" and "/nowhere/libvirt-sock" in missing["detail"], missing


def test_pid_of_a_daemon_that_is_not_found(domain):
    """It says whose guest it is and how to name its daemon, and leaves the guest alone."""
    domain.restart(NOWHERE)
    begun = time.monotonic()
    refused = domain.adopt("--pid", domain.pid)
    assert refused.exit_code == 1 and time.monotonic() - begun < 5  # a second, on an idle machine
    assert "domain web1 of libvirt" in refused.stderr and "--libvirt web1 --connect" in refused.stderr
    assert domain.agent.guest_names() == []
    domain.check()


def test_domain_that_is_not_there(domain):
    refused = domain.adopt("--libvirt", "other", "--connect", domain.libvirt.uri)
    assert refused.exit_code == 1 and "no domain with matching name 'other'" in refused.stderr
    assert domain.agent.guest_names() == []


def test_by_its_pid(domain):
    domain.restart()
    domain.adopt("--pid", domain.pid).require()
    status = domain.agent.status(domain.guest)
    assert status["state"] == "running" and status["qmp_path"].startswith("libvirt:")
    domain.check()
    domain.forget()


def test_by_its_domain(domain):
    domain.start(NOWHERE)
    domain.adopt("--libvirt", "web1", "--connect", domain.libvirt.uri).require()
    status = domain.agent.status(domain.guest)
    assert status["pid"] == domain.pid and status["state"] == "running"
    assert status["memory_bytes"] == 128 << 20, status
    again = domain.agent.vmferry("adopt", "web2", "--libvirt", "web1", "--connect", domain.libvirt.uri)
    assert again.exit_code == 1 and "managed already" in again.stderr
    domain.check()


def test_pauses_of_others_are_seen(domain):
    agent = domain.adopted()
    domain.libvirt.virsh("suspend", "web1")
    wait_until(lambda: agent.status(domain.guest)["state"] == "paused", "virsh suspend is seen")
    domain.libvirt.virsh("resume", "web1")
    wait_until(lambda: agent.status(domain.guest)["state"] == "running", "virsh resume is seen")
    domain.check()


def test_is_not_moved_or_protected_yet(domain):
    agent = domain.adopted()
    for verb in ("migrate", "protect"):
        refused = agent.vmferry(verb, "web1", "10.66.0.2")
        assert refused.exit_code == 1 and "libvirt runs this guest" in refused.stderr, refused
    assert "libvirt runs this guest" in agent.status(domain.guest)["not_movable"]
    domain.check()


def test_estimate_says_so(domain):
    estimate = domain.adopted().vmferry("estimate", "web1", "--json").json
    assert "libvirt runs this guest" in estimate["not_movable"], estimate


def test_saved_and_goes_on(domain):
    domain.adopted()
    file, done = domain.save("web1.image")
    report = done.require().json
    assert report["status"] == "completed" and file.stat().st_size == report["image"]["bytes"]
    domain.check()


def test_resumed_by_virsh_in_the_pause(domain):
    """What is saved would not be what the guest is: it is paused again by then, as if nothing had happened.

    One without a disk: a copy of that would not get over so long a pause.
    """
    libvirt, agent = domain.libvirt, domain.agent
    guest = domain.lab.guest("web2", **{**SMALL, "disk_mb": 0})
    libvirt.begin(guest)
    domain.restart(VMFERRY_FAULT="source.paused=sleep:5000")
    agent.vmferry("adopt", "web2", "--libvirt", "web2").require()
    file = domain.lab.shared / "resumed.image"
    saving = agent.begin("save", "web2", file, "--downtime-cap", "60s")
    libvirt.wait_state(guest, "paused", 60)
    libvirt.virsh("resume", "web2")
    libvirt.virsh("suspend", "web2")
    failed = saving.finish()
    assert failed.exit_code == 1 and "another program resumed the guest" in failed.stderr, failed
    assert not file.exists()
    if libvirt.state(guest) == "paused":
        libvirt.virsh("resume", "web2")
    guest.check()
    domain.restart()
    agent.vmferry("stop", "web2").require()
    libvirt.virsh("undefine", "web2")


def test_daemon_killed_in_the_pause(domain):
    """The save fails, and the guest is resumed as soon as the daemon is there again."""
    domain.adopted()
    domain.restart(VMFERRY_FAULT="source.paused=sleep:4000")
    domain.await_reached()
    saving = domain.agent.begin("save", "web1", domain.lab.shared / "killed.image")
    domain.libvirt.wait_state(domain.guest, "paused", 60)
    domain.libvirt.kill()
    domain.libvirt.start()
    failed = saving.finish()
    assert failed.exit_code != 0, failed
    domain.check()
    domain.restart()


def test_agent_killed_in_the_pause(domain):
    """Its guard resumes the guest, through libvirt."""
    domain.adopted()
    domain.restart(VMFERRY_FAULT="source.paused=kill@1")
    domain.await_reached()
    _, died = domain.save("web1.image")
    assert died.exit_code == 1 and not domain.agent.process.running
    domain.libvirt.wait_state(domain.guest, "running", 60)
    domain.check()
    domain.start()
    domain.await_reached()
    assert domain.save("web1.image")[1].require().json["status"] == "completed"
    domain.check()


def test_daemon_restarted(domain):
    """The guest runs on, and the agent connects again by itself."""
    agent = domain.adopted()
    domain.libvirt.kill()
    domain.libvirt.start()
    wait_until(lambda: agent.vmferry("status", "web1", "--json").json["state"] == "running", "reached again", 60)
    domain.libvirt.virsh("suspend", "web1")
    wait_until(lambda: agent.status(domain.guest)["state"] == "paused", "events come again")
    domain.libvirt.virsh("resume", "web1")
    assert domain.save("web1.image")[1].require().json["status"] == "completed"
    domain.check()


class Restoring:
    """libvirt restores the domain from a stream that tests/system/libvirt_restore_tool.c sends; its last bytes are
    held back."""

    HELD = 16

    def __init__(self, domain, image):
        header, rest = image[:92], image[92:]
        text_bytes, cookie = (int.from_bytes(header[at:at + 4], "little") for at in (20, 32))
        files = {"xml": rest[:text_bytes][:cookie or None].split(b"\0")[0], "stream": rest[text_bytes:]}
        for name, content in files.items():
            domain.lab.shared.joinpath(name).write_bytes(content)
        uuid = domain.libvirt.virsh("domuuid", "web1")
        tool = Path(domain.agent.program).parents[2] / "tests/system/libvirt_restore_tool"
        tool = Path(os.environ.get("RESTORE_TOOL", tool))
        self.process = subprocess.Popen(
            [tool, domain.libvirt.uri, uuid, domain.lab.shared / "xml", domain.lab.shared / "stream",
             domain.lab.host_a.directory, str(self.HELD)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **client_environment(tool)})

    def read(self):
        line = self.process.stdout.readline().strip()
        assert line, self.process.communicate()[1]
        return line

    def order(self, word):
        said, why = self.process.communicate(f"{word}\n", 120)
        assert self.process.returncode == 0, why
        return said.strip()


def test_restored_from_a_stream_that_is_held_back(domain):
    """What is held back decides when it runs; what is given up leaves nothing."""
    libvirt, file = domain.libvirt, domain.lab.host_a.path("web1.saved")
    domain.adopted()
    libvirt.virsh("save", "web1", file)
    wait_until(lambda: domain.agent.guest_names() == [], "its end is seen")
    image = file.read_bytes()
    for word, said in ("abort", "ended"), ("go", "restored"):
        restoring = Restoring(domain, image)
        pid = int(restoring.read().removeprefix("pid "))
        assert restoring.read() == "held"
        assert is_alive(pid) and libvirt.state(domain.guest) == "paused"
        assert restoring.order(word) == said
        assert is_alive(pid) == (word == "go")
        libvirt.wait_state(domain.guest, "running" if word == "go" else "shut off")
    domain.pid = pid
    domain.guest.check()
    assert libvirt.pid(domain.guest) == pid


def test_stopped(domain):
    """It has ended for libvirt, which knows it still."""
    agent = domain.adopted()
    agent.vmferry("stop", "web1").require()
    assert not is_alive(domain.pid) and agent.guest_names() == []
    assert domain.libvirt.state(domain.guest) == "shut off"
    assert domain.libvirt.names("--all") == ["web1"]


def test_destroyed_by_virsh(domain):
    """A new run of the same domain is another guest, and its end is seen."""
    libvirt, agent = domain.libvirt, domain.agent
    libvirt.virsh("start", "web1")
    assert libvirt.pid(domain.guest) != domain.pid
    domain.adopt().require()
    libvirt.virsh("destroy", "web1")
    wait_until(lambda: agent.guest_names() == [], "its end is seen")
    assert agent.events("ended")
    refused = domain.adopt("--libvirt", "web1", "--connect", libvirt.uri)
    assert refused.exit_code == 1 and "does not run" in refused.stderr
