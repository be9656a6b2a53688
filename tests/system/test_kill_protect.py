"""A campaign of random faults around protected guests (kill_protect.py).

`make check` runs a sample, `make check-kill-protect` hundreds, and writes docs/kill-campaign-protect.md.
"""

from collections import Counter
from pathlib import Path

import pytest

from kill_plan import ENDED
from kill_protect import WEIGHTS, ProtectInjector, plan, table
from protection import with_disk
from scene import Scene
from vmferry_lab import Agent, Lab

SAMPLE = range(1, 16)


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        count, first = (metafunc.config.getoption(f"--kill-{name}") for name in ("count", "seed"))
        metafunc.parametrize("seed", range(first, first + count) if count else SAMPLE,
                             ids=lambda seed: f"seed-{seed}")


@pytest.fixture(scope="module")
def records(request):
    name = request.config.getoption("--kill-table")
    records = []
    yield records
    if name and records:
        Path(name).write_text(table(records))


@pytest.fixture
def stage(request, module_scenes, pki):
    """(scene, witness) for all injections; made anew after one that failed."""
    if not module_scenes:
        scene = Scene(Lab(), pki)
        witness = Agent(scene.lab, scene.lab.third_host(), pki.folder("hostC"))
        scene.lab.at_close(lambda: witness.process and witness.process.kill())
        scene.witness = witness.start()
        with_disk(scene)
        module_scenes.append(scene)
    scene = module_scenes[0]
    yield scene, scene.witness
    if getattr(request.node, "failed", True) or getattr(request.node, "ended", False):
        module_scenes.pop().lab.close()


def test_injection(stage, records, request, seed):
    injection = plan(seed)
    print(f"seed {seed}: {injection}")
    record = ProtectInjector(*stage, injection).run()
    request.node.ended = record.outcome == ENDED
    records.append(record)
    print(record.row())
    assert not record.problem, f"seed {seed}, {injection}: {record.problem}"


def test_plans_cover_everything():
    plans = [plan(seed) for seed in range(2000)]
    assert plans == [plan(seed) for seed in range(2000)]
    kinds = Counter((fault.kind, fault.target) for one in plans for fault in one.faults)
    assert kinds.keys() == WEIGHTS.keys() and min(kinds.values()) > 50
    assert 0.1 < sum(one.beginning for one in plans) / len(plans) < 0.2
    assert 0.15 < sum(len(one.faults) == 2 for one in plans) / len(plans) < 0.4
