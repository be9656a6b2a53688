"""Fixtures of the system tests; lab/README.md describes what they hand out."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

from vmferry_lab import Agent, Lab, Pki, backports_qemu, clean, system_qemu  # noqa: E402
from vmferry_lab.netns import namespace_names  # noqa: E402

from disks import make_local_scene  # noqa: E402
from memory_kinds import HUGE_PAGE_MB, HUGE_PAGES  # noqa: E402
from scene import BUSY, Scene  # noqa: E402

HOSTS = {"hostA": "10.66.0.1", "hostB": "10.66.0.2", "hostC": "10.66.0.3"}


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run tests marked 'long'")
    parser.addoption("--kill-count", type=int, default=0, metavar="N",
                     help="of test_kill.py: injections (0: its sample)")
    parser.addoption("--kill-seed", type=int, default=1, metavar="N",
                     help="the first one's seed; the others follow")
    parser.addoption("--kill-table", metavar="FILE", help="write them as a table")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: part of `make check-long` only")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    short = [item for item in items if not item.get_closest_marker("long")]
    selected = one_version_each(short)
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    items[:] = selected


def one_version_each(items):
    """*items* with one version of QEMU for each row of `any_qemu`: the versions take turns, so
    that both serve in each file.  A row of which only one is there (named by its id) keeps it."""
    versions, numbers = {}, Counter()
    for item in items:
        if version := version_of(item):
            versions.setdefault(row_of(item), []).append(version)
    chosen = {}
    for row, available in versions.items():
        turn = numbers[row[0]]
        numbers[row[0]] += 1
        chosen[row] = available[turn % len(available)]
    return [item for item in items if version_of(item) == chosen.get(row_of(item))]


def version_of(item):
    """The version of QEMU that `any_qemu` gives it; None where it has no such fixture."""
    return getattr(item, "callspec", None) and item.callspec.params.get("any_qemu")


def row_of(item):
    """(file, test and all its parameters but the version): what a test is apart from it."""
    others = {name: repr(value) for name, value in item.callspec.params.items()
              if name != "any_qemu"} if hasattr(item, "callspec") else {}
    return item.path, item.originalname, *sorted(others.items())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failing test shows the logs of its lab."""
    report = (yield).get_result()
    fixtures = getattr(item, "funcargs", {})
    scene = fixtures.get("scene") or fixtures.get("shared")
    lab = fixtures.get("lab") or (scene and scene.lab)
    if call.when == "call":
        item.failed = report.failed
        if report.failed and lab:
            report.sections += [(name, text) for name, text in lab.logs().items()]


@pytest.fixture(scope="session", autouse=True)
def left_overs():
    """Removes what an interrupted run has left."""
    clean()


@pytest.fixture
def lab():
    """Two hosts, a client and the switches between them; gone after the test."""
    with Lab() as lab:
        yield lab
    assert not [name for name in namespace_names() if name.startswith(f"{lab.name}-")]


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """A CA and certificates for both hosts."""
    return Pki(tmp_path_factory.mktemp("pki"), HOSTS)


@pytest.fixture
def make_agent(lab, pki):
    """make_agent(host, settings=…, rules=…, pki=…): an agent, not started yet.

    pki: a folder other than the host's own; None for --insecure.
    """
    def make(host, *, pki=pki.folder, settings=None, rules=None):
        folder = pki(host.name) if callable(pki) else pki
        agent = Agent(lab, host, folder, settings, rules)
        lab.at_close(lambda: agent.process and agent.process.kill())
        return agent
    return make


@pytest.fixture
def agents(lab, make_agent):
    """(agent of hostA, agent of hostB), both up, with TLS."""
    return make_agent(lab.host_a).start(), make_agent(lab.host_b).start()


@pytest.fixture
def guest(lab):
    """guest(name="web1", **options): describes a guest; see Lab.guest()."""
    return lab.guest


@pytest.fixture
def scene(lab, pki):
    """Two agents with TLS, no guest yet; see scene.py."""
    return Scene(lab, pki)


@pytest.fixture(scope="module")
def module_scenes():
    """Where `shared` keeps its scene from test to test."""
    kept = []
    yield kept
    for scene in kept:
        scene.lab.close()


def keep_scene(request, module_scenes, make):
    """A scene for all tests of a module one after the other.  Each leaves it as it found it; after
    one that fails it is made anew."""
    if not module_scenes:
        module_scenes.append(make())
    yield module_scenes[0]
    if getattr(request.node, "failed", True):
        module_scenes.pop().lab.close()


@pytest.fixture
def shared(request, module_scenes, pki):
    """A scene with the busy guest `shared.guest`, kept from test to test."""
    def make():
        scene = Scene(Lab(), pki)
        # A machine type with a version in it, so that map rules can tell it from other words.
        scene.run(machine="pc-i440fx-7.2", **BUSY)
        return scene
    yield from keep_scene(request, module_scenes, make)


@pytest.fixture
def local(request, module_scenes, pki):
    """The same with a guest whose disk is on one host only, and another one that is shared."""
    yield from keep_scene(request, module_scenes, lambda: make_local_scene(pki))


@pytest.fixture(params=["7.2", "10.0"])
def any_qemu(request):
    """Runs the test under both versions of QEMU; under one of them in the short suite."""
    return backports_qemu() if request.param == "10.0" else system_qemu()


@pytest.fixture
def huge_pages():
    """Room for two small guests of huge pages; as before afterwards."""
    before = HUGE_PAGES.read_text()
    wanted = 2 * 128 // HUGE_PAGE_MB
    HUGE_PAGES.write_text(str(int(before) + wanted))
    free = int(re.search(r"HugePages_Free: *(\d+)", Path("/proc/meminfo").read_text())[1])
    if free < wanted:
        HUGE_PAGES.write_text(before)
        pytest.skip(f"only {free} of {wanted} huge pages can be had on this machine")
    yield
    HUGE_PAGES.write_text(before)
