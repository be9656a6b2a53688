"""Guests that are restored from one image at a time, and share what they only read."""

import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

import pytest

from findings import check_failed
from scene import SMALL
from vmferry_lab import qemu_pids, wait_until

PAGE = 4096
MAPPING = re.compile(r"([0-9a-f]+-[0-9a-f]+) rw-p \S+ \S+ \d+ +/memfd:vmferry-shared")


class Clones:
    """Of the image of one guest, each behind a tap of its own that is up while it is looked at."""

    def __init__(self, scene, folder):
        self.scene, self.agent = scene, scene.a
        self.file = folder / "web1.image"
        self.guest = scene.run(**SMALL)
        self.pids = {}
        scene.a.vmferry("save", self.guest.name, self.file, "--stop", "--json", timeout=120).require()
        wait_until(lambda: not qemu_pids(scene.a.host, self.guest), "end of the guest", 15)
        scene.beats.pop(self.guest.name).close()
        del scene.place[self.guest.name]

    def restore(self, name, *options, full=True):
        tap = f"tap-{name}"
        for agent in (self.scene.a, self.scene.b):
            agent.host.add_tap(tap)
            agent.host.namespace.ip("link", "set", "dev", tap, "down")
        result = self.agent.vmferry("restore", self.file, "--name", name, "--share-memory",
                                    "--map", f"{self.guest.tap}={tap}", *(["--full"] if full else []), *options,
                                    "--json", timeout=120)
        assert result.exit_code == 0, result.stderr
        self.agent.host.namespace.ip("link", "set", "dev", tap, "down")
        self.pids[name] = result.json["pid"]
        return result.json

    @contextmanager
    def reached(self, name, agent=None):
        agent = agent or self.agent
        agent.host.namespace.ip("link", "set", "dev", f"tap-{name}", "up")
        yield self.guest
        agent.host.namespace.ip("link", "set", "dev", f"tap-{name}", "down")

    def check(self, name, agent=None):
        with self.reached(name, agent) as guest:
            guest.check()

    def mappings(self, name):
        """(range, kB of its own) of each piece of RAM that is shared."""
        found, own = [], 0
        for line in Path(f"/proc/{self.pids[name]}/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-", line):
                shared = MAPPING.match(line)
                found += [shared[1]] if shared else []
            elif shared and line.startswith("Anonymous:"):
                own += int(line.split()[1])
        return found, own

    def own_bytes(self, name):
        return self.mappings(name)[1] * 1024

    def shared_file(self, name):
        return os.stat(f"/proc/{self.pids[name]}/map_files/{self.mappings(name)[0][0]}")

    def stop_all(self):
        for name in list(self.pids):
            self.agent.vmferry("stop", name)
        self.pids.clear()


@pytest.fixture
def clones(scene, tmp_path):
    clones = Clones(scene, tmp_path)
    yield clones
    clones.stop_all()


def image_bytes(clones):
    facts = json.loads(clones.agent.vmferry("image", "info", clones.file, "--json").require().stdout)
    return facts["pages"] * PAGE


def test_share_what_they_read(clones):
    """Three take little more than one; what one writes is its own; one that shares can be moved."""
    for number in range(3):
        clones.restore(f"clone{number}")
    names = list(clones.pids)
    files = {clones.shared_file(name).st_ino for name in names}
    assert len(files) == 1
    held = clones.shared_file("clone0").st_blocks * 512
    assert held + sum(clones.own_bytes(name) for name in names) <= 1.5 * image_bytes(clones)
    for name in names:
        clones.check(name)
    before = clones.own_bytes("clone0")
    with clones.reached("clone0") as guest, guest.control() as control:
        control.write("dense", mb_per_second=40)
        wait_until(lambda: clones.own_bytes("clone0") - before > 8e6, "memory of its own", 30)
        control.write("idle")
    for name in names:
        clones.check(name)
    scene = clones.scene
    moved = scene.a.vmferry("migrate", "clone0", scene.b.address, "--verify", "--json", timeout=120)
    assert moved.exit_code == 0, moved.stderr
    clones.pids.pop("clone0")
    clones.check("clone0", scene.b)
    clones.check("clone1")
    assert scene.b.vmferry("stop", "clone0").exit_code == 0


def test_agent_killed_while_clones_lack_memory(clones):
    """Restarted it brings each what it lacks; those that come then share among themselves."""
    scene = clones.scene
    scene.restart(scene.a, {"VMFERRY_FAULT": "restore.on-record=kill"})
    clones.agent.vmferry("restore", clones.file, "--name", "clone0", "--share-memory", "--json", timeout=60)
    scene.a.process.wait(20)
    scene.a.start()
    wait_until(lambda: (clones.agent.vmferry("status", "clone0", "--json").json or {}).get("state") == "running",
               "all of its memory", 60)
    clones.pids["clone0"] = clones.agent.vmferry("status", "clone0", "--json").json["pid"]
    clones.guest.check()
    scene.a.host.namespace.ip("link", "set", "dev", clones.guest.tap, "down")
    clones.restore("clone1")
    clones.check("clone1")


def test_refused(scene, tmp_path):
    """Memory that is a file of its own is not shared, and nothing is left of the attempt."""
    guest = scene.run(**SMALL, shared_memory=True)
    file = tmp_path / "web1.image"
    scene.a.vmferry("save", guest.name, file, "--stop", "--json", timeout=120).require()
    scene.forget(guest)
    check_failed(scene.a.vmferry("restore", file, "--share-memory"), "its RAM cannot be shared")
    assert guest.name not in scene.a.guest_names() and not qemu_pids(scene.a.host, guest)
