"""Work-set pre-copy: segments, hot guests, throttle, promises; on real guests, with TLS."""

import json
import subprocess
from pathlib import Path

import pytest

from findings import check_completed, check_failed
from vmferry_lab import vmferry_program

# Half a second's worth of the link: what is hot decides, not how much there is.
SLOW_LINK = "200mbit"
GUEST = {"memory_mb": 256, "arena_mb": 96}
LOADS = {
    "idle": {"pattern": "idle"},
    "read": {"pattern": "read", "span_mb": 96},
    "sparse": {"pattern": "sparse", "pages_per_second": 8000, "span_mb": 96},
    "dense": {"pattern": "dense", "pages_per_second": 1500, "span_mb": 64},
    "text": {"content": "text", "pattern": "text", "pages_per_second": 3000, "span_mb": 64},
}


def after_first(report: dict, key: str) -> int:
    return sum(round_[key] for round_ in report["rounds"][1:])


def run(scene, load: str, **options):
    scene.lab.link.shape(SLOW_LINK)
    return scene.run(**GUEST, **LOADS[load], **options)


@pytest.mark.long
@pytest.mark.parametrize("load", LOADS)
def test_every_load_converges(scene, load):
    """No early stop and no throttle where there is no need, and every page is right."""
    guest = run(scene, load)
    report = scene.move(guest, "--verify")
    assert report["verified"] is True
    assert report["reason"] in ("converged", "no-gain", "enough-rounds")
    assert report["memory_intensive"] is False and report["throttle"] is None
    assert report["deferred_bytes"] == 0


@pytest.mark.parametrize("segments, tracker", [
    ("fingerprint", "pagemap-scan"),
    pytest.param("shadow", "pagemap-scan", marks=pytest.mark.long),
    pytest.param("fingerprint", "uffd-sync", marks=pytest.mark.long),
    pytest.param("shadow", "uffd-sync", marks=pytest.mark.long),
    pytest.param("auto", "uffd-sync", marks=pytest.mark.long)])
def test_sparse_writes_cost_what_was_written(scene, segments, tracker):
    guest = run(scene, "sparse")
    report = scene.move(guest, "--verify", "--segments", segments, "--tracker", tracker,
                        "--compress", "none", "--memory-budget", "300M")
    sent = after_first(report, "pages_segments")
    assert report["segments"] == segments
    assert report["memory_intensive"] is False and report["throttle"] is None
    # What seemed hot may have waited for its probes, and goes out whole in a round of its own.
    *again, _, _ = sorted(round_["pages_whole"] for round_ in report["rounds"])
    assert sent > 1000 and sum(again) < sent / 10
    # The pages themselves would be 4096 bytes each.
    assert after_first(report, "wire_bytes") < \
        after_first(report, "pages_whole") * 4200 + sent * 4096 / 15


def test_equal_pages_are_sent_once(scene):
    """A guest holds its initial RAM disk twice: unpacked, and as freed memory."""
    guest = run(scene, "sparse")
    report = scene.move(guest, "--verify", "--compress", "none")
    first, *later = report["rounds"]
    assert report["verified"] is True
    assert first["pages_copied"] > 1000
    assert first["wire_bytes"] < (first["pages"] - first["pages_copied"]) * 4200
    assert sum(round_["pages_copied"] for round_ in later) == 0


@pytest.mark.long
def test_whole_pages_by_choice(scene):
    guest = run(scene, "sparse")
    report = scene.move(guest, "--verify", "--segments", "off")
    assert after_first(report, "pages_segments") == 0
    assert report["rounds"][0]["pages_copied"] == 0
    assert report["segments"] == "off"


@pytest.mark.long
@pytest.mark.parametrize("budget", ["1Mi", "64Mi"])
def test_memory_budget_is_kept(scene, budget):
    guest = run(scene, "sparse")
    report = scene.move(guest, "--verify", "--memory-budget", budget)
    assert report["memory_budget_bytes"] == int(budget[:-2]) << 20
    assert report["store_bytes"] <= report["memory_budget_bytes"]


@pytest.mark.parametrize("compress", [
    "zstd", pytest.param("auto", marks=pytest.mark.long),
    pytest.param("none", marks=pytest.mark.long),
    pytest.param("lz4", marks=pytest.mark.long)])
def test_every_compression(scene, compress):
    guest = run(scene, "text")
    report = scene.move(guest, "--verify", "--compress", compress, "--streams", "3")
    assert report["streams"] == 3
    used = {name for name, bytes_ in report["compress"].items() if bytes_["bytes_in"]}
    if compress != "auto":
        assert used <= {compress, "none"} and compress in used
    if compress in ("lz4", "zstd"):
        packed = report["compress"][compress]
        assert packed["bytes_out"] < packed["bytes_in"] / 2


