"""A campaign of random faults in moves: no guest is lost, doubled or left paused.

kill_plan.py draws each injection from its seed, kill_campaign.py and kill_postcopy.py carry it out.
`make check` runs samples, `make check-kill` and `make check-kill-postcopy` hundreds, and write
docs/kill-campaign.md and docs/kill-campaign-postcopy.md.
"""

from collections import Counter
from pathlib import Path

import pytest

from fake_agents import ENGINE_POINTS
from kill_campaign import MACHINE, Injector
from kill_full import FullInjector
from kill_plan import (AGENTS, CUT, DESTINATION_AGENT, DESTINATION_QEMU, ENDED, FREEZE, FULL, IMAGE,
                       KILL, LINK, LINKS, LINK_TO_SOURCE, LOCK, MISSED, MOVED, POSTCOPY, PRECOPY,
                       READ_ONLY, SOURCE_AGENT, SOURCE_QEMU, SPLIT, STAYED, Record, Sample,
                       compatible, double_run, plan, table)
from kill_postcopy import PostcopyInjector
from other_vmm import LOOK_POINTS
from postcopy import STORE_POINTS
from protection import PROTECT_POINTS
from saving import ALL_POINTS as IMAGE_POINTS
from scene import Scene
from vmferry_lab import Lab, vmferry_program

# A link, both agents at once, an agent, a frozen QEMU, one that is killed, an agent in the pause.
SAMPLE = [1, 4, 7, 12, 29, 37]
# While it is split: an agent, both, a link, either QEMU; at points of either side; and before that.
POSTCOPY_SAMPLE = [7, 14, 29, 65, 130, 186, 206, 271, 314, 363, 372, 375]
# Taken over, also where the source's agent dies or the link breaks meanwhile; both agents, the link.
FULL_SAMPLE = [400, 402, 408, 416, 501, 518, 607, 617]
SAMPLES = {"test_injection": SAMPLE, "test_postcopy_injection": POSTCOPY_SAMPLE,
           "test_full_injection": FULL_SAMPLE}


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        count, first = (metafunc.config.getoption(f"--kill-{name}") for name in ("count", "seed"))
        metafunc.parametrize("seed", range(first, first + count) if count
                             else SAMPLES[metafunc.function.__name__],
                             ids=lambda seed: f"seed-{seed}")


@pytest.fixture(scope="module")
def points():
    with Lab() as lab:
        listed = lab.host_a.run([vmferry_program(), "agent", "--list-faults"]).stdout.split()
        return [point for point in listed
                if point not in (*STORE_POINTS, *PROTECT_POINTS, *ENGINE_POINTS, *IMAGE_POINTS,
                                 *LOOK_POINTS)]


@pytest.fixture(scope="module")
def records(request):
    """What came of the injections; as a table in the end where a file is named for it."""
    name = request.config.getoption("--kill-table")
    records = {PRECOPY: [], POSTCOPY: [], FULL: []}
    yield records
    for campaign in filter(records.get, records if name else ()):
        Path(name).write_text(table(records[campaign], campaign))


@pytest.fixture
def scene(request, module_scenes, pki):
    """One for all injections; made anew after one that failed."""
    if not module_scenes:
        module_scenes.append(Scene(Lab(), pki))
        module_scenes[0].run(**MACHINE)
    yield module_scenes[0]
    if getattr(request.node, "failed", True):
        module_scenes.pop().lab.close()


def test_injection(scene, records, points, seed):
    inject(Injector(scene, plan(seed, points)), records[PRECOPY])


def test_postcopy_injection(scene, records, points, seed):
    inject(PostcopyInjector(scene, plan(seed, points, POSTCOPY)), records[POSTCOPY])


def test_full_injection(scene, records, points, seed):
    inject(FullInjector(scene, plan(seed, points, FULL)), records[FULL])


def inject(injector, records):
    seed, injection = injector.injection.seed, injector.injection
    print(f"seed {seed}: {injection}")
    record = injector.run()
    records.append(record)
    print(record.row())
    assert not record.problem, f"seed {seed}, {injection}: {record.problem}"


# ---- the planning ----

POINTS = ["inject.called", "source.paused", "source.before-start", "destination.before-commit"]
MANY = range(2000)
EACH_CAMPAIGN = pytest.mark.parametrize("campaign", [PRECOPY, POSTCOPY, FULL],
                                        ids=["precopy", "postcopy", "full"])


@EACH_CAMPAIGN
def test_plans_are_repeatable(campaign):
    plans = [plan(seed, POINTS, campaign) for seed in MANY]
    assert plans == [plan(seed, POINTS[::-1], campaign) for seed in MANY]
    assert len(set(map(str, plans))) > 1800


