"""The engine's web page in a real browser, before agents that are none (fake_agents.py)."""

import http.client
import json
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from browser import Browser
from test_engine_fakes import FAST, PATIENT, cluster, heat, make_engine, usable  # noqa: F401
from vmferry_lab import wait_until

WEBDRIVER_KEYS = {"tab": "\ue004", "enter": "\ue007", "escape": "\ue00c"}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium):
    """At 1280 pixels, light; it has nothing to complain of after the test (but what that has read)."""
    chromium.resize(1280)
    chromium.like("light")
    chromium.complaints()
    yield chromium
    left = chromium.complaints()
    chromium.open("about:blank")
    assert left == []


def url_of(engine) -> str:
    return f"http://127.0.0.1:{engine.port}/"


@pytest.fixture
def page(browser, cluster, make_engine):  # noqa: F811
    """A hot host, an engine that moves nothing by itself, and its page."""
    heat(cluster)
    engine = usable(make_engine(PATIENT))
    wait_until(lambda: engine.show("plan")["moves"], "there is a plan", 20)
    browser.engine = engine
    browser.open(url_of(engine))
    browser.wait_text("#host-rows", "hostc")
    yield browser
    # The engine ends before the browser: it is not asked any more.
    left = browser.complaints()
    browser.open("about:blank")
    assert left == []


def ask(engine, path, method="GET", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=10)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


# ---- what it shows ----

