"""Random changes to a guest, a move after each few, and everything is still as the changes made it.

A seed is a sequence of changes; the guest of one module-wide scene goes through one seed after
the other, so that what earlier seeds left is what later ones find.
"""

import random
from dataclasses import dataclass

import pytest

from live import (check_disk, fill, finish_job, make_image, monitor, root_of, unplug, user_monitor,
                  wait_blocks)
from scene import SMALL, Scene
from vmferry_lab import Lab, digest_of_image, qemu, wait_until

SEEDS = 200
SHORT = 5          # of each version of QEMU in the short suite
CHANGES = 5        # a seed; a move after each two or three
MOST_PLUGGED = 4
MOST_CPUS = 3


@dataclass
class Disk:
    """What the guest has, as the model knows it."""
    guest_name: str     # vda
    device: str         # id
    drive: str          # block backend or device id, for QMP's "device"
    image: object
    image_format: str
    controller: bool    # a SCSI disk


class Model:
    def __init__(self, scene: Scene, version: str):
        self.scene = scene
        self.count = 0
        shared = scene.lab.shared
        medium = make_image(shared / "first.iso", size="1M")
        for host in scene.lab.hosts:
            host.add_tap("cardtap")
        self.guest = scene.run(
            **{**SMALL, "arena_mb": 8, "disk_mb": 8, "disk_rate": 100}, name="web1",
            qemu=qemu(version), extra=[
                *user_monitor(scene), "-device", "virtio-scsi-pci,id=scsi0",
                "-m", "256,slots=4,maxmem=1G", "-smp", f"1,maxcpus={MOST_CPUS}",
                "-drive", f"file={medium},if=none,id=cd0,media=cdrom,format=raw",
                "-device", "scsi-cd,drive=cd0,bus=scsi0.0,id=cdrom"])
        self.disks = [Disk("vda", "", "disk0", self.guest.disk, "raw", False)]
        self.medium = medium
        self.limits = {}
        self.cards: dict[str, str] = {}  # MAC address by id
        self.dimms: list[str] = []
        self.cpus = 1
        self.paused = False
        self.trace: list[str] = []

    def new_path(self, ending: str):
        self.count += 1
        return self.scene.lab.shared / f"image{self.count}.{ending}"

    def machine(self) -> dict:
        with self.guest.control() as control:
            return control.machine()

    def blocks(self) -> set:
        return self.machine()["blocks"]

    def run(self) -> None:
        """Most changes need the guest's help."""
        if self.paused:
            self.change_pause(None)

    # ---- changes ----

    def change_snapshot(self, choice):
        disk = choice.choice(self.disks)
        overlay = self.new_path("qcow2")
        with monitor(self.scene, self.guest) as qmp:
            node = root_of(qmp, disk.drive)["node-name"]
            self.clear_above(qmp, node)
            qmp.execute("blockdev-snapshot-sync", format="qcow2",
                        **{"node-name": node, "snapshot-file": str(overlay),
                           "snapshot-node-name": f"snap{self.count}"})
        disk.image, disk.image_format = overlay, "qcow2"

    @staticmethod
    def clear_above(qmp, node: str) -> None:
        """A commit leaves its overlay above where that was made by -blockdev, as after a move;
        whoever works with such nodes deletes them."""
        graph = qmp.execute("x-debug-query-block-graph")
        names = {entry["id"]: entry["name"] for entry in graph["nodes"]}
        for edge in graph["edges"]:
            if names[edge["child"]] == node and edge["name"] == "backing":
                Model.clear_above(qmp, names[edge["parent"]])
                qmp.execute("blockdev-del", **{"node-name": names[edge["parent"]]})

    def change_commit(self, choice):
        disk = choice.choice(self.disks)
        with monitor(self.scene, self.guest) as qmp:
            root = root_of(qmp, disk.drive)
            if "backing_file" not in root:
                return
            self.clear_above(qmp, root["node-name"])
            below = root["image"].get("backing-filename") or root["backing_file"]
            backing_format = root["image"].get("backing-filename-format", "raw")
            qmp.execute("block-commit", device=root["node-name"],
                        **{"job-id": "commit", "base-node": self._below(qmp, root)})
            finish_job(qmp, "commit")
        disk.image = type(disk.image)(below)
        disk.image_format = backing_format

    @staticmethod
    def _below(qmp, root) -> str:
        """The node right below a root."""
        graph = qmp.execute("x-debug-query-block-graph")
        names = {node["id"]: node["name"] for node in graph["nodes"]}
        return next(names[edge["child"]] for edge in graph["edges"]
                    if names[edge["parent"]] == root["node-name"] and edge["name"] == "backing")

    def change_mirror(self, choice):
        disk = choice.choice(self.disks)
        image_format = choice.choice(["raw", "qcow2"])
        target = self.new_path(image_format)
        with monitor(self.scene, self.guest) as qmp:
            root = root_of(qmp, disk.drive)
            self.clear_above(qmp, root["node-name"])
            qmp.execute("drive-mirror", device=root["node-name"], target=str(target),
                        sync="full", format=image_format,
                        **{"job-id": "mirror", "node-name": f"mirror{self.count}"})
            finish_job(qmp, "mirror")
        disk.image, disk.image_format = target, image_format

    def change_plug(self, choice):
        if len(self.disks) > MOST_PLUGGED:
            return
        self.run()
        image = make_image(self.new_path("raw"), size="4M")
        device = f"plug{self.count}"
        scsi = choice.random() < 0.5
        before = self.blocks()
        with monitor(self.scene, self.guest) as qmp:
            qmp.execute("blockdev-add", driver="raw",
                        **{"node-name": f"node-{device}",
                           "file": {"driver": "file", "filename": str(image)}})
            qmp.execute("device_add", id=device, drive=f"node-{device}",
                        **({"driver": "scsi-hd", "bus": "scsi0.0"} if scsi
                           else {"driver": "virtio-blk-pci"}))
        wait_until(lambda: self.blocks() - before, f"{device} in the guest", 20)
        name = next(iter(self.blocks() - before))
        fill(self.guest, name, 64, choice.randrange(1 << 30))
        self.disks.append(Disk(name, device, device, image, "raw", scsi))

    def change_unplug(self, choice):
        plugged = [disk for disk in self.disks if disk.device]
        if not plugged:
            return
        self.run()
        disk = choice.choice(plugged)
        with monitor(self.scene, self.guest) as qmp:
            unplug(qmp, disk.device)
        wait_blocks(self.guest, disk.guest_name, there=False)
        self.disks.remove(disk)

    def change_card(self, choice):
        """Plugs one, or unplugs it again."""
        self.run()
        with monitor(self.scene, self.guest) as qmp:
            if self.cards:
                name, _ = self.cards.popitem()
                unplug(qmp, name)
                qmp.execute("netdev_del", id=f"net-{name}")
                return
            self.count += 1
            name, mac = f"card{self.count}", f"52:54:00:78:00:{self.count % 256:02x}"
            qmp.execute("netdev_add", type="tap", id=f"net-{name}", ifname="cardtap", script="no",
                        downscript="no")
            qmp.execute("device_add", driver="virtio-net-pci", id=name, netdev=f"net-{name}",
                        mac=mac)
        self.cards[name] = mac
        wait_until(lambda: "eth1" in self.machine()["nets"], f"{name} in the guest", 20)

    def change_dimm(self, choice):
        if len(self.dimms) == 2:
            return
        self.run()
        self.count += 1
        name = f"dimm{self.count}"
        with monitor(self.scene, self.guest) as qmp:
            qmp.execute("object-add", **{"qom-type": "memory-backend-ram", "id": f"mem-{name}",
                                         "size": 128 << 20})
            qmp.execute("device_add", driver="pc-dimm", id=name, memdev=f"mem-{name}")
        self.dimms.append(name)

    def change_cpu(self, choice):
        if self.cpus == MOST_CPUS:
            return
        self.run()
        self.count += 1
        with monitor(self.scene, self.guest) as qmp:
            free = [cpu for cpu in qmp.execute("query-hotpluggable-cpus") if "qom-path" not in cpu]
            chosen = choice.choice(free)
            qmp.execute("device_add", driver=chosen["type"], id=f"cpu{self.count}",
                        **chosen["props"])
        self.cpus += 1
        wait_until(lambda: self.machine()["cpus"] == self.cpus, "the vCPU in the guest", 20)

    def change_medium(self, choice):
        self.medium = make_image(self.new_path("iso"), size=f"{choice.randrange(1, 4)}M")
        with monitor(self.scene, self.guest) as qmp:
            qmp.execute("blockdev-change-medium", id="cdrom", filename=str(self.medium),
                        format="raw", force=True)

    def change_eject(self, choice):
        with monitor(self.scene, self.guest) as qmp:
            qmp.execute("eject", id="cdrom", force=True)
        self.medium = None

    def change_throttle(self, choice):
        limits = {"bps": 0, "bps_rd": 0, "bps_wr": choice.choice([0, 5000000]),
                  "iops": choice.choice([0, 700]), "iops_rd": 0, "iops_wr": 0}
        with monitor(self.scene, self.guest) as qmp:
            qmp.execute("block_set_io_throttle", device="disk0", **limits)
        self.limits = limits

    def change_fill(self, choice):
        self.run()
        disk = choice.choice(self.disks)
        if disk.device:
            fill(self.guest, disk.guest_name, 64, choice.randrange(1 << 30))

    def change_pause(self, choice):
        with monitor(self.scene, self.guest) as qmp:
            qmp.execute("cont" if self.paused else "stop")
        self.paused = not self.paused

    # ---- what must hold ----

    def move(self) -> None:
        result = self.scene.migrate(self.guest)
        assert result.exit_code == 0, (self.trace, result.json["error"])
        assert result.json["paused"] is self.paused
        self.scene.place[self.guest.name] = self.scene.there(self.guest)
        if not self.paused:
            self.scene.check(self.guest)

    def check(self) -> None:
        self.run()
        check_disk(self.guest)
        with self.guest.control() as control:
            control.set(disk_rate=0)
            control.check_disk()
            for disk in self.disks:
                seen = control.digest_block_device(disk.guest_name)
                assert seen == digest_of_image(disk.image, disk.image_format), (self.trace, disk)
            control.set(disk_rate=100)
        assert {disk.guest_name for disk in self.disks} | {"sr0"} == self.blocks()
        machine = self.machine()
        assert machine["cpus"] == self.cpus
        assert ("eth1" in machine["nets"]) == bool(self.cards)
        with monitor(self.scene, self.guest) as qmp:
            assert [entry["data"]["id"] for entry in qmp.execute("query-memory-devices")] == self.dimms
            for name, mac in self.cards.items():
                assert qmp.execute("qom-get", path=f"/machine/peripheral/{name}",
                                   property="mac") == mac
            assert root_of(qmp, "cd0").get("file") == (self.medium and str(self.medium))
            now = root_of(qmp, "disk0")
            assert {key: now[key] for key in self.limits} == self.limits


