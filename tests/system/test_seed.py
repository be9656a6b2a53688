"""Moves to a host that has most of the guest's pages in a saved image already."""

import re
import shutil

import pytest

from disks import LocalImage, drive, run_with
from findings import check_completed, check_failed
from saving import save
from scene import move_progress, move_until, wait_progress
from vmferry_lab import qemu_pids, wait_until

PAGE = 4096
ARENA = {"memory_mb": 128, "arena_mb": 48, "check": 0}
HEADER = 4096


def rewrite(guest, megabytes: int) -> None:
    """The first ones of its arena are others then, all of them."""
    with guest.control() as control:
        before = int(control.status()["written"])
        control.write("dense", span_mb=megabytes, order="sequential")
        wait_until(lambda: int(control.status()["written"]) - before > 2 * megabytes * 256,
                   "pages to be written", 30)
        control.write("idle")


def shrink(report) -> int:
    """Bytes on the wire, both ways, but for heartbeats."""
    return report["wire_bytes"] + (report["seed"]["list_bytes"] if report["seed"] else 0)


@pytest.fixture
def seeded(scene, tmp_path):
    """A guest that was saved, and has written a fifth of its memory since."""
    guest = scene.run(**ARENA)
    scene.seed = tmp_path / "web1.image"
    save(scene, guest, scene.seed)
    rewrite(guest, 10)
    return scene


def test_what_differs_travels(seeded):
    """Four fifths are in the seed: bytes at most 0.3 of the same move without it."""
    guest = seeded.guest
    report = seeded.move(guest, "--seed", seeded.seed, "--verify")
    seed = report["seed"]
    assert seed["image"] == str(seeded.seed) and re.fullmatch("[0-9a-f]{32}", seed["id"])
    assert seed["lacking_pages"] == 0 and seed["bytes"] == seed["pages"] * PAGE
    assert seed["pages"] > 34 * 256 and seed["digests"] > 34 * 256
    assert report["rounds"][0]["pages_seeded"] == seed["pages"]
    without = seeded.move(guest, "--verify")
    assert without["seed"] is None and without["rounds"][0]["pages_seeded"] == 0
    assert shrink(report) < 0.3 * shrink(without)


def test_each_qemu(scene, any_qemu, tmp_path):
    """With a disk, and the same guest's image as it was on the other host."""
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a), "qcow2"), qemu=any_qemu, arena_mb=32)
    file = tmp_path / "web1.image"
    save(scene, guest, file)
    report = check_completed(scene.migrate(guest, "--seed", file, "--verify"), verified=True)
    scene.has_moved(guest)
    assert report["seed"]["pages"] > 28 * 256


@pytest.mark.long
def test_another_guest_of_its_kind(scene, tmp_path):
    """A template: kernel and programs are the same, wherever they lie."""
    template = scene.run("template", **ARENA)
    file = tmp_path / "template.image"
    save(scene, template, file, "--stop")
    scene.forget(template)
    guest = scene.run("web2", **{**ARENA, "memory_mb": 160, "arena_mb": 16})
    report = scene.move(guest, "--seed", file, "--verify")
    assert report["seed"]["pages"] * PAGE > 10e6
    without = scene.move(guest)
    assert shrink(report) < shrink(without)


@pytest.mark.long
def test_several_regions(scene, tmp_path):
    """Memory that is plugged into a slot has a region of its own."""
    guest = scene.run(**{**ARENA, "memory_mb": 256}, extra=[
        "-m", "256,slots=2,maxmem=1G", "-object", "memory-backend-ram,id=more,size=32M",
        "-device", "pc-dimm,id=dimm1,memdev=more"])
    file = tmp_path / "web1.image"
    save(scene, guest, file)
    report = scene.move(guest, "--seed", file, "--verify")
    assert report["seed"]["pages"] > 40 * 256


@pytest.mark.long
def test_above_a_base(seeded, tmp_path):
    """An increment with its base below it."""
    upper = tmp_path / "upper.image"
    save(seeded, seeded.guest, upper, "--base", seeded.seed)
    assert upper.stat().st_size < 0.5 * seeded.seed.stat().st_size
    report = seeded.move(seeded.guest, "--seed", upper, "--verify")
    assert report["seed"]["pages"] > 44 * 256


# ---- seeds that are none ----