def test_shows_what_there_is(page, tmp_path):
    engine = page.engine
    page.wait_text("#hot-list", "more than 85 %")
    [planned] = engine.show("plan")["moves"]
    page.wait_text("#plan-moves", planned["guest"])
    text = page.text("#plan-moves")
    assert "hosta → hostb" in text and "Gain" in text and "a pause of" in text and "more than 85 %" in text
    assert "No guest moves." in page.text("#moves")
    row = page.row_text("host-rows", "hosta")
    assert "hot" in row and "% of 2" in row and "GiB of 8.0 GiB" in row
    assert "0.79 of 2" in page.row_text("guest-rows", "db1") or "0.80 of 2" in page.row_text("guest-rows", "db1")
    assert "live" in page.text("#age") and "3 hosts" in page.text("#facts")
    page.picture(tmp_path / "page.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_telephone(page, tmp_path, scheme):
    page.resize(390, 844)
    page.like(scheme)
    page.wait_text("#plan-moves", "Gain")
    time.sleep(0.5)  # for a repaint, which no event tells of
    assert page.script("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    back = page.script("return getComputedStyle(document.body).backgroundColor")
    assert (int(back[4:].split(",")[0]) < 60) == (scheme == "dark"), back
    page.picture(tmp_path / f"telephone-{scheme}.png")


def has_charts(engine) -> bool:
    return ask(engine, "/web/uplot/uPlot.esm.js")[0] == 200


def test_charts(page):
    if not has_charts(page.engine):
        pytest.skip("built without uPlot")
    wait_until(lambda: len(page.all("#chart-grid canvas")) == 4, "four charts", 30)
    wait_until(lambda: "hosta 9" in page.one("#chart-grid .canvas").get_attribute("aria-label"), "figures", 30)
    # Two readings make a line; the one of hosta's CPUs is at the top.
    drawn = """const c = document.querySelector('#chart-grid canvas'), g = c.getContext('2d');
        const d = g.getImageData(c.width / 2 | 0, 0, 8, c.height / 3 | 0).data; let n = 0;
        for (let i = 0; i < d.length; i += 4) n += d[i + 3] > 200 && d[i + 2] > d[i] + 80; return n"""
    wait_until(lambda: page.script(drawn) > 5, "a blue line at the top", 40)
    [chip] = [one for one in page.all("#legend button") if one.text == "hosta"]
    page.click(chip)
    assert chip.get_attribute("aria-pressed") == "false"
    wait_until(lambda: page.script(drawn) == 0, "the line is gone", 10)


def test_without_charts(page):
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/web/uplot/*"]})
    try:
        page.driver.refresh()
        page.wait_text("#charts-none", "without its library for charts")
        page.wait_text("#host-rows", "hostc")
        assert not page.one("#charts").is_displayed()
    finally:
        page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    assert all("/web/uplot/" in line for line in page.complaints())


def test_old_figures_look_old(page, cluster):  # noqa: F811
    cluster["hostc"].lies = {"cpu_used": -1}
    page.wait_text("#hot-list", "\"cpu_used\" is negative")
    row, text = page.row("host-rows", "hostc"), page.row_text("host-rows", "hostc")
    assert "not usable" in text and "old: " in text and row.get_attribute("class") == "stale"
    wait_until(lambda: "old" in page.row_text("guest-rows", "db1"), "so has its guest")
    cluster["hostc"].lies = {}
    wait_until(lambda: page.row("host-rows", "hostc").get_attribute("class") == "", "fresh again", 20)


def test_an_engine_that_is_gone(page):
    page.engine.kill()
    page.wait_text("#banner", "The engine cannot be reached. What is below is as of")
    assert "as of" in page.text("#age") and not page.one("#freeze-all").is_enabled()
    assert not any(button.is_enabled() for button in page.all("#host-rows button, #guest-rows button"))
    assert "hosta" in page.text("#host-rows")
    page.engine.start().wait_ready()
    wait_until(lambda: not page.one("#banner").is_displayed(), "it is back", 20)
    wait_until(lambda: page.one("#freeze-all").is_enabled(), "it may be used")
    assert all("ERR_CONNECTION_REFUSED" in line or "Failed to load" in line for line in page.complaints())


def test_text_is_text(browser, cluster, make_engine):  # noqa: F811
    evil = "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script>"
    cluster["hosta"].add("web1", 0.2)
    cluster["hosta"].lies = {"problems": [evil]}
    cluster["hosta"].guests["web1"].not_movable = evil
    engine = usable(make_engine(PATIENT))
    browser.open(url_of(engine))
    browser.wait_text("#host-rows", evil)
    assert browser.all("main img, main script, main a") == []
    assert browser.script("return window.hit ?? null") is None


# ---- what it does ----

def wait_closed(page) -> None:
    wait_until(lambda: page.all("dialog") == [], "the dialog is closed", 5)


def test_a_move_and_its_end(page, cluster):  # noqa: F811
    cluster.move_seconds = 60
    page.push_labelled("Move db1")
    assert "copied while it runs" in page.text("dialog")
    # The idle host is offered first.
    assert page.one("#move-to").get_attribute("value") == "hostb"
    assert cluster.orders == []
    page.push("dialog .primary")
    page.wait_text("#said", "db1 moves to hostb.")
    page.wait_text("#moves-open", "copying memory")
    text = page.text("#moves-open")
    assert "hostc → hostb" in text and "by a user" in text and "1.0 %" in text and "left" in text
    assert not page.labelled("Move db1").is_enabled()
    page.push_labelled("Cancel the move of db1")
    assert "db1 stays on hostc" in page.text("dialog")
    page.push("dialog .danger")
    page.wait_text("#moves-none", "No guest moves.")
    page.script("document.getElementById('moves-past').open = true")
    page.wait_text("#moves-done", "cancelled")
    assert cluster.place("db1") == ["hostc"]


def test_a_refusal_in_plain_words(page, cluster):  # noqa: F811
    cluster["hostb"].lies = {"memory_available_bytes": 1 << 28}
    wait_until(lambda: page.engine.host("hostb")["memory_available_bytes"] == 1 << 28, "so little")
    page.push_labelled("Move db1")
    page.one("#move-to option[value=hostb]").click()
    page.push("dialog .primary")
    page.wait_text("dialog .problem", "Guest db1 does not go to hostb: hostb:")
    assert "memory" in page.text("dialog .problem") and cluster.orders == []
    page.one("dialog").send_keys(WEBDRIVER_KEYS["escape"])
    wait_closed(page)
    assert any("403" in line for line in page.complaints())


def test_drain_says_first_what_cannot_leave(page, cluster):  # noqa: F811
    page.push_labelled("Freeze web3")
    page.push("dialog .primary")
    page.wait_text("#guest-rows", "frozen: a user has frozen it")
    page.push_labelled("Drain hosta")
    page.wait_text("dialog .stays", "web3 it is frozen")
    assert "the host does not get empty" in page.text("dialog")
    assert page.text("dialog .leaves").count("to host") == 2
    page.script("document.querySelector('dialog').close()")
    assert not page.engine.host("hosta")["drained"] and cluster.orders == []
    page.push_labelled("Drain hosta")
    page.wait_text("dialog", "Drain hosta?")
    page.push("dialog .danger")
    page.wait_text("#host-rows", "drained, not empty yet")
    wait_until(lambda: len(cluster.done) == 2, "two have left", 30)
    page.push_labelled("Let hosta take guests again")
    page.push("dialog .primary")
    wait_until(lambda: not page.engine.host("hosta")["drained"], "it takes guests")


def test_freezing_all(page, cluster):  # noqa: F811
    page.push("#freeze-all")
    page.push("dialog .dialog-buttons button[type=button]")
    wait_closed(page)
    assert not page.engine.show("status")["frozen"]
    page.push("#freeze-all")
    assert "Moves under way go on" in page.text("dialog")
    page.push("dialog .danger")
    page.wait_text("#facts", "frozen: a user has frozen it")
    page.wait_text("#freeze-all", "Thaw")
    page.push("#freeze-all")
    page.push("dialog .primary")
    wait_until(lambda: not page.engine.show("status")["frozen"], "thawed")


def test_rules(page):
    page.push("#add-rule")
    page.one("#rule-kind option[value=apart]").click()
    assert not page.one("#rule-hosts").is_displayed()
    # What is known is offered, and may be taken with one press.
    page.one("#rule-guests").send_keys("web2, w")
    wait_until(lambda: [one.text for one in page.all("dialog .suggestions button") if one.is_displayed()]
               == ["web1", "web3"], "those that begin so, but the one that is there")
    page.push("dialog .suggestions button")
    assert page.one("#rule-guests").get_attribute("value") == "web2, web1, "
    page.one("#rule-guests").send_keys("new7")
    page.push("dialog .primary")
    page.wait_text("#said", "Rule 1 is in force.")
    page.wait_text("#rule-list", "no two of web2, web1, new7 on one host")
    [rule] = page.engine.vmferry("rule", "list", "--json").require().json["rules"]
    assert (rule["kind"], rule["guests"], rule["strict"]) == ("apart", ["web2", "web1", "new7"], True)
    wait_until(lambda: "rule 1" in page.row_text("guest-rows", "web1"), "at its guests")
    # One that contradicts it is refused in the engine's words, and may be changed where it stands.
    page.push("#add-rule")
    page.one("#rule-kind option[value=together]").click()
    page.one("#rule-guests").send_keys("web1 web2")
    page.push("dialog .primary")
    page.wait_text("dialog .problem", "contradict each other: both bind guest web")
    page.one("#rule-kind option[value=hosts]").click()
    page.one("#rule-guests").clear()
    page.one("#rule-guests").send_keys("db1")
    page.one("#rule-hosts").send_keys("hostx")
    page.push("dialog .primary")
    page.wait_text("dialog .problem", "There is no host hostx.")
    page.one("#rule-hosts").clear()
    page.one("#rule-hosts").send_keys("hostc,hostb")
    page.push("#rule-preferred")
    page.push("dialog .primary")
    page.wait_text("#rule-list", "db1 on hostc, hostb only")
    assert "a wish" in page.text("#rule-list")
    page.push_labelled("Remove rule 1")
    assert "It says: no two of web2, web1, new7 on one host." in page.text("dialog")
    page.push("dialog .danger")
    page.wait_text("#said", "Rule 1 is removed.")
    wait_until(lambda: "web1" not in page.text("#rule-list"), "it is gone")
    assert [rule["strict"] for rule in page.engine.vmferry("rule", "list", "--json").require().json["rules"]] == [False]
    assert len(page.complaints()) == 2  # 403 and 404


def test_promises(page, cluster):  # noqa: F811
    page.push_labelled("SLA of db1")
    assert not page.all("dialog .danger")
    page.one("#sla-wait").send_keys("2.5")
    page.one("#sla-network").send_keys("200")
    page.push("#sla-swap")
    page.push("dialog .primary")
    page.wait_text("#said", "db1 is promised: waits at most 2.5 %, 25 MB/s, no swap.")
    slas = page.engine.vmferry("sla", "--json").require().json["slas"]
    assert slas == {"db1": {"cpu_wait": 0.025, "network_bytes_per_s": 25000000, "no_swap": True}}
    wait_until(lambda: "waits at most 2.5 %" in page.row_text("guest-rows", "db1"), "shown")
    # What was promised is there to be changed; what is emptied is not promised any more.
    page.push_labelled("SLA of db1")
    assert page.one("#sla-network").get_attribute("value") == "200" and page.one("#sla-swap").is_selected()
    page.one("#sla-network").clear()
    page.push("dialog .primary")
    page.wait_text("#said", "db1 is promised: waits at most 2.5 %, no swap.")
    # It may be taken back also where the guest is not there.
    del cluster["hostc"].guests["db1"]
    page.wait_text("#absent-list", "waits at most 2.5 %")
    page.click(page.one("#absent-list button"))
    page.push("dialog .danger")
    page.wait_text("#said", "db1 is promised nothing any more.")
    wait_until(lambda: not page.one("#absent").is_displayed(), "nothing is left")
    slas = page.engine.vmferry("sla", "--json").require().json["slas"]
    assert slas == {"db1": {"cpu_wait": 0.0, "network_bytes_per_s": 0.0, "no_swap": False}}


def test_a_token(browser, cluster, make_engine, tmp_path):  # noqa: F811
    """Who may look may not yet change something."""
    (tmp_path / "token").write_text("correct horse battery\n")
    engine = usable(make_engine({**PATIENT, "engine": {**PATIENT["engine"], "token-file": tmp_path / "token"}}))
    browser.open(url_of(engine))
    browser.wait_text("#host-rows", "hostc")
    browser.push("#freeze-all")
    browser.push("dialog .danger")
    wait_until(lambda: browser.all("#token"), "it asks")
    browser.one("#token").send_keys("correct horse batterz" + WEBDRIVER_KEYS["enter"])
    browser.wait_text("dialog:last-of-type .problem", "The token that was given is not the engine's.")
    browser.one("#token").clear()
    browser.one("#token").send_keys("correct horse battery" + WEBDRIVER_KEYS["enter"])
    wait_until(lambda: not browser.all("#token"), "it is taken")
    browser.push("dialog .danger")
    browser.wait_text("#facts", "frozen")
    assert any("401" in line for line in browser.complaints())


# ---- for everybody ----

def test_keyboard(page):
    page.script("document.activeElement?.blur()")
    page.one("body").send_keys(WEBDRIVER_KEYS["tab"])
    assert page.script("return document.activeElement.className") == "skip"
    page.script("document.getElementById('freeze-all').focus()")
    page.driver.switch_to.active_element.send_keys(WEBDRIVER_KEYS["enter"])
    assert page.script("return document.querySelector('dialog').contains(document.activeElement)")
    page.driver.switch_to.active_element.send_keys(WEBDRIVER_KEYS["escape"])
    wait_closed(page)
    assert page.script("return document.activeElement.id") == "freeze-all"


def test_focus_stays_while_figures_change(page, cluster):  # noqa: F811
    page.script("arguments[0].focus()", page.labelled("Drain hostb"))
    cluster["hostb"].add("new1", 0.1)
    page.wait_text("#guest-rows", "new1")
    assert page.script("return document.activeElement.getAttribute('aria-label')") == "Drain hostb"


def test_all_has_a_name(page):
    page.wait_text("#plan-moves", "Gain")
    page.driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    wanted = {"button", "combobox", "searchbox", "textbox", "progressbar", "image", "link", "table", "dialog"}
    seen = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes
            if not node.get("ignored") and node["role"]["value"] in wanted]
    assert len(seen) > 20 and [role for role, name in seen if not name.strip()] == []
    # On 'td': a row has its host or guest as a header.
    assert len(page.all("#host-rows th[scope=row]")) == 3


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1:-1].split(",")[:3]]
    red, green, blue = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page, scheme):
    """Each text on what is behind it, by WCAG 2.1: 4.5 to 1."""
    page.like(scheme)
    page.wait_text("#plan-moves", "Gain")
    pairs = page.script("""
        const back = (node) => { for (; node; node = node.parentElement) {
            const c = getComputedStyle(node).backgroundColor;
            if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
        return [...document.querySelectorAll('body *')].filter((n) => n.offsetParent && !n.disabled &&
            [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim())).map((n) =>
            [n.textContent.slice(0, 30), getComputedStyle(n).color, back(n)])""")
    bad = []
    for text, front, behind in pairs:
        light, dark = sorted([luminance(front), luminance(behind)], reverse=True)
        if (light + 0.05) / (dark + 0.05) < 4.5:
            bad.append((text, front, behind))
    assert len(pairs) > 40 and bad == []


# ---- other sites ----

def test_headers(cluster, make_engine):  # noqa: F811
    engine = make_engine(PATIENT)
    for path in ("/", "/v1/cluster", "/nowhere", "/web/app.js"):
        _, headers, _ = ask(engine, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in headers
    status, headers, text = ask(engine, "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert "style=" not in text and "onclick" not in text
    assert ask(engine, "/", headers={"If-None-Match": headers["ETag"]})[0] == 304
    assert ask(engine, "/", "HEAD")[2] == "" and ask(engine, "/", "POST", {"X-Vmferry": "1"})[0] in (404, 405)
    assert ask(engine, "/web/../engine.conf")[0] == 404
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert ask(engine, "/v1/hosts", headers={"Sec-Fetch-Site": site})[0] == status
        assert ask(engine, "/metrics", headers={"Sec-Fetch-Site": site})[0] == status


def test_no_get_changes_anything(cluster, make_engine):  # noqa: F811
    engine = usable(make_engine(PATIENT))
    header = {"X-Vmferry": "1"}
    for path in ("/v1/freeze", "/v1/thaw", "/v1/hosts/hosta/drain", "/v1/moves?guest=web1&to=hostb"):
        for method in ("GET", "HEAD"):
            ask(engine, path, method, header)
    assert not engine.show("status")["frozen"] and not engine.host("hosta")["drained"]
    assert all(host.changes == [] for host in cluster.hosts.values())


ATTACK = """<!DOCTYPE html><title>evil</title><form method="post" enctype="text/plain" target="f"
 action="TARGET/v1/freeze"><input name='{"a":"' value='"}'></form><iframe name="f"></iframe>
<iframe id="framed" src="TARGET/"></iframe>
<script>
const results = {};
const attempt = async (name, path, options) => {
  try { const r = await fetch("TARGET" + path, options); results[name] = r.type === "opaque" ? "opaque" : await r.text(); }
  catch { results[name] = "refused"; }
};
(async () => {
  document.forms[0].submit();
  await attempt("read", "/v1/hosts");
  await attempt("read-opaque", "/v1/hosts", {mode: "no-cors", credentials: "include"});
  await attempt("plain", "/v1/freeze", {method: "POST", mode: "no-cors", body: "{}"});
  await attempt("marked", "/v1/freeze", {method: "POST", headers: {"X-Vmferry": "1"}});
  await attempt("delete", "/v1/moves/1", {method: "DELETE", headers: {"X-Vmferry": "1"}});
  const image = new Image();
  results.image = await new Promise((done) => { image.onload = () => done("loaded"); image.onerror = () => done("refused");
    image.src = "TARGET/web/icon.svg"; });
  window.results = results;
})();
</script>"""


class EvilSite(BaseHTTPRequestHandler):
    def __init__(self, text, *arguments):
        self.text = text
        super().__init__(*arguments)

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.text.encode())

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "evil.example"])
def test_another_site_gets_nothing_through(browser, cluster, make_engine, host):  # noqa: F811
    """A page of another port of this machine, and of another name."""
    heat(cluster)
    engine = usable(make_engine(PATIENT))
    target = f"http://127.0.0.1:{engine.port}"
    site = ThreadingHTTPServer(("127.0.0.1", 0), partial(EvilSite, ATTACK.replace("TARGET", target)))
    threading.Thread(target=site.serve_forever, daemon=True).start()
    try:
        browser.open(f"http://{host}:{site.server_port}/")
        wait_until(lambda: browser.script("return window.results ?? null"), "it has tried all", 20)
        results = browser.script("return window.results")
    finally:
        site.shutdown()
        site.server_close()
    assert set(results) == {"read", "read-opaque", "plain", "marked", "delete", "image"}
    # What it sends without a preflight arrives, and is refused: the engine is not frozen.
    assert all(result in ("refused", "opaque") for result in results.values()), results
    assert results["read"] == results["marked"] == results["delete"] == results["image"] == "refused"
    assert not engine.show("status")["frozen"] and engine.events("freeze") == []
    assert all(one.changes == [] for one in cluster.hosts.values())
    browser.driver.switch_to.frame("framed")
    assert "vmferry" not in browser.driver.page_source.replace("vmferry-", "")
    browser.driver.switch_to.default_content()
    assert browser.complaints() != []


def test_a_name_that_was_pointed_here(browser, cluster, make_engine):  # noqa: F811
    """DNS rebinding: evil.example is 127.0.0.1 now, and its page is of the same origin as the engine."""
    engine = usable(make_engine(PATIENT))
    browser.open(f"http://evil.example:{engine.port}/v1/hosts")
    assert "use 127.0.0.1 or localhost" in browser.text()
    browser.open(f"http://evil.example:{engine.port}/")
    assert "use 127.0.0.1 or localhost" in browser.text() and "hosta" not in browser.text()
    status = browser.driver.execute_async_script("""const done = arguments[0];
        fetch("/v1/freeze", {method: "POST", headers: {"X-Vmferry": "1"}}).then((r) => done(r.status), () => done(0))""")
    assert status in (0, 403) and not engine.show("status")["frozen"]
    assert browser.complaints() != []


def test_a_name_that_was_configured(cluster, make_engine):  # noqa: F811
    engine = make_engine({**FAST, "engine": {**FAST["engine"], "names": "engine.example, other.example"}})
    assert ask(engine, "/v1/cluster", headers={"Host": "engine.example:443"})[0] == 200
    assert ask(engine, "/v1/cluster", headers={"Host": "third.example"})[0] == 403
    assert json.loads(ask(engine, "/v1/cluster", headers={"Host": "other.example"})[2])["engine"] == "engine1"
