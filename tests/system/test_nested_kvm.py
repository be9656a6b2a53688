"""Moves under real KVM: two hosts inside an emulated machine with `kvm_amd`.

lab/nested/steps and protect_steps are what happens there, and check most of it;
here are the reports of the moves and every beat that the client in there has seen.
"""

import subprocess

import pytest

from vmferry_lab import nested
from vmferry_lab.heartbeat import check_beats, largest_gap_ms

DEADLINE = 720  # seconds; alone on two cores it takes a fifth of that
PROTECT_DEADLINE = 1100  # all of the memory is sent twice
TRACKERS = {"there": "pagemap-scan", "back": "uffd-sync", "slowed": "pagemap-scan",
            "quick": "pagemap-scan", "adopted": "pagemap-scan"}
UNVERIFIED = ("slowed", "quick")


@pytest.fixture
def kernel():
    try:
        return nested.fetch_outer_kernel()
    except (RuntimeError, subprocess.CalledProcessError) as error:
        pytest.skip(f"Debian's kernel from backports cannot be fetched: {error}")


@pytest.mark.long
def test_precopy_under_kvm(tmp_path, kernel):
    with nested.NestedHost(tmp_path, kernel) as host:
        report = host.wait(DEADLINE)
    show(report)
    for name, tracker in TRACKERS.items():
        check_move(report.moves[name], tracker, verified=None if name in UNVERIFIED else True)
    throttle = report.moves["slowed"]["throttle"]
    assert throttle["means"] == "cgroup" and throttle["least_run_share"] < 1
    for beats in (report.beats["web1"], report.beats["web2"]):
        check_beats(beats)
        assert beats[-1].written > beats[0].written


@pytest.mark.long
def test_vhost_is_protected(tmp_path, kernel):
    """A card with vhost and two queues: held by the kernel, released epoch by epoch, let go, held
    anew by an agent that was killed; and when its process is killed the standby goes on with it."""
    with nested.NestedHost(tmp_path, kernel, "protect_steps") as host:
        report = host.wait(PROTECT_DEADLINE)
    show(report)
    beats = report.beats["web1"]
    check_beats(beats)
    assert beats[-1].written > beats[0].written


@pytest.mark.long
def test_kvm_to_tcg_and_back(tmp_path, kernel):
    """One guest, in the neutral form: its QEMU has KVM on the one host and none on the other."""
    with nested.NestedHost(tmp_path, kernel, "accel_steps") as host:
        report = host.wait(PROTECT_DEADLINE)
    show(report)
    for name in ("to-tcg", "to-kvm"):
        check_move(report.moves[name], "pagemap-scan", verified=True)
        assert report.moves[name]["neutral"]["vmm"] == "qemu"
    said = [{key: int(value) for key, value in (word.split("=") for word in line.split())}
            for line in report.said]
    for before, after in zip(said, said[1:]):
        assert 0 < after["guest_ms"] - before["guest_ms"] < 45000  # a pause of an emulated machine
        assert after["errors"] == 0 and after["passes"] >= before["passes"]
    assert said[-1]["written"] > said[0]["written"]


def check_move(move, tracker, verified):
    assert move["status"] == "completed" and move["error"] is None
    assert move["mode"] == "precopy" and move["tracker"] == tracker
    assert move["verified"] is verified
    # The guest wrote while it moved: the first round was not the last.
    assert len(move["rounds"]) > 1 and move["rounds"][1]["pages"] > 0


def show(report):
    for step in report.steps.values():
        print(f"{step.name:20} {step.seconds:7.2f} s  {step.detail}")
    for name, move in report.moves.items():
        print(f"{name:20} {move['tracker']}: {move['total_ms']:.0f} ms, "
              f"downtime {move['downtime_ms']:.1f} ms {move['downtime_parts']}, "
              f"pages {[each['pages'] for each in move['rounds']]}")
    for guest, beats in report.beats.items():
        print(f"{guest:20} {len(beats)} beats, largest gap {largest_gap_ms(beats):.0f} ms")
