"""The engine over the network: its agents by HTTPS with certificates of both sides, and itself on an address that others
reach, with a certificate or a token."""

import contextlib
import http.client
import json
import ssl
import time

import pytest

from browser import Browser
from certificates import issue_until
from door import Door
from fake_agents import FakeCluster, FakeTlsHost, free_port
from engine_scene import SETTINGS, Cluster
from test_engine import ended
from test_engine_fakes import FAST, PATIENT, heat, settled, usable
from vmferry_lab import Engine, Pki, wait_until

PORT = 4750
TOKEN = "correct horse battery"
WEBDRIVER_ENTER = "\ue007"


# ---- agents that are none, by HTTPS ----

@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A CA of this file's own, and what it has issued."""
    return Pki(tmp_path_factory.mktemp("site"), {"good": "127.0.0.1"})


@pytest.fixture
def make_cluster(tmp_path, site):
    """make_cluster(hostb=folder): hosta with a good certificate and guests that suffer; hostb, which is idle."""
    clusters = []

    def make(hostb=None):
        cluster = FakeCluster(tmp_path)
        clusters.append(cluster)
        for name, folder in (("hosta", site.folder("good")), ("hostb", hostb or site.folder("good"))):
            cluster.hosts[name] = FakeTlsHost(cluster, name, folder)
        cluster["hostb"].moves_to = "10.0.0.2:4747"
        for name, cpu in (("web1", 0.9), ("web2", 0.7), ("web3", 0.5)):
            cluster["hosta"].add(name, cpu)
        return cluster

    yield make
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def run_engine(tmp_path, site):
    """run_engine(cluster, pki=folder): with a certificate for asking agents only, unless told otherwise."""
    engines = []

    def run(cluster, pki=None, settings=FAST):
        both = {**settings, "engine": {**settings["engine"], "pki": pki or site.engine("engine1")}}
        engines.append(Engine(tmp_path, cluster.spec, free_port(), both).start())
        return engines[-1].wait_ready()

    yield run
    for engine in engines:
        assert engine.stop() == 0, engine.log()
        assert "Sanitizer" not in engine.log() and "CRITICAL" not in engine.log(), engine.log()


def test_moves_over_https(make_cluster, run_engine):
    cluster = make_cluster()
    engine = run_engine(cluster)
    move = settled(engine)[0]
    assert move["state"] == "completed" and (move["from"], move["to"]) == ("hosta", "hostb")
    assert all(host.callers == {"engine1"} for host in cluster.hosts.values())


def foreign(site, folder):
    return Pki(folder / "other", {"b": "127.0.0.1"}).folder("b")


def expired(site, folder):
    return issue_until(site.directory / "ca", "hostb", "127.0.0.1", -60, folder / "expired")


def other_name(site, folder):
    return site.host("elsewhere", "10.1.2.3")


@pytest.mark.parametrize("make, problem", [
    (foreign, "its certificate is of another CA"),
    (expired, "its certificate has expired; issue a new one"),
    (other_name, "its certificate is not for this name"),
])
def test_a_host_that_is_not_trusted(make_cluster, run_engine, site, tmp_path, make, problem):
    """hostb is the only place to go, and nobody goes there."""
    cluster = make_cluster(hostb=make(site, tmp_path))
    engine = run_engine(cluster)
    wait_until(lambda: problem in (engine.host("hostb")["problem"] or ""), problem, 15)
    wait_until(lambda: engine.host("hosta")["usable"] and engine.host("hosta")["hot"], "hosta suffers", 20)
    refused = engine.vmferry("cluster", "move", "web1", "hostb")
    assert refused.exit_code == 1 and "does not go to hostb" in refused.stderr and problem in refused.stderr
    assert problem in engine.vmferry("cluster", "hosts").require().stdout
    time.sleep(1)
    assert cluster.orders == [] and engine.moves() == []
    assert cluster["hostb"].requests == [], "nothing is said to one that is not trusted"