def intensive(scene, **options):
    """Overwrites 64 MiB faster than the link can carry it."""
    scene.lab.link.shape(SLOW_LINK)
    return scene.run(**GUEST, pattern="intensive", span_mb=64, **options)


def test_memory_intensive_guest_is_stopped_early(scene):
    guest = intensive(scene)
    report = scene.move(guest, "--verify", "--downtime-cap", "6s")
    assert report["reason"] == "memory-intensive" and report["memory_intensive"] is True
    assert report["throttle"] is None
    # What is hot goes out in the pause, and (nearly) never before.
    hot = 64 << 20
    assert report["deferred_bytes"] > hot / 2
    assert report["wire_bytes"] < report["ram_bytes"]
    last = report["rounds"][-1]
    assert last["wire_bytes"] > hot / 2
    assert sum(r["pages_whole"] for r in report["rounds"]) * 4096 < \
        report["rounds"][0]["dirty_bytes"] + hot


def test_throttle_keeps_the_cap(scene):
    """Neither target nor cap is within reach of this guest unless it is slowed."""
    guest = intensive(scene)
    report = scene.move(guest, "--verify", "--downtime-cap", "1s")
    assert report["throttle"]["least_run_share"] < 1 and report["throttle"]["ms"] > 0
    # A busy test machine is given some room; the pause would be three times that.
    assert report["downtime_ms"] < 2500
    # It runs as fast as ever over there.
    scene.check(guest)


@pytest.mark.long
def test_throttle_on_a_path_that_takes_seconds_for_little(scene):
    """What is read ahead goes out before the pause; the guest must not be free until then."""
    guest = scene.run(memory_mb=256, arena_mb=24, pattern="dense", pages_per_second=4000,
                      span_mb=12)
    report = scene.move(guest, "--verify", "--bandwidth", "3M", "--downtime-cap", "2s")
    assert report["throttle"]["least_run_share"] < 1
    assert report["downtime_ms"] < 3000
    # Cold pages once, and the hot ones some times at most.
    assert len(report["rounds"]) < 12
    scene.check(guest)


@pytest.mark.long
def test_memory_intensive_guests_are_moved_20_of_20_times(scene):
    """To and fro, always the same guest, which dirties its memory several times faster than
    the link carries it."""
    scene.lab.link.shape("1gbit")
    guest = scene.run(memory_mb=512, arena_mb=320, pattern="intensive", span_mb=256)
    reports = [scene.move(guest, "--downtime-cap", "5s") for _ in range(20)]
    seen = [(report["reason"], round(report["downtime_ms"]), report["throttle"])
            for report in reports]
    print(*seen, sep="\n")
    assert all(report["downtime_ms"] <= 5000 for report in reports), seen
    # As a client outside saw it; with room for a busy test machine.
    assert scene.beats[guest.name].largest_gap_ms() < 6000
    assert all(throttle is None or throttle["least_run_share"] < 1
               for _, _, throttle in seen), seen
    assert sum(report["memory_intensive"] for report in reports) > 10, seen


@pytest.mark.long
def test_without_throttle_it_says_so(scene):
    guest = intensive(scene)
    result = scene.migrate(guest, "--downtime-cap", "400ms", "--throttle", "off")
    check_failed(result, "dirties memory faster", "--throttle")
    scene.check(guest)


def test_prediction_budget_and_trace(scene, tmp_path):
    guest = run(scene, "dense")
    trace = tmp_path / "trace"
    report = scene.move(guest, "--record", str(trace), "--segments", "shadow",
                        "--memory-budget", "1Mi")
    assert report["segments"] == "shadow"
    assert 0 < report["store_bytes"] <= report["memory_budget_bytes"] == 1 << 20
    assert report["predicted_downtime_ms"] > 0
    assert report["predicted_total_ms"] > 0
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert lines[0]["trace"] == 1 and lines[0]["group_pages"] == 512
    assert any("dirty" in line for line in lines) and any("round" in line for line in lines)
    assert lines[-1]["reason"] == report["reason"]
    simulator = Path(vmferry_program()).parents[1] / "sim" / "vmferry-sim"
    replay = subprocess.run([simulator, "--trace", trace, "--bandwidth", "24", "--json"],
                            capture_output=True, text=True, check=True)
    assert json.loads(replay.stdout)["rounds"] > 1


@pytest.mark.parametrize("options, words", [
    (["--max-downtime", "1ms"], ["1 ms", "--max-downtime 12 or more"]),
    (["--deadline", "500ms", "--bandwidth", "10M"], ["deadline", "least"])])
def test_impossible_promises(shared, options, words):
    """Refused before anything is begun, with what would be possible."""
    check_failed(shared.migrate(shared.guest, *options), *words)
    shared.check(shared.guest)
    check_completed(shared.migrate(shared.guest))
    shared.has_moved(shared.guest)
