"""What the benchmarks make of their samples: medians, ratios and verdicts."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.append(str(BENCH))  # behind the tests' own modules, of which one is called disks, too

from measure import Sample, beats_until, lost_work_ms, pages_per_second  # noqa: E402
from record import Record, later_share, medians  # noqa: E402
from table import table  # noqa: E402
from targets import Target, judge, verdicts  # noqa: E402
from vmferry_lab import Request, quantile, requests_between  # noqa: E402
from vmferry_lab.heartbeat import Beat  # noqa: E402


def sample(**values):
    fields = {"finished": True, "reason": "", "total_ms": 1000.0, "wall_ms": 1010.0,
              "downtime_ms": 20.0, "gap_ms": 40.0, "wire_bytes": 100_000_000, "cpu_s": 1.0,
              "prestart_cpu_s": 0.5, "rounds": 2, "round_reports": [], "peak_memory_bytes": 0,
              "started_ms": 0.0}
    return Sample(**(fields | values))


def figures(**totals):
    return {name: {"total_ms": value} for name, value in totals.items()}


def test_median_counts_unfinished_moves_as_endless():
    done, undone = sample(), sample(finished=False)
    assert medians([done, undone, done])["total_ms"] == 1000
    assert math.isinf(medians([undone, done, undone])["total_ms"])
    assert medians([done])["whole_cpu_s"] == 1.5
    assert "p99_ms" not in medians([done, undone])


def test_later_share_leaves_the_first_round_out():
    rounds = [{"pages": 1000, "wire_bytes": 4_096_000}, {"pages": 10, "wire_bytes": 2048}]
    assert later_share(sample(round_reports=rounds)) == 0.05
    assert later_share(sample(round_reports=rounds[:1])) is None


@pytest.mark.parametrize("ours, passed", [(90, True), (100, True), (101, False), (math.inf, False)])
def test_best_is_the_best_of_the_others(ours, passed):
    verdict = judge(figures(vmferry=ours, qemu=200, multifd=100, relaxed=math.inf,
                            **{"vmferry-tls": 10}), Target("total_ms", 1.0))
    assert verdict.passed is passed


def test_xbzrle_is_the_faster_one_and_named():
    both = figures(vmferry=60, xbzrle=200, **{"xbzrle-half": 100})
    verdict = judge(both, Target("total_ms", 0.6, "xbzrle"))
    assert verdict.passed and "xbzrle-half" in verdict.text


def test_who_was_not_run_or_did_not_finish():
    assert judge(figures(vmferry=1), Target("total_ms", 0.6, "relaxed")).passed is None
    verdict = judge(figures(vmferry=1, relaxed=math.inf), Target("total_ms", 0.6, "relaxed"))
    assert verdict.passed and "did not finish" in verdict.text


def test_absolute_target_and_its_unit():
    verdict = judge({"vmferry": {"gap_ms": 71}}, Target("gap_ms", 70, ""))
    assert verdict.passed is False and verdict.text == "gap at most 70 ms: 71 ms"


def test_one_unfinished_move_is_a_miss():
    samples = {"vmferry": [sample(), sample(finished=False), sample()]}
    first = verdicts("intensive", {"vmferry": medians(samples["vmferry"])}, samples)[0]
    assert first.passed is False and first.text == "2 of 3 moves finished"


def test_record_survives_its_file(tmp_path):
    record = Record(tmp_path / "run.json", {"cpus": 2})
    record.add("idle", "1gbit", "vmferry", 0, sample(gap_ms=12.5))
    again = Record.load(record.path)
    assert again.samples("idle", "1gbit") == {"vmferry": [sample(gap_ms=12.5)]}
    assert again.has("idle", "1gbit", "vmferry", 0) and not again.has("idle", "1gbit", "qemu", 0)
    assert again.pairs() == [("idle", "1gbit")] and again.facts == {"cpus": 2}


def test_table_names_ratios_and_what_did_not_finish():
    text = table("idle", "1gbit", {"vmferry": [sample()], "qemu": [sample(total_ms=2000.0)],
                                   "multifd": [sample(finished=False, reason="too long")]})
    assert "ok   total at most 1 x the best other: 0.50 x qemu" in text
    assert "not finished: QEMU, multifd with zstd: too long" in text


def test_latency_of_the_requests_due_in_the_window():
    requests = [Request(due, due / 10) for due in range(0, 1001)]
    latencies = requests_between(requests, 100, 200)
    assert len(latencies) == 101 and quantile(latencies, 0.5) == 15
    assert quantile(latencies, 1.0) == max(latencies) and quantile([], 0.5) == 0


def beats(*arrivals_and_pages):
    return [Beat(arrival, number, arrival, 0, 0, written)
            for number, (arrival, written) in enumerate(arrivals_and_pages)]


def test_lost_work_is_in_the_guests_own_time():
    alone = beats((0, 1000), (1000, 3000))
    # 2 pages a ms alone; 3000 in 2 s, of which it stood still for 500 ms.
    assert lost_work_ms(alone, beats((2000, 5000), (2500, 5000), (4000, 8000))) == 500
    assert lost_work_ms(alone, beats((2000, 5000), (3000, 7000))) == 0
    assert lost_work_ms(beats((0, 7), (1000, 7)), beats((2000, 7), (3000, 7))) is None
    assert lost_work_ms([], beats((0, 1), (1, 2))) is None


def test_work_is_that_of_the_move_alone():
    during = beats((2000, 5000), (3000, 6000), (4000, 8000), (5000, 10000))
    assert pages_per_second(beats_until(during, 3000)) == 1000
    assert pages_per_second(beats_until(during, 3999)) == 1500
    # A silence that reaches beyond the end of the move counts as a whole.
    assert pages_per_second(beats_until(beats((0, 5000), (10, 5020), (4000, 5020)), 500)) == 5
    assert pages_per_second([]) == pages_per_second(during[:1]) == 0
    assert medians([sample(alone_per_s=2000.0, work_per_s=500.0)])["work_share"] == 0.25
    assert "work_share" not in medians([sample()])


def test_of_work_more_is_better():
    def verdict(ours, theirs):
        return judge({"vmferry": {"work_per_s": ours}, "qemu": {"work_per_s": theirs}},
                     Target("work_per_s", 1.2, "qemu"))

    assert verdict(600, 500).passed and not verdict(599, 500).passed
    assert verdict(600, 500).text == "work at least 1.2 x qemu: 600, theirs 500, 1.20 x"
    done, undone = sample(work_per_s=0.5), sample(work_per_s=0.9, finished=False)
    assert medians([undone, done, undone])["work_per_s"] == 0
    assert verdict(0.1, 0).passed and not verdict(0, 0).passed


# Their names are taken by the tests' own modules.
def load(name):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- postcopy.py ----

postcopy = load("postcopy")


def touches(p50_ms, p99_ms):
    return {"count": 1000, "p50_ms": p50_ms, "p99_ms": p99_ms, "max_ms": 2 * p99_ms}


def test_each_mode_is_held_to_its_own_rival():
    text = postcopy.PLAN.table("sparse", "1gbit", {
        "hybrid": [sample(work_per_s=900.0, alone_per_s=1000.0)],
        "preempt": [sample(total_ms=2000.0, work_per_s=500.0, alone_per_s=400.0)],
        "postcopy": [sample(gap_ms=10.0, postcopy={"ms": 1.0})]})
    assert "ok   hybrid: total at most 0.95 x preempt: 0.50 x preempt" in text
    assert "MISS hybrid: gap at most 0.25 x preempt: 1.00 x preempt" in text
    assert "ok   hybrid: work at least 1.2 x preempt: 900, theirs 500, 1.80 x" in text
    assert "?    postcopy: gap at most 0.25 x preempt-now: not run" in text
    assert "ok   postcopy: downtime at most 20 ms: 20 ms" in text
    assert "pre-copy was enough: vmferry, hybrid: 1 of 1" in text
    assert "pre-copy was enough: vmferry, postcopy" not in text
    assert "say little: QEMU, preempt, after a pass: 1 of 1" in text


def test_touches_are_of_what_goes_on_without_its_memory():
    moves = postcopy.PLAN._moves({"workload": ["touch"], "link": ["1gbit"], "runs": 1,
                                  "contender": list(postcopy.CONTENDERS)})
    assert {contender for _, _, contender, _ in moves} == set(postcopy.AT_ONCE)
    text = postcopy.PLAN.table("touch", "1gbit", {
        "postcopy": [sample(touches=touches(0.7, 7.1), postcopy={})],
        "preempt-now": [sample(touches=touches(1.0, 10.0), postcopy={})]})
    assert "ok   postcopy: touch p50 at most 0.7 x preempt-now" in text
    assert "MISS postcopy: touch p99 at most 0.7 x preempt-now" in text


# ---- disks.py ----

disks = load("disks")


def disk_sample(wall_ms, target_bytes=1000, p99_ms=5.0):
    commits = {"count": 100, "p50_ms": 1.0, "p99_ms": p99_ms, "max_ms": 2 * p99_ms}
    return sample(wall_ms=wall_ms, disk={"source_bytes": 1000, "target_bytes": target_bytes,
                                         "before": commits, "during": commits,
                                         "before_mb_s": 10.0, "during_mb_s": 9.0})


def test_disks_are_held_to_the_better_peer():
    figures = {"vmferry": disks.medians([disk_sample(790.0)]),
               "background": disks.medians([disk_sample(1000.0, p99_ms=4.0)]),
               "blocking": disks.medians([disk_sample(1100.0, p99_ms=9.0)])}
    assert disks.verdict("wall_ms", figures) == "ok   at most 0.8 x"
    assert disks.verdict("p99_ms", figures).startswith("MISS")
    assert disks.verdict("allocation", figures).startswith("ok")
    assert figures["vmferry"]["kept"] == 0.9
    figures["blocking"]["wall_ms"] = 980.0
    assert disks.verdict("wall_ms", figures).startswith("MISS")
    assert "0.79" in disks.table("title", figures)


def test_an_idle_guest_has_no_figures_of_fsync():
    idle = disks.medians([sample(disk={"source_bytes": 1000, "target_bytes": 1060})])
    assert "p99_ms" not in idle and "kept" not in idle
    assert disks.verdict("allocation", {"vmferry": idle}).startswith("MISS")
    assert "fsync" not in disks.table("title", {"vmferry": idle})


def test_pieces_are_the_data_and_do_not_overlap():
    for disk_mb, data_mb in disks.SIZES_MB.values():
        found = sorted(disks.pieces(disk_mb, data_mb))
        assert sum(length for _, length, _ in found) == data_mb << 20
        assert sum(length for _, length, kind in found if kind == "text") == data_mb << 19
        assert all(a[0] + a[1] <= b[0] for a, b in zip(found, found[1:]))
        assert found[-1][0] + found[-1][1] <= disk_mb << 20