def test_an_agent_of_another_version(make_cluster, run_engine):
    cluster = make_cluster()
    cluster["hostb"].version = "0.9.0"
    engine = run_engine(cluster)
    problem = "its agent is of version 0.9.0"
    wait_until(lambda: problem in (engine.host("hostb")["problem"] or ""), problem, 15)
    wait_until(lambda: engine.host("hosta")["hot"], "hosta suffers", 20)
    assert engine.vmferry("cluster", "move", "web1", "hostb").exit_code == 1
    time.sleep(1)
    assert cluster.orders == []


@pytest.mark.parametrize("of, problem", [
    ("another CA", "its certificate is of another CA"),
    ("the past", "cannot be used: "),
])
def test_a_bad_certificate_of_its_own(make_cluster, run_engine, site, tmp_path, of, problem):
    mine = Pki(tmp_path / "other", {}).engine("engine1") if of == "another CA" \
        else issue_until(site.directory / "ca", "engine1", "127.0.0.1", -60, tmp_path / "old")
    cluster = make_cluster()
    engine = run_engine(cluster, mine)
    wait_until(lambda: all(problem in (engine.host(name)["problem"] or "") for name in cluster.hosts), problem, 15)
    assert engine.show("guests")["guests"] == [] and engine.moves() == []


# ---- real agents and guests ----

class TlsCluster(Cluster):
    """Three hosts whose agents the engine reaches by HTTPS."""

    def __init__(self, lab, pki):
        def prepare(agent):
            agent.settings["api"] = agent.host.ip
            agent.api = {"operate": "engine1"}
        super().__init__(lab, pki, prepare)
        for size in self.sizes:
            size.set_cpus(8)

    @property
    def spec(self) -> str:
        return ",".join(f"{name}={agent.host.ip}" for name, agent in self.agents.items())

    def admit(self, name: str, **lists) -> None:
        """Restarts the agent of that host with other lists of [api]."""
        self[name].api = lists
        self[name].stop()
        self[name].start()


@pytest.fixture
def real(lab, pki):
    cluster = TlsCluster(lab, pki)
    cluster.run("hostA", "web1")
    return cluster


@pytest.fixture
def engine(real, pki):
    """On host A, moves nothing by itself."""
    folder = real["hostA"].host.path("engine")
    folder.mkdir()
    settings = {**SETTINGS, "engine": {"interval": "500ms", "automatic": "false", "pki": pki.engine("engine1")}}
    engine = Engine(folder, real.spec, PORT, settings, real["hostA"].host.namespace.wrap).start().wait_ready()
    yield engine
    assert engine.stop() == 0
    print(engine.log())
    assert "Sanitizer" not in engine.log() and "CRITICAL" not in engine.log()


def sees_all(engine):
    wait_until(lambda: all(host["usable"] for host in engine.show("hosts")["hosts"]) and engine.guest("web1"),
               "figures of all hosts", 30, 0.3)
    # By a first reading, which takes some looks.
    wait_until(lambda: all(guest["cpu_used"] is not None for guest in engine.show("guests")["guests"]), "readings", 30, 0.3)


def plans(engine):
    """An agent that has just been restarted says for a moment that its guest cannot move."""
    wait_until(lambda: "web1 -> host" in engine.vmferry("drain", "hostA", "--dry-run").stdout, "a plan", 30, 0.3)


def order(engine, guest, host):
    """As soon as it is seen that the agents are back."""
    wait_until(lambda: engine.vmferry("cluster", "move", guest, host).exit_code == 0, "an order", 30, 0.3)


@pytest.mark.long
def test_plans_and_moves(real, engine):
    sees_all(engine)
    plan = engine.vmferry("drain", "hostA", "--dry-run").require().stdout
    assert "web1 -> host" in plan
    assert real.place("web1") == ["hostA"] and engine.moves() == []
    engine.vmferry("drain", "hostA").require()
    [move] = wait_until(lambda: ended(engine), "it leaves", 60, 0.5)
    assert move["state"] == "completed" and move["ordered_by"] == "drain", move
    assert real.place("web1") == [move["to"]] != ["hostA"]
    real.check()


