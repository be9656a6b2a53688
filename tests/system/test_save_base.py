"""Increments: images that have what differs from an earlier one."""

import shutil

from disks import LARGE_MB, WRITTEN_MB, LocalImage, drive, run_with
from findings import check_failed
from live import check_disk, monitor
from saving import disk_copy
from test_agent import read_events
from test_save import await_found, restart, restore, run_small, save, stop, watch_anew


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def save_three(scene, guest, folder):
    """A full image, and two above it, each after the guest has gone on; their reports."""
    files = [folder / f"{number}.image" for number in range(3)]
    reports = [save(scene, guest, files[0])]
    for number in (1, 2):
        scene.check(guest)
        reports.append(save(scene, guest, files[number], "--base", files[number - 1].name))
    return files, reports


def go_on_from(scene, guest, file, folder):
    """Its memory and its disk are of that image's moment."""
    stop(scene, guest)
    folder.mkdir()
    folder.chmod(0o711)
    restored = restore(scene, scene.a, file, "--full", "--disks-in", folder)
    assert restored["state"] == "running"
    watch_anew(scene, guest, scene.a)
    scene.check(guest)
    check_disk(guest)


def test_three(scene, any_qemu, tmp_path):
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a, data_mb=LARGE_MB, size_mb=WRITTEN_MB + LARGE_MB + 8)
    guest = run_with(scene, drive(image.on(scene.a), "qcow2"), qemu=any_qemu, disk_rate=10)
    folder = tmp_path / "saved"
    folder.mkdir()
    files, reports = save_three(scene, guest, folder)
    for number in (1, 2):
        base = reports[number]["image"]["base"]
        assert base["id"] == reports[number - 1]["image"]["id"]
        assert base["compared_pages"] > base["equal_pages"] > 0 < base["stored_pages"]
        assert files[number].stat().st_size < files[0].stat().st_size / 4
        [disk] = reports[number]["copies"]
        assert "whole" not in disk
        assert disk["backing"] == [disk_copy(files[below]).name for below in reversed(range(number))]
        assert 0 < disk["copied_bytes"] < reports[0]["copies"][0]["copied_bytes"]
    assert scene.a.vmferry("image", "verify", files[2]).exit_code == 0
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    go_on_from(scene, guest, files[2], tmp_path / "last")
    go_on_from(scene, guest, files[1], tmp_path / "middle")
    # Another QEMU: what has changed of its disk since is not known to it, but memory is compared.
    again = save(scene, guest, folder / "3.image", "--base", files[1])
    assert "another QEMU" in again["copies"][0]["whole"] and "backing" not in again["copies"][0]
    assert again["image"]["base"]["equal_pages"] > 0
    assert "disk-saved-whole" in [event["type"] for event in read_events(scene.a)]
    merged = scene.a.vmferry("image", "merge", files[2], folder / "merged.image", "--json")
    assert [disk["file"] for disk in merged.json["disk_files"]] == [str(disk_copy(file)) for file in reversed(files)]
    go_on_from(scene, guest, folder / "merged.image", tmp_path / "merged")
    assert all((folder / name).read_bytes() == content for name, content in kept.items())
    # What has replaced an image takes no name of a copy that others are above.
    first = disk_copy(files[0])
    save(scene, guest, files[0], "--replace")
    assert first.exists() and len(list(folder.glob("0.image.*.disk0"))) == 2
    save(scene, guest, files[0], "--replace")
    assert first.exists() and len(list(folder.glob("0.image.*.disk0"))) == 2
    first.rename(folder / "elsewhere")
    stop(scene, guest)
    check_failed(scene.a.vmferry("restore", folder / "merged.image"), first.name, "is not there")
    assert f"{first.name} is not there" in scene.a.vmferry("image", "verify", folder / "merged.image").stderr


def test_agent_killed_in_the_pause(scene, tmp_path):
    """Nothing of it stays in QEMU, and the next increment has only what has changed, and all of that.  (A raw disk
    is raw again when it is restored.)"""
    image = LocalImage("disk.raw").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a)))
    folder = tmp_path / "saved"
    folder.mkdir()
    save(scene, guest, folder / "0.image")
    before = names_in(folder)
    restart(scene.a, "source.disks-finished=kill")
    await_found(scene, guest)
    assert scene.a.vmferry("save", guest.name, folder / "1.image", "--base", "0.image", timeout=60).exit_code != 0
    restart(scene.a)
    await_found(scene, guest)
    assert names_in(folder) == before
    scene.check(guest)
    [disk] = save(scene, guest, folder / "1.image", "--base", "0.image")["copies"]
    assert disk["backing"] == [disk_copy(folder / "0.image").name]
    bitmaps = [bitmap["name"] for node in monitor(scene, guest).execute("query-named-block-nodes")
               for bitmap in node.get("dirty-bitmaps", [])]
    assert len(bitmaps) == 2 and all(name.startswith("vmferry-saved-") for name in bitmaps)
    go_on_from(scene, guest, folder / "1.image", tmp_path / "own")


def test_refused(scene, tmp_path):
    """Each is told, the guest runs on, and nothing is left."""
    guest = run_small(scene)
    base, other = tmp_path / "base.image", tmp_path / "folder"
    other.mkdir()
    save(scene, guest, base)
    shutil.copy(base, other)
    damaged = bytearray(base.read_bytes())
    damaged[-200] ^= 1
    (tmp_path / "damaged.image").write_bytes(damaged)
    # An extent's bytes: found when a page is compared.
    damaged = bytearray(base.read_bytes())
    for at in range(4096, len(damaged) // 2, 4096):
        damaged[at] ^= 1
    (tmp_path / "extents.image").write_bytes(damaged)
    (tmp_path / "foreign.image").write_bytes(b"x" * 9000)
    before = names_in(tmp_path)
    for wanted, words in [("missing.image", ["base", "missing.image", "no such file"]),
                          ("damaged.image", ["base", "damaged.image", "damaged"]),
                          ("foreign.image", ["base", "foreign.image"]),
                          ("extents.image", ["extents.image", "extent of", "page", "damaged"]),
                          (other / "base.image", ["not in the folder of the image"])]:
        check_failed(scene.a.vmferry("save", guest.name, tmp_path / "new.image", "--base", wanted), *words)
    check_failed(scene.a.vmferry("save", guest.name, base, "--base", base, "--replace"), "cannot be replaced")
    check_failed(scene.a.vmferry("save", guest.name, "-", "--base", base), "--base", exit_code=2)
    assert names_in(tmp_path) == before
    scene.check(guest)