CHANGE_NAMES = ("snapshot", "commit", "mirror", "plug", "unplug", "card", "dimm", "cpu", "medium",
                "eject", "throttle", "fill", "pause")


@pytest.fixture(scope="module")
def models():
    kept = {}
    yield kept
    for model in kept.values():
        model.scene.lab.close()


def rows():
    for seed in range(SEEDS):
        version = ("7.2", "10.0")[seed % 2]
        yield pytest.param(seed, version, id=f"{seed}-{version}",
                           marks=[pytest.mark.long] if seed >= 2 * SHORT else [])


@pytest.mark.parametrize("seed, version", rows())
def test_changes_and_moves(models, pki, request, seed, version):
    if version not in models:
        models[version] = Model(Scene(Lab(), pki), version)
    model = models.pop(version)  # one that fails is not used again
    try:
        go_through(model, random.Random(seed))
    except BaseException:
        for name, text in model.scene.lab.logs().items():
            print(f"--- {name}\n{text}")
        model.scene.lab.close()
        raise
    models[version] = model


def go_through(model: Model, choice: random.Random) -> None:
    for number in range(CHANGES):
        name = choice.choice(CHANGE_NAMES)
        model.trace.append(name)
        getattr(model, f"change_{name}")(choice)
        if number % 3 == 2:
            model.trace.append("move")
            model.move()
    model.trace.append("move")
    model.move()
    model.check()