@pytest.mark.long
def test_whom_the_agents_let(real, engine):
    """Not on the list of one of them: that host is no place to go.  May read only: it plans, and a move is refused."""
    sees_all(engine)
    real.admit("hostB", read="somebody")
    problem = "engine1 may not use the API at "
    wait_until(lambda: problem in (engine.host("hostB")["problem"] or ""), problem, 30, 0.3)
    assert not engine.host("hostB")["usable"] and engine.host("hostC")["usable"]
    refused = engine.vmferry("cluster", "move", "web1", "hostB")
    assert refused.exit_code == 1 and "does not go to hostB" in refused.stderr and problem in refused.stderr
    assert "web1 -> hostC" in engine.vmferry("drain", "hostA", "--dry-run").require().stdout
    for name in real.agents:
        real.admit(name, read="engine1")
    plans(engine)
    order(engine, "web1", "hostB")
    [move] = wait_until(lambda: ended(engine), "it is refused", 30, 0.3)
    assert move["state"] == "refused" and "engine1 may not change anything at " in move["problem"], move
    text = engine.vmferry("cluster", "explain", move["id"]).require().stdout
    assert "engine1 may not change anything at " in text
    # Let again, it works (hostB is left out for an hour).
    for name in real.agents:
        real.admit(name, operate="engine1")
    plans(engine)
    order(engine, "web1", "hostC")
    wait_until(lambda: len(ended(engine)) == 2 and real.place("web1") == ["hostC"], "it is there", 60, 0.3)
    real.check()


# ---- itself on an address that others reach ----

@pytest.fixture
def public(lab, tmp_path, site):
    """An engine on host A's address, before agents that are none; who is on host B may ask it, with a certificate or the
    token."""
    cluster = FakeCluster(tmp_path, "hosta", "hostb", "hostc")
    heat(cluster)
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "wrong").write_text(TOKEN.upper() + "\n")
    pki = site.host("engine1", lab.host_a.ip, "localhost")
    settings = {"engine": {**PATIENT["engine"], "listen": f"{lab.host_a.ip}:{PORT}", "pki": pki,
                           "token-file": tmp_path / "token", "allow": "ann"}}
    engine = Engine(tmp_path, cluster.spec, PORT, settings, lab.host_a.namespace.wrap)
    engine.user_env = {"VMFERRY_PKI": str(site.engine("ann"))}
    engine.start()
    usable(engine.wait_ready())
    engine.lab, engine.folder, engine.site = lab, tmp_path, site
    yield engine
    assert engine.stop() == 0, engine.log()
    assert "Sanitizer" not in engine.log() and "CRITICAL" not in engine.log(), engine.log()
    cluster.close()


