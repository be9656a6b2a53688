"""What Prometheus and Grafana get: metrics, alert rules, a dashboard."""

import json
import re
import socket
import subprocess
import urllib.request

import pytest

from scene import SMALL
from test_engine_fakes import PATIENT, cluster, heat, make_engine, usable  # noqa: F401
from vmferry_lab import REPOSITORY, wait_until

RULES = REPOSITORY / "contrib/prometheus/vmferry.rules.yml"
DASHBOARD = REPOSITORY / "contrib/grafana/vmferry.json"


def promtool(*words, text: str | None = None) -> str:
    done = subprocess.run(["promtool", *map(str, words)], input=text, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{text}"
    return done.stdout + done.stderr


def engine_metrics(engine) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{engine.port}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return answer.read().decode()


def test_engine(cluster, make_engine):  # noqa: F811
    heat(cluster)
    cluster["hostc"].lies = {"cpu_used": -1}
    engine = make_engine(PATIENT)
    engine.vmferry("sla", "web1", "--cpu-wait", "5%").require()
    text = wait_until(lambda: 'host_hot{host="hosta"} 1' in (now := engine_metrics(engine)) and now, "hot", 20)
    assert promtool("check", "metrics", text=text) == ""
    assert 'vmferry_engine_host_usable{host="hostb"} 1\n' in text
    assert 'vmferry_engine_guest_sla_met{guest="web1"} 0\n' in text
    # Of a host whose figures cannot be used there are none.
    assert 'vmferry_engine_host_usable{host="hostc"} 0\n' in text
    assert 'vmferry_engine_host_cpus{host="hostc"}' not in text
    assert re.search(r'^vmferry_engine_info\{engine="engine1",version="[0-9.]+"\} 1$', text, re.M)
    assert "vmferry_engine_frozen 0\n" in text
    engine.vmferry("freeze").require()
    assert "vmferry_engine_frozen 1\n" in engine_metrics(engine)


def test_agent(lab, make_agent):
    agent = make_agent(lab.host_a).start()
    agent.run(lab.guest("web1", **{**SMALL, "check": 0}))
    def read():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(agent.socket))
            client.sendall(b"GET /v1/metrics HTTP/1.0\r\nHost: x\r\n\r\n")
            return client.makefile().read().partition("\n\n")[2]
    text = wait_until(lambda: "vmferry_guest_cpu_seconds_total" in (now := read()) and now, "figures", 20)
    assert promtool("check", "metrics", text=text) == ""


def test_rules():
    assert "SUCCESS" in promtool("check", "rules", RULES)
    assert "SUCCESS" in promtool("test", "rules", RULES.with_suffix(".test.yml"))


def known_names(engine) -> set[str]:
    """What an engine shows, and what agents' sources name."""
    names = set(re.findall(r"^# TYPE (\w+) ", engine_metrics(engine), re.M))
    for path in ("src/collect/load_metrics.c", "src/agent/metrics.c"):
        names |= set(re.findall(r'"(vmferry_\w+)"', (REPOSITORY / path).read_text()))
    return names


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    found += [one["definition"] for one in dashboard["templating"]["list"] if "definition" in one]
    return found + re.findall(r"^ +expr: (.*)$", RULES.read_text(), re.M)


def test_nothing_asks_for_metrics_that_are_not_there(cluster, make_engine):  # noqa: F811
    engine = usable(make_engine(PATIENT))
    wanted = {name for text in expressions() for name in re.findall(r"\bvmferry_\w+", text)}
    assert len(wanted) > 15 and wanted - known_names(engine) == set()


def test_dashboard_is_one():
    """Panels lie side by side, none on another, and each has its own number."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [(panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y) for panel in panels
             for x in range(panel["gridPos"]["w"]) for y in range(panel["gridPos"]["h"])]
    assert len(set(taken)) == len(taken) and max(x for x, _ in taken) < 24


@pytest.mark.parametrize("name", ["web", "a\\b"])
def test_labels_are_escaped(cluster, make_engine, name):  # noqa: F811
    """A host's name is its user's."""
    escaped = name.replace("\\", "\\\\")  # in a configuration file, too
    engine = make_engine({**PATIENT, "engine": {**PATIENT["engine"], "hosts": f"{escaped}={cluster['hosta'].address}"}})
    text = engine_metrics(engine)
    assert f'vmferry_engine_host_usable{{host="{escaped}"}}' in text
    assert promtool("check", "metrics", text=text) == ""
