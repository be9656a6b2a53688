"""Pre-copy of every kind of guest RAM."""

import re
from pathlib import Path

import pytest

import postcopy
from memory_kinds import huge_memory, memory_backend
from trouble import kernel_without
from vmferry_lab import qemu_pids


def smaps_kb(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/smaps").read_text()
    return sum(int(size) for size in re.findall(rf"^{field}: *(\d+) kB", text, re.M))


@pytest.mark.parametrize("tracker", [
    "pagemap-scan", pytest.param("uffd-sync", marks=pytest.mark.long)])
def test_shared_memfd(scene, tracker):
    guest = scene.run(shared_memory=True, pattern="dense", pages_per_second=1000)
    maps = Path(f"/proc/{scene.a.guest_pid(guest)}/maps").read_text()
    assert "memfd:" in maps
    scene.move(guest, "--verify", "--tracker", tracker)
    scene.move(guest, "--verify", "--tracker", tracker)


def test_shared_file(scene):
    # A file of its own on each host: the agents' rules tell the folders apart.
    path = scene.lab.host_a.path("ram")
    guest = scene.run(pattern="dense", pages_per_second=1000, extra=memory_backend(
        f"memory-backend-file,mem-path={path},share=on", 128))
    scene.move(guest, "--verify")
    assert scene.lab.host_b.path("ram").exists()


def test_transparent_huge_pages(scene):
    """A page that is tracked splits one, and nothing may be lost by that."""
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("this kernel gives no transparent huge pages")
    guest = scene.run(pattern="sparse", pages_per_second=2000)
    assert smaps_kb(scene.a.guest_pid(guest), "AnonHugePages") > 0
    scene.move(guest, "--verify")
    scene.move(guest, "--verify")


@pytest.mark.long
def test_no_transparent_huge_pages(scene):
    guest = scene.adopt(wrapper=kernel_without("huge-pages"), pattern="sparse",
                        pages_per_second=2000)
    assert smaps_kb(scene.a.guest_pid(guest), "AnonHugePages") == 0
    scene.move(guest, "--verify")


@pytest.mark.parametrize("tracker", [
    "pagemap-scan", pytest.param("uffd-sync", marks=pytest.mark.long)])
def test_hugetlbfs(scene, huge_pages, tracker):
    guest = scene.run(pattern="dense", pages_per_second=500, extra=huge_memory(128))
    scene.move(guest, "--verify", "--tracker", tracker)
    [pid] = qemu_pids(scene.lab.host_b, guest)
    assert "hugetlb" in Path(f"/proc/{pid}/smaps").read_text() or \
        smaps_kb(pid, "Shared_Hugetlb") + smaps_kb(pid, "Private_Hugetlb") > 0


def test_hugetlbfs_by_postcopy(scene, huge_pages):
    guest = scene.run(pattern="dense", pages_per_second=500, extra=huge_memory(128))
    postcopy.move(scene, guest)
    postcopy.move(scene, guest)
    scene.move(guest, "--verify")


@pytest.mark.long
@pytest.mark.parametrize("machine", ["pc", "q35", "microvm"])
def test_memory_above_four_gib(scene, machine):
    guest = scene.run(machine=machine, memory_mb=5120, arena_mb=1536, pattern="mixed",
                      pages_per_second=1000)
    report = scene.move(guest, "--verify")
    assert report["ram_bytes"] >= 5120 << 20
    scene.move(guest, "--verify", "--tracker", "uffd-sync")
