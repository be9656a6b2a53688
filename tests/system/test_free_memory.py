"""Memory that the guest gives back: virtio-balloon with free-page-reporting."""

import re
from pathlib import Path

import pytest

from findings import check_completed
from scene import wait_progress
from vmferry_lab import wait_until

MIB = 1 << 20
ARENA_MB = 256
# What the guest needs beside its arena: kernel, initramfs, tables; and frames' heads.
REST_MB = 160
# Fragments of it may stay.
GIVEN_BACK_MB = ARENA_MB * 9 // 10


def run(scene, reporting="on", **options):
    return scene.run(memory_mb=512, arena_mb=ARENA_MB, **options, extra=[
        "-device", f"virtio-balloon-pci,free-page-reporting={reporting}"])


def memory_mb(scene, guest) -> int:
    """What QEMU has in memory of its own, which is the guest's and little else."""
    text = Path(f"/proc/{scene.here(guest).guest_pid(guest)}/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous: *(\d+) kB", text, re.M)[1]) // 1024


def free(guest, megabytes: int) -> None:
    with guest.control() as control:
        control.free(megabytes)


def await_given_back(scene, guest, below_mb: int) -> None:
    """The guest's kernel collects free pages for two seconds before it reports them."""
    wait_until(lambda: memory_mb(scene, guest) < below_mb, "memory is given back", 30)


def test_free_memory_is_not_sent(scene):
    guest = run(scene)
    before = memory_mb(scene, guest)
    assert before > ARENA_MB
    free(guest, ARENA_MB)
    await_given_back(scene, guest, before - GIVEN_BACK_MB)
    report = scene.move(guest, "--compress", "none", "--verify")
    assert report["rounds"][0]["dirty_bytes"] < REST_MB * MIB
    assert report["wire_bytes"] < REST_MB * MIB
    # Nor has it come to be there by being zero.
    assert memory_mb(scene, guest) < before - GIVEN_BACK_MB


@pytest.mark.long
def test_free_memory_that_is_not_reported_is_sent(scene):
    """The same guest without reporting: QEMU does not know what is free."""
    guest = run(scene, "off")
    free(guest, ARENA_MB)
    report = scene.move(guest, "--compress", "none", "--verify")
    assert report["wire_bytes"] > ARENA_MB * MIB


# This kernel clears pages as they become free, and relies on it when they are used again.
RELIES_ON_ZERO = "init_on_free=1 transparent_hugepage=never"


@pytest.mark.parametrize("kernel_words, options", [
    ("", ["--verify"]),
    pytest.param(RELIES_ON_ZERO, [], marks=pytest.mark.long)],
    ids=["verified", "relied-upon"])
def test_memory_given_back_during_the_move(scene, kernel_words, options):
    """Pages that were sent, and then given back, are zero over there."""
    scene.lab.link.shape("200mbit")
    guest = run(scene, pattern="dense", pages_per_second=500, span_mb=16,
                kernel_words=kernel_words)
    here = scene.here(guest)
    before = memory_mb(scene, guest)
    move = here.begin_migrate(guest, scene.there(guest), "--compress", "none", *options)
    wait_progress(here, guest, "precopy", 96 * MIB)
    free(guest, ARENA_MB - 16)
    await_given_back(scene, guest, before - GIVEN_BACK_MB + 32)
    report = check_completed(move.finish(), verified=True if options else None)
    scene.has_moved(guest)
    # What was not sent by then never was.
    assert report["wire_bytes"] < report["rounds"][0]["dirty_bytes"] - 16 * MIB
    use_again(scene, guest)


@pytest.mark.long
def test_memory_given_back_right_before_the_pause(scene):
    """When pre-copy has looked for the last time."""
    guest = run(scene, kernel_words=RELIES_ON_ZERO)
    here = scene.here(guest)
    before = memory_mb(scene, guest)
    scene.restart(here, {"VMFERRY_FAULT": "source.decided=sleep:10000"})
    move = here.begin_migrate(guest, scene.there(guest), "--compress", "none")
    wait_progress(here, guest, "precopy", ARENA_MB * MIB)
    free(guest, ARENA_MB)
    await_given_back(scene, guest, before - GIVEN_BACK_MB)
    report = check_completed(move.finish())
    # The rest was given back while the first round was still on its way.
    assert report["rounds"][-1]["pages_zero"] > ARENA_MB * MIB / 4096 / 4
    scene.has_moved(guest)
    use_again(scene, guest)


def use_again(scene, guest) -> None:
    """Writes a few bytes in each page; the rest is what the kernel takes for zero, or clears."""
    with guest.control() as control:
        control.write("sparse", order="sequential")
    scene.beats[guest.name].wait(50)
    scene.check(guest)
