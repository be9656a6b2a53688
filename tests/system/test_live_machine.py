"""What moves is the live machine, not the command line it once had."""

import pytest

from findings import check_failed
from live import (check_disk, check_same_content, fill, finish_job, make_image, monitor, root_of,
                  run_live, unplug, wait_blocks)
from vmferry_lab import qemu, wait_until


def there_and_back(scene, guest, image, image_format="raw"):
    """Moves it to the other host and back; after each its disk is what the image holds."""
    for _ in range(2):
        scene.move(guest)
        check_disk(guest)
        check_same_content(guest, image, image_format)


# ---- images ----

def test_snapshot_since_the_start(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    overlay = scene.lab.shared / "overlay.qcow2"
    with monitor(scene, guest) as qmp:
        qmp.execute("blockdev-snapshot-sync", device="disk0",
                    **{"snapshot-file": str(overlay), "format": "qcow2"})
    before = guest.disk.read_bytes()
    there_and_back(scene, guest, overlay, "qcow2")
    assert guest.disk.read_bytes() == before
    with monitor(scene, guest) as qmp:
        qmp.execute("block-commit", **{"job-id": "commit", "device": "disk0"})
        finish_job(qmp, "commit")
    there_and_back(scene, guest, guest.disk)


def test_storage_that_was_moved(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    moved = scene.lab.shared / "moved.qcow2"
    with monitor(scene, guest) as qmp:
        qmp.execute("drive-mirror", **{"job-id": "mirror", "device": "disk0", "sync": "full",
                                       "target": str(moved), "format": "qcow2"})
        finish_job(qmp, "mirror")
    before = guest.disk.read_bytes()
    there_and_back(scene, guest, moved, "qcow2")
    assert guest.disk.read_bytes() == before


def with_nodes(scene, image):
    """The disk as a tool of today writes it: named nodes, JSON."""
    return ["-blockdev", f'{{"driver":"file","filename":"{image}","node-name":"storage0",'
                         '"cache":{"direct":true},"discard":"unmap"}',
            "-blockdev", '{"driver":"raw","node-name":"format0","file":"storage0",'
                         '"cache":{"direct":true},"discard":"unmap"}',
            "-device", '{"driver":"virtio-blk-pci","drive":"format0","id":"virtio-disk0"}']


def test_snapshot_and_mirror_of_named_nodes(scene, any_qemu):
    image = make_image(scene.lab.shared / "named.raw")
    guest = run_live(scene, qemu=any_qemu, disk_mb=0, extra=with_nodes(scene, image))
    overlay = make_image(scene.lab.shared / "named.qcow2", "qcow2", backing=(image, "raw"))
    with monitor(scene, guest) as qmp:
        qmp.execute("blockdev-add", driver="qcow2", backing=None,
                    **{"node-name": "format1",
                       "file": {"driver": "file", "filename": str(overlay)}})
        qmp.execute("blockdev-snapshot", node="format0", overlay="format1")
    there_and_back(scene, guest, overlay, "qcow2")
    target = make_image(scene.lab.shared / "target.raw")
    with monitor(scene, guest) as qmp:
        qmp.execute("blockdev-add", driver="raw",
                    **{"node-name": "format2",
                       "file": {"driver": "file", "filename": str(target)}})
        qmp.execute("blockdev-mirror", device="format1", target="format2", sync="full",
                    **{"job-id": "mirror"})
        finish_job(qmp, "mirror")
        qmp.execute("blockdev-del", **{"node-name": "format1"})
    there_and_back(scene, guest, target)


def with_cdrom(scene, medium):
    return ["-device", "virtio-scsi-pci,id=scsi0",
            "-drive", f"file={medium},if=none,id=cd0,media=cdrom,format=raw",
            "-device", "scsi-cd,drive=cd0,bus=scsi0.0,id=cdrom"]


@pytest.mark.parametrize("last", ["changed", "ejected"])
def test_medium_is_the_one_it_has_now(scene, any_qemu, last):
    first, second = (make_image(scene.lab.shared / name, size=size)
                     for name, size in (("first.iso", "2M"), ("second.iso", "3M")))
    guest = run_live(scene, qemu=any_qemu, extra=with_cdrom(scene, first))
    with monitor(scene, guest) as qmp:
        if last == "changed":
            qmp.execute("blockdev-change-medium", id="cdrom", filename=str(second), format="raw")
        else:
            qmp.execute("eject", id="cdrom", force=True)
    first.unlink()
    for _ in range(2):
        scene.move(guest)
        with monitor(scene, guest) as qmp:
            assert root_of(qmp, "cd0").get("file") == (str(second) if last == "changed" else None)


def test_io_limits_are_those_of_now(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu, extra=[])
    limits = {"bps": 0, "bps_rd": 0, "bps_wr": 3000000, "iops": 400, "iops_rd": 0, "iops_wr": 0}
    with monitor(scene, guest) as qmp:
        qmp.execute("block_set_io_throttle", device="disk0", **limits)
    for _ in range(2):
        scene.move(guest)
        with monitor(scene, guest) as qmp:
            assert {key: root_of(qmp, "disk0")[key] for key in limits} == limits


def test_settings_of_objects_are_those_of_now(scene, any_qemu):
    """A group's limits and an I/O thread's, which qom-set changes."""
    image = make_image(scene.lab.shared / "limited.raw")
    guest = run_live(scene, qemu=any_qemu, extra=[
        "-object", "iothread,id=io0", "-object", "throttle-group,id=slow,x-iops-total=100",
        "-blockdev", f"driver=file,node-name=file1,filename={image}",
        "-blockdev", "driver=throttle,node-name=limited,throttle-group=slow,file=file1",
        "-device", "virtio-blk-pci,drive=limited,iothread=io0"])
    with monitor(scene, guest) as qmp:
        wanted = qmp.execute("qom-get", path="/objects/slow", property="limits")
        wanted["iops-total"] = 7
        qmp.execute("qom-set", path="/objects/slow", property="limits", value=wanted)
        qmp.execute("qom-set", path="/objects/io0", property="poll-max-ns", value=12345)
    for _ in range(2):
        scene.move(guest)
        with monitor(scene, guest) as qmp:
            assert qmp.execute("qom-get", path="/objects/slow", property="limits") == wanted
            assert qmp.execute("qom-get", path="/objects/io0", property="poll-max-ns") == 12345


# ---- devices ----

def plug_disk(qmp, image, device="vd1", driver="virtio-blk-pci", **options):
    qmp.execute("blockdev-add", driver="raw",
                **{"node-name": f"node-{device}",
                   "file": {"driver": "file", "filename": str(image)}})
    qmp.execute("device_add", driver=driver, id=device, drive=f"node-{device}", **options)


def test_overlay_that_a_commit_left_over_stays_behind(scene, any_qemu):
    """Where the overlay came by a move it is a node by itself after its commit, above the one that
    the disk uses again; no command line makes that."""
    guest = run_live(scene, qemu=any_qemu)
    image = make_image(scene.lab.shared / "plugged.raw", size="8M")
    with monitor(scene, guest) as qmp:
        plug_disk(qmp, image)
        qmp.execute("blockdev-snapshot-sync", format="qcow2",
                    **{"node-name": "node-vd1", "snapshot-node-name": "over",
                       "snapshot-file": str(scene.lab.shared / "over.qcow2")})
    wait_blocks(guest, "vdb")
    fill(guest, "vdb")
    scene.move(guest)
    with monitor(scene, guest) as qmp:
        qmp.execute("block-commit", device="over", **{"job-id": "commit", "base-node": "node-vd1"})
        finish_job(qmp, "commit")
    for _ in range(2):
        scene.move(guest)
        check_same_content(guest, image, device="vdb")


def test_disk_that_was_plugged_before_such_a_commit(scene):
    """QEMU 10.0 then keeps the committed disk locked by itself; it is told to let it go."""
    guest = run_live(scene, qemu=qemu("10.0"))
    image = make_image(scene.lab.shared / "plugged.raw", size="8M")
    with monitor(scene, guest) as qmp:
        plug_disk(qmp, image)
        qmp.execute("blockdev-snapshot-sync", format="qcow2",
                    **{"node-name": "node-vd1", "snapshot-node-name": "over",
                       "snapshot-file": str(scene.lab.shared / "over.qcow2")})
    wait_blocks(guest, "vdb")
    fill(guest, "vdb")
    scene.move(guest)
    with monitor(scene, guest) as qmp:
        plug_disk(qmp, make_image(scene.lab.shared / "later.raw", size="4M"), "vd2")
        qmp.execute("block-commit", device="over", **{"job-id": "commit", "base-node": "node-vd1"})
        finish_job(qmp, "commit")
    with scene.changed(scene.b if scene.here(guest) is scene.a else scene.a,
                       env={"VMFERRY_FAULT": "destination.before-ready=fail@1"}):
        check_failed(scene.migrate(guest), "destination.before-ready")
        scene.check(guest)  # it has its images again
    for _ in range(2):
        scene.move(guest)
        check_same_content(guest, image, device="vdb")


def test_plugged_disks_move(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu, extra=["-device", "virtio-scsi-pci,id=scsi0"])
    images = [make_image(scene.lab.shared / f"plugged{i}.raw", size="8M") for i in range(2)]
    with monitor(scene, guest) as qmp:
        plug_disk(qmp, images[0])
        plug_disk(qmp, images[1], "sd1", "scsi-hd", bus="scsi0.0")
    for name in ("vdb", "sda"):
        wait_blocks(guest, name)
        fill(guest, name)
    for seed in (8, 9):
        scene.move(guest)
        for name, image in zip(("vdb", "sda"), images):
            check_same_content(guest, image, device=name)
            fill(guest, name, seed=seed)
    check_disk(guest)


def test_plugged_usb_storage_and_virtio_mem(scene, any_qemu):
    """Seen from outside: the lab's guest has drivers for neither."""
    guest = run_live(scene, qemu=any_qemu, extra=[
        "-m", "256,slots=4,maxmem=1G", "-device", "qemu-xhci,id=xhci"])
    stick = make_image(scene.lab.shared / "stick.raw", size="8M")
    with monitor(scene, guest) as qmp:
        plug_disk(qmp, stick, "stick", "usb-storage", bus="xhci.0", port="2", removable=True)
        qmp.execute("object-add", **{"qom-type": "memory-backend-ram", "id": "vm-mem",
                                     "size": 256 << 20})
        qmp.execute("device_add", driver="virtio-mem-pci", id="vm0", memdev="vm-mem",
                    **{"requested-size": 64 << 20})

    def requested(qmp):
        data, = (entry["data"] for entry in qmp.execute("query-memory-devices"))
        return data["id"], data["requested-size"]

    wanted = 64 << 20
    for more in (128 << 20, 32 << 20):
        scene.move(guest, "--verify")
        with monitor(scene, guest) as qmp:
            assert requested(qmp) == ("vm0", wanted)
            assert root_of(qmp, "stick")["file"] == str(stick)
            assert qmp.execute("qom-get", path="/machine/peripheral/stick", property="port") == "2"
            qmp.execute("qom-set", path="/machine/peripheral/vm0", property="requested-size",
                        value=more)
        wanted = more


def test_plugged_nvme_is_named(scene, any_qemu):
    """QEMU cannot move one."""
    guest = run_live(scene, qemu=any_qemu)
    with monitor(scene, guest) as qmp:
        plug_disk(qmp, make_image(scene.lab.shared / "fast.raw"), "fast", "nvme", serial="1")
    check_failed(scene.migrate(guest), "nvme")
    scene.check(guest)


def test_unplugged_disk_stays_away(scene, any_qemu):
    """Neither does it come back, nor is its image locked, nor do others change their place."""
    spare, last = (make_image(scene.lab.shared / f"{name}.raw") for name in ("spare", "last"))
    guest = run_live(scene, qemu=any_qemu, extra=[
        "-drive", f"file={spare},if=none,id=spare,format=raw",
        "-device", "virtio-blk-pci,drive=spare,id=vdspare",
        "-drive", f"file={last},if=virtio,format=raw", "-device", "virtio-rng-pci"])
    fill(guest, "vdc")
    with monitor(scene, guest) as qmp:
        unplug(qmp, "vdspare")
    wait_blocks(guest, "vdb", there=False)
    spare.unlink()
    for _ in range(2):
        scene.move(guest)
        with guest.control() as control:
            assert control.machine()["blocks"] == {"vda", "vdc"}
        check_same_content(guest, last, device="vdc")
        check_disk(guest)


def test_plugged_network_card_memory_and_cpu(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu, extra=["-m", "256,slots=4,maxmem=1G", "-smp", "1,maxcpus=4"])
    for host in scene.lab.hosts:
        host.add_tap("plugtap")
    with monitor(scene, guest) as qmp:
        qmp.execute("netdev_add", type="tap", id="net1", ifname="plugtap", script="no",
                    downscript="no")
        qmp.execute("device_add", driver="virtio-net-pci", id="nic1", netdev="net1",
                    mac="52:54:00:77:01:01")
        qmp.execute("object-add", **{"qom-type": "memory-backend-ram", "id": "mem1",
                                     "size": 128 << 20})
        qmp.execute("device_add", driver="pc-dimm", id="dimm1", memdev="mem1")
        cpu = next(entry for entry in qmp.execute("query-hotpluggable-cpus")
                   if "qom-path" not in entry)
        qmp.execute("device_add", driver=cpu["type"], id="cpu1", **cpu["props"])

    def look():
        with guest.control() as control:
            machine = control.machine()
            return "eth1" in machine["nets"] and machine["cpus"] == 2
    wait_until(look, "the guest has all of it", 20)
    for _ in range(2):
        scene.move(guest, "--verify")
        assert look()
        with monitor(scene, guest) as qmp:
            assert [entry["data"]["id"] for entry in qmp.execute("query-memory-devices")] == ["dimm1"]


def test_what_cannot_be_carried_is_named(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    with monitor(scene, guest) as qmp:
        qmp.execute("chardev-add", id="pipe1", backend={
            "type": "socket", "data": {"addr": {"type": "inet", "data": {
                "host": "127.0.0.1", "port": "5999"}}, "server": True, "wait": False}})
        qmp.execute("device_add", driver="virtio-serial-pci", id="serial1")
        qmp.execute("device_add", driver="virtserialport", id="port1", chardev="pipe1",
                    bus="serial1.0")
    check_failed(scene.migrate(guest), "pipe1", "cannot be carried over")
    scene.check(guest)
    with monitor(scene, guest) as qmp:
        unplug(qmp, "port1")
        qmp.execute("chardev-remove", id="pipe1")
    scene.move(guest)


# ---- what is under way ----

@pytest.mark.parametrize("kind", ["backup", "mirror"])
def test_running_job_is_named(scene, any_qemu, kind):
    guest = run_live(scene, qemu=any_qemu)
    target = str(scene.lab.shared / "target.raw")
    with monitor(scene, guest) as qmp:
        qmp.execute(f"drive-{kind}", **{"job-id": "nightly", "device": "disk0", "sync": "full",
                                        "target": target, "format": "raw", "speed": 100000})
        check_failed(scene.migrate(guest), "nightly", kind)
        scene.check(guest)
        qmp.execute("block-job-cancel", device="nightly", force=True)
        qmp.wait_event(lambda event: event["event"] == "BLOCK_JOB_CANCELLED")
    scene.move(guest)
    check_disk(guest)


def test_bitmap_and_export_are_named(scene, any_qemu):
    guest = run_live(scene, qemu=any_qemu)
    with monitor(scene, guest) as qmp:
        node = root_of(qmp, "disk0")["node-name"]
        qmp.execute("block-dirty-bitmap-add", node="disk0", name="since-sunday")
        check_failed(scene.migrate(guest), "since-sunday", "persistent")
        qmp.execute("block-dirty-bitmap-remove", node="disk0", name="since-sunday")
        qmp.execute("nbd-server-start", addr={"type": "unix", "data": {
            "path": str(scene.lab.shared / "export.sock")}})
        qmp.execute("block-export-add", type="nbd", id="reader", **{"node-name": node})
        check_failed(scene.migrate(guest), "reader", "export")
        qmp.execute("nbd-server-stop")
    scene.move(guest)


def test_persistent_bitmap_moves_along(scene, any_qemu):
    image = make_image(scene.lab.shared / "bitmap.qcow2", "qcow2")
    guest = run_live(scene, qemu=any_qemu, disk_mb=0, extra=[
        "-drive", f"file={image},if=none,id=disk0,format=qcow2",
        "-device", "virtio-blk-pci,drive=disk0"])
    with monitor(scene, guest) as qmp:
        qmp.execute("block-dirty-bitmap-add", node="disk0", name="kept", persistent=True)
    for _ in range(2):
        scene.move(guest)
        with monitor(scene, guest) as qmp:
            assert [entry["name"] for entry in root_of(qmp, "disk0")["dirty-bitmaps"]] == ["kept"]
    check_disk(guest)
