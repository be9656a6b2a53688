"""`vmferry disk list`: what a guest's disks are made of, and whether they can be copied."""

import subprocess

from findings import check_failed
from live import make_image


def drive(name, image, image_format, more="if=virtio"):
    return ["-drive", f"id={name},file={image},format={image_format},{more}"]


def test_disks_of_a_guest(scene, any_qemu):
    folder = scene.lab.shared
    base = make_image(folder / "base.raw", size="8M")
    top = make_image(folder / "top.qcow2", "qcow2", backing=(base, "raw"))
    cdrom = make_image(folder / "cdrom.raw", size="4M")
    snapshots = make_image(folder / "snapshots.qcow2", "qcow2", size="6M")
    subprocess.run(["qemu-img", "snapshot", "-c", "before", snapshots], check=True)
    base.write_bytes(b"x" * (1 << 20) + bytes(7 << 20))
    guest = scene.run(qemu=any_qemu, extra=[
        *drive("system", top, "qcow2"), *drive("old", snapshots, "qcow2"),
        *drive("media", cdrom, "raw", "if=ide,media=cdrom,readonly=on")])

    answer = scene.a.vmferry("disk", "list", guest.name, "--json").require().json
    assert answer["guest"] == guest.name
    disks = {disk["id"]: disk for disk in answer["disks"]}
    assert set(disks) == {"system", "old", "media"}
    assert [file["file"] for file in disks["system"]["files"]] == [str(top), str(base)]
    assert [file["format"] for file in disks["system"]["files"]] == ["qcow2", "raw"]
    assert {file["size_bytes"] for file in disks["system"]["files"]} == {8 << 20}
    assert disks["system"]["files"][1]["file_bytes"] == 8 << 20
    assert disks["system"]["files"][1]["allocated_bytes"] >= 1 << 20
    assert disks["system"]["obstacle"] is None and disks["media"]["obstacle"] is None
    assert disks["media"]["read_only"] and not disks["system"]["read_only"]
    assert "internal snapshots" in disks["old"]["obstacle"]

    lines = scene.a.vmferry("disk", "list", guest.name).require().stdout.splitlines()
    assert lines[0].split() == ["ID", "DEVICE", "FORMAT", "SIZE", "ALLOCATED", "FILE", "NOTE"]
    [row] = [number for number, line in enumerate(lines) if line.startswith("system ")]
    assert "qcow2" in lines[row] and str(top) in lines[row] and "can be copied" in lines[row]
    assert str(base) in lines[row + 1] and "backing file" in lines[row + 1]
    assert any("read-only, can be copied" in line for line in lines)
    assert any("cannot be copied" in line and "internal snapshots" in line for line in lines)
    check_failed(scene.a.vmferry("disk", "list", "web9"), "web9")


def test_guest_without_disks(scene):
    guest = scene.run()
    assert scene.a.vmferry("disk", "list", guest.name, "--json").require().json["disks"] == []
    assert "no disks" in scene.a.vmferry("disk", "list", guest.name).require().stdout