@EACH_CAMPAIGN
def test_plans_cover_everything(campaign):
    plans = [plan(seed, POINTS, campaign) for seed in MANY]
    kinds = Counter((fault.kind, fault.target) for one in plans for fault in one.faults)
    assert kinds.keys() == campaign.weights.keys()
    assert min(kinds.values()) > 20
    assert {one.moment.point for one in plans} == {None, *POINTS}
    assert 0.3 < sum(len(one.faults) == 2 for one in plans) / len(plans) < 0.5


def test_post_copies_are_hit_while_split():
    plans = [plan(seed, POINTS, POSTCOPY) for seed in MANY]
    assert 0.2 < sum(one.moment.since == SPLIT for one in plans) / len(plans) < 0.4
    assert {one.pace for one in plans} == set(POSTCOPY.paces)
    assert {one.moment.agent for one in plans if one.moment.point == "inject.called"} == set(AGENTS)


@EACH_CAMPAIGN
def test_a_copy_can_survive_each_plan(campaign):
    for one in (plan(seed, POINTS, campaign) for seed in MANY):
        killed = [fault.target for fault in one.faults if fault.kind == KILL]
        assert not {SOURCE_QEMU, DESTINATION_QEMU} <= set(killed)
        if SOURCE_QEMU in killed:
            assert not any(fault.target in (IMAGE, DESTINATION_QEMU) for fault in one.faults)


@pytest.mark.parametrize("one, other, expected", [
    ((KILL, SOURCE_QEMU), (KILL, DESTINATION_QEMU), False),
    ((KILL, SOURCE_QEMU), (FREEZE, DESTINATION_QEMU), False),
    ((LOCK, IMAGE), (KILL, SOURCE_QEMU), False),
    ((READ_ONLY, IMAGE), (LOCK, IMAGE), False),
    ((CUT, LINK), (CUT, LINK_TO_SOURCE), False),
    ((KILL, SOURCE_AGENT), (FREEZE, SOURCE_AGENT), False),
    ((KILL, SOURCE_AGENT), (KILL, DESTINATION_AGENT), True),
    ((KILL, SOURCE_QEMU), (KILL, DESTINATION_AGENT), True),
    ((CUT, LINK), (KILL, DESTINATION_AGENT), True),
])
def test_compatible(one, other, expected):
    assert compatible(one, other) is expected


def samples(*packets):
    return [Sample(second / 10, pair) for second, pair in enumerate(packets)]


def test_hand_over_is_no_double_run():
    assert double_run(samples((0, 0), (5, 0), (9, 4), (9, 9), (9, 14))) is None
    assert double_run(samples((0, 0), (5, 2), (10, 4), (15, 6))) is None  # some words


def test_double_run_is_seen():
    assert double_run(samples((0, 0), (5, 0), (10, 5), (15, 10), (20, 10))) == 0.3


def test_sample_has_one_of_each(points):
    check_sample([plan(seed, points) for seed in SAMPLE])


def test_postcopy_sample_has_one_of_each(points):
    plans = [plan(seed, points, POSTCOPY) for seed in POSTCOPY_SAMPLE]
    check_sample(plans)
    targets = {fault.target for one in plans for fault in one.faults}
    assert {SOURCE_QEMU, DESTINATION_QEMU} <= targets
    assert {one.pace for one in plans} == set(POSTCOPY.paces)
    assert sum(one.moment.since == SPLIT for one in plans) >= 4


def test_full_sample_has_one_of_each(points):
    plans = [plan(seed, points, FULL) for seed in FULL_SAMPLE]
    check_sample(plans)
    assert {one.pace.name for one in plans} >= {"slow full", "hybrid full"}
    assert any(one.moment.behind is not None for one in plans)
    assert sum(one.has(KILL, DESTINATION_QEMU) for one in plans) >= 2


def check_sample(plans):
    targets = {fault.target for one in plans for fault in one.faults}
    assert {SOURCE_AGENT, DESTINATION_AGENT} <= targets and targets & set(LINKS)
    assert {KILL, FREEZE, CUT} <= {fault.kind for one in plans for fault in one.faults}
    assert any(len(one.faults) == 2 for one in plans)
    assert any(one.moment.point for one in plans) and any(not one.moment.point for one in plans)


def test_table_counts_and_sorts():
    text = table([Record(7, "b", MOVED, "completed, 0", 1.5, 2.0, None),
                  Record(3, "a | a", STAYED, "failed, 1", 0.0, 0.5, "LOST")])
    assert "| 2 | 1 | 1 | 0 | 0 | 1 | 1.5 s, 1.5 s, 1.5 s |" in text
    assert text.index("| 3 | a / a | stayed |") < text.index("| 7 | b | moved |")
    assert "| reverted |" in table([], POSTCOPY) and "| reverted |" not in table([])
    assert table([]).count("|---") > 0 and {ENDED, MISSED} <= set(table([]).split("*"))