class Visitor:
    """Asks it from host B, with the certificate in a folder or none."""

    def __init__(self, engine, certificate=None):
        self.engine = engine
        self.context = ssl.create_default_context(cafile=engine.site.directory / "ca" / "ca.crt")
        if certificate:
            self.context.load_cert_chain(certificate / "host.crt", certificate / "host.key")

    def ask(self, path, method="GET", **headers):
        """(status, the answer's object or None)"""
        host = self.engine.lab.host_a.ip
        plain = self.engine.lab.host_b.namespace.socket()
        plain.settimeout(20)
        plain.connect((host, PORT))
        with self.context.wrap_socket(plain, server_hostname=host) as secured:
            connection = http.client.HTTPConnection(host, PORT)
            connection.sock = secured
            connection.request(method, path, headers={"X-Vmferry": "1", **headers})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if answer.headers["Content-Type"] == "application/json" else None


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_who_may_come_in(public, tmp_path):
    site, nobody = public.site, Visitor(public)
    for path, method in (("/v1/hosts", "GET"), ("/metrics", "GET"), ("/v1/freeze", "POST"), ("/nothing", "GET")):
        status, answer = nobody.ask(path, method)
        assert status == 401 and "a certificate of the cluster's CA, or the token, is needed" in str(answer)
        status, answer = nobody.ask(path, method, **bearer(TOKEN.upper()))
        assert status == 401 and "the token that was given is not the engine's" in str(answer)
    # The page tells nothing, and has to come before it can ask for the token.
    assert nobody.ask("/")[0] == 200
    assert nobody.ask("/v1/hosts", **bearer(TOKEN))[0] == 200
    assert nobody.ask("/v1/freeze", "POST", **bearer(TOKEN))[0] == 200
    ann, bob = Visitor(public, site.engine("ann")), Visitor(public, site.engine("bob"))
    assert ann.ask("/v1/thaw", "POST")[1] == {"guest": None, "frozen": False}
    assert bob.ask("/v1/hosts")[0] == 401, "of the CA, and not on the list"
    assert bob.ask("/v1/hosts", **bearer(TOKEN))[0] == 200
    # A certificate that is bad is worse than none: not even a token helps then.
    for bad in (Pki(tmp_path / "other", {}).engine("ann"),
                issue_until(site.directory / "ca", "ann", "10.66.0.2", -60, tmp_path / "old")):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            Visitor(public, bad).ask("/v1/hosts", **bearer(TOKEN))
    assert nobody.ask("/v1/hosts", Host="evil.example", **bearer(TOKEN))[0] == 403
    with public.lab.host_b.namespace.socket() as plain:
        plain.settimeout(10)
        plain.connect((public.lab.host_a.ip, PORT))
        plain.sendall(b"GET /v1/hosts HTTP/1.1\r\nHost: 10.66.0.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert not plain.recv(100).startswith(b"HTTP"), "it speaks TLS only"


def test_commands_over_tls(public, tmp_path):
    """By a certificate, by a token and the CA's certificate alone, and by neither."""
    folder = tmp_path / "only-ca"
    folder.mkdir()
    (folder / "ca.crt").write_bytes((public.site.directory / "ca" / "ca.crt").read_bytes())
    token = {"VMFERRY_PKI": str(folder), "VMFERRY_TOKEN_FILE": str(tmp_path / "token")}
    public.vmferry("freeze").require()
    public.user_env = token
    public.vmferry("thaw").require()
    assert public.show("status")["frozen"] is False
    for env, words in ((
            {**token, "VMFERRY_TOKEN_FILE": str(tmp_path / "wrong")}, "the token that was given is not the engine's"), (
            {"VMFERRY_PKI": str(folder)}, "the certificate to show to the engine"), (
            {**token, "VMFERRY_PKI": str(tmp_path)}, "the CA's certificate, by which the engine's is checked"), (
            {"VMFERRY_PKI": str(public.site.engine("bob"))}, "a certificate of the cluster's CA, or the token"), (
            {"VMFERRY_PKI": str(Pki(tmp_path / "other", {}).engine("ann"))},
            f"the engine at {public.address}: its certificate is of another CA")):
        public.user_env = env
        refused = public.vmferry("cluster", "status")
        assert refused.exit_code == 1 and words in refused.stderr, refused
    public.user_env = token


def test_the_page_over_tls(public, tmp_path):
    """A browser that trusts the CA, and whose user has the token."""
    door = Door(public.lab.host_b.namespace, public.lab.host_a.ip, PORT)
    browser = Browser(tmp_path / "browser", ca=public.site.directory / "ca" / "ca.crt")
    try:
        browser.open(f"https://localhost:{door.port}/")
        wait_until(lambda: browser.all("#token"), "it asks for a token")
        assert "hosta" not in browser.text()
        browser.one("#token").send_keys("nonsense" + WEBDRIVER_ENTER)
        browser.wait_text("dialog .problem", "The token that was given is not the engine's.")
        browser.one("#token").clear()
        browser.one("#token").send_keys(TOKEN + WEBDRIVER_ENTER)
        browser.wait_text("#host-rows", "hostc")
        wait_until(lambda: not browser.all("dialog"), "the token is taken")
        browser.push("#freeze-all")
        browser.push("dialog .danger")
        browser.wait_text("#facts", "frozen: a user has frozen it")
        assert all("401" in line for line in browser.complaints())
        # By a name that the certificate does not have there is no page.
        browser.open_badly(f"https://127.0.0.1:{door.port}/")
        assert "ERR_CERT_COMMON_NAME_INVALID" in browser.driver.page_source
    finally:
        browser.close()
        door.close()