def refuse(scene, path, *words):
    scene.a.vmferry("events", scene.guest.name).require()
    check_failed(scene.migrate(scene.guest, "--seed", path), "seed", *words)
    scene.check(scene.guest)
    assert not qemu_pids(scene.b.host, scene.guest)


def test_is_not_there(scene, tmp_path):
    """Nothing was done to the guest, and it says what to do."""
    scene.run()
    refuse(scene, tmp_path / "none.image", str(tmp_path / "none.image"), "no such file",
           "vmferry save NAME HOST:FILE")
    other = tmp_path / "other"
    other.write_bytes(b"no image" * 1000)
    refuse(scene, other, "not a saved image")
    refuse(scene, tmp_path, "not a regular file")
    check_failed(scene.migrate(scene.guest, "--seed", "web1.image"), "not an absolute path",
                 exit_code=2)
    check_failed(scene.migrate(scene.guest, "--seed", other, "--mode", "postcopy"), "hybrid",
                 exit_code=2)
    scene.move(scene.guest)


@pytest.mark.long
def test_is_cut_off(seeded, tmp_path):
    short = tmp_path / "short.image"
    shutil.copy(seeded.seed, short)
    with open(short, "r+b") as file:
        file.truncate(short.stat().st_size // 2)
    refuse(seeded, short, "short.image")


# ---- seeds that lie ----

def damage(path) -> None:
    """Other content in the place of its pages; header and index stay."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for at in range(HEADER, size - (2 << 20), 1 << 20):
            file.seek(at)
            piece = file.read(1 << 16)
            file.seek(at)
            file.write(bytes(byte ^ 0x55 for byte in piece))


@pytest.mark.long
def test_changed_before(seeded):
    """What cannot be read is not in it; the rest is taken."""
    damage(seeded.seed)
    report = seeded.move(seeded.guest, "--seed", seeded.seed, "--verify")
    assert report["seed"]["lacking_pages"] == 0 and report["seed"]["pages"] > 0


def test_changed_meanwhile(seeded):
    """Between its list and its pages: each frame has its proof, and what fails is sent."""
    move = begin_between(seeded)
    damage(seeded.seed)
    seeded.a.thaw()
    report = check_completed(move.finish(), verified=True)
    seeded.has_moved(seeded.guest)
    assert report["seed"]["lacking_pages"] > 1000 and report["seed"]["pages"] > 0
    assert report["rounds"][1]["pages"] >= report["seed"]["lacking_pages"]


@pytest.mark.long
def test_shorter_meanwhile(seeded):
    move = begin_between(seeded)
    with open(seeded.seed, "r+b") as file:
        file.truncate(HEADER)
    seeded.a.thaw()
    report = check_completed(move.finish(), verified=True)
    seeded.has_moved(seeded.guest)
    # Extents that were unpacked are in memory, and as they were.
    assert report["seed"]["pages"] < 4096 and report["seed"]["lacking_pages"] > 20 * 256


def begin_between(scene):
    return move_until(scene, scene.a, "source.first-round", "--seed", scene.seed, "--verify")


# ---- with other things ----

def test_break(seeded):
    """What was in flight comes again, and nothing twice."""
    guest = seeded.guest
    move = seeded.a.begin_migrate(guest, seeded.b, "--seed", seeded.seed, "--verify",
                                  "--bandwidth", "2M", "--retry-for", "30s")
    progress = wait_progress(seeded.a, guest, "precopy", 2_000_000)
    assert progress["seed_bytes"] >= 0
    seeded.lab.link.cut()
    wait_until(lambda: move_progress(seeded.a.status(guest))["disconnected"], "break noticed", 15)
    seeded.lab.link.restore()
    report = check_completed(move.finish(), verified=True)
    seeded.has_moved(guest)
    assert report["breaks"] >= 1 and report["seed"]["pages"] > 34 * 256
    assert report["seed"]["lacking_pages"] == 0


@pytest.mark.long
def test_hybrid(seeded):
    report = check_completed(seeded.migrate(seeded.guest, "--seed", seeded.seed, "--mode",
                                            "hybrid"))
    seeded.has_moved(seeded.guest)
    assert report["seed"]["pages"] > 34 * 256


@pytest.mark.long
def test_small_budget(seeded):
    """What of the list has no room is left out."""
    report = seeded.move(seeded.guest, "--seed", seeded.seed, "--memory-budget", "1Mi", "--verify")
    assert 0 < report["seed"]["digests"] < 16384
