"""The engine's page before three hosts of the lab, with real agents and guests."""

import pytest

from browser import Browser
from door import Door
from test_engine import PORT, cluster, heat, make_engine  # noqa: F401
from vmferry_lab import wait_until

pytestmark = pytest.mark.long


@pytest.fixture
def door(cluster):  # noqa: F811
    door = Door(cluster["hostA"].host.namespace, "127.0.0.1", PORT)
    yield door
    door.close()


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path)
    yield browser
    browser.close()


def test_moves_and_drains(cluster, make_engine, door, browser, tmp_path):  # noqa: F811
    """What is pressed happens to real guests, and is shown as it does."""
    heat(cluster)
    engine = make_engine(engine={"automatic": "false"}, hot={"cpu": "76%"})
    browser.open(f"http://127.0.0.1:{door.port}/")
    browser.wait_text("#hot-list", "hostA", 60)
    wait_until(lambda: all("stale" not in row.get_attribute("class") for row in browser.all("#host-rows tr")),
               "three hosts are live", 60)
    browser.wait_text("#plan-moves", "hostA →", 60)
    browser.picture(tmp_path / "before.png")
    browser.push_labelled("Move web1")
    browser.one("#move-to option[value=hostB]").click()
    browser.push("dialog .primary")
    browser.wait_text("#said", "web1 moves to hostB.")
    wait_until(lambda: cluster.place("web1") == ["hostB"], "it is there", 60)
    wait_until(lambda: "hostB" in browser.row_text("guest-rows", "web1"), "the page says so", 30)
    browser.script("document.getElementById('moves-past').open = true")
    browser.wait_text("#moves-done", "pause ", 30)
    for size in cluster.sizes:
        size.set_cpus(2)  # there is room for all
    wait_until(lambda: browser.text("#host-rows").count("% of 2") == 3, "larger hosts", 30)
    browser.push_labelled("Drain hostC")
    browser.wait_text("dialog", "Every guest there can leave.", 20)
    browser.push("dialog .danger")
    browser.wait_text("#host-rows", "drained, empty", 90)
    assert cluster.place("db1") != ["hostC"]
    browser.picture(tmp_path / "after.png")
    assert browser.complaints() == []
    cluster.check()
