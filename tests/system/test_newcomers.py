"""What people meet who begin with vmferry, and who make mistakes: it must say what to do."""

import re
import shlex
from types import SimpleNamespace

import pytest

from findings import check_failed, traces_in
from fresh_host import make_hosts
from vmferry_lab import Lab

QEMU = "qemu-system-x86_64 -accel tcg -m 64 -display none"
WITH_QMP = "-qmp unix:/run/{0}.qmp,server=on,wait=off -pidfile /run/{0}.pid -daemonize"


def make_pki(*hosts) -> None:
    """Certificates of one CA, made on the first host."""
    names = [host.name for host in hosts]
    hosts[0].sh("vmferry pki init && " + " && ".join(f"vmferry pki issue {name}" for name in names)
                + f" && cp -r /etc/vmferry/ca/{names[0]} /etc/vmferry/pki").require()
    for host in hosts[1:]:
        host.sh("mkdir -p /etc/vmferry").require()
        hosts[0].sh(f"scp -r /etc/vmferry/ca/{host.name} {host.name}:/etc/vmferry/pki").require()


@pytest.fixture
def fresh(lab):
    """Two hosts without anything: a and b."""
    hosts = make_hosts(lab)
    return SimpleNamespace(a=hosts["hostA"], b=hosts["hostB"])


@pytest.fixture(scope="module")
def ready():
    """Two hosts with certificates and agents; `web1` runs on a."""
    with Lab() as lab:
        hosts = make_hosts(lab)
        here = SimpleNamespace(a=hosts["hostA"], b=hosts["hostB"])
        make_pki(here.a, here.b)
        here.a.start_agent()
        here.b.start_agent()
        here.a.sh(f"vmferry run web1 -- {QEMU}").require()
        yield here


def status(host, guest: str) -> dict:
    return host.vmferry("status", guest, "--json").require().json


def adopt(host, guest: str, more: str = ""):
    host.sh(f"{QEMU} {WITH_QMP.format(guest)} {more}").require()
    return host.sh(f"vmferry adopt {guest} --pid $(cat /run/{guest}.pid)")


# ---- mistakes ----

def check_mistake(host, command: str, words: list[str], exit_code: int = 1) -> None:
    result = host.sh(command)
    assert result.exit_code == exit_code, result
    for word in words:
        assert word in result.stderr, f"{word!r} is not in: {result.stderr}"


NOBODY = "su nobody -s /bin/sh -c "


@pytest.mark.parametrize("command, exit_code, words", [
    ("vmferry list", 1, ["is `vmferry agent` running?"]),
    ("vmferry agent", 1, ["`vmferry pki init`", "--listen none", "--insecure"]),
    ("vmferry pki issue hostA", 1, ["make one with `vmferry pki init`"]),
    ("vmferry pki issue", 2, ["`issue HOST [NAME...]`"]),
    (NOBODY + "'vmferry pki init'", 1, ["Permission denied (be root, or"]),
    (NOBODY + "'vmferry agent --listen none'", 1, ["Permission denied (the agent commonly runs"]),
    ("mkdir -p /etc/vmferry/pki; touch /etc/vmferry/pki/host.crt; vmferry agent", 1,
     ["ca.crt: No such file", "`vmferry pki issue`"]),
    ("echo '[agent]\nalow = x' >/etc/vmferry/agent.conf; vmferry agent", 2, ["alow: unknown key"]),
    ("vmferry --json list", 2, ["options follow the verb: vmferry VERB --json"]),
    ("vmferry lsit", 2, ["there is no verb \"lsit\"", "vmferry --help"]),
    ("vmferry list --nmaes", 2, ["Unknown option --nmaes", "vmferry list --help"]),
], ids=lambda value: value if isinstance(value, str) else "")
def test_mistakes_on_an_empty_host(fresh, command, exit_code, words):
    fresh.a.sh("mkdir -p /etc/vmferry").require()
    check_mistake(fresh.a, command, words, exit_code)


@pytest.mark.parametrize("command, words", [
    ("vmferry agent", ["another agent uses the state directory"]),
    (NOBODY + "'vmferry list'", ["be root, or a member of the group"]),
    ("vmferry status web9", ["no guest \"web9\" on this host; see `vmferry list`"]),
    (f"vmferry run web1 -- {QEMU}", ["there is a guest \"web1\" on host hostA already"]),
    (f"vmferry run x -- {QEMU} --foo", ["QEMU did not start", "--foo: invalid option"]),
    ("vmferry run x -- qemu-system-x8664", ["there is no program qemu-system-x8664"]),
    ("vmferry adopt x --pid 1", ["pid 1 is", "QEMU"]),
    ("vmferry adopt x --pid 4194000", ["there is no process with pid 4194000"]),
    (f"{QEMU} -pidfile /run/x.pid -daemonize; vmferry adopt x --pid $(cat /run/x.pid)",
     ["no QMP socket", "--qmp PATH", "-qmp unix:PATH,server=on,wait=off"]),
    ("vmferry migrate web1 hostB:4000", ["is `vmferry agent` running there?"]),
    ("vmferry migrate web1 nowhere.invalid", ["no address known for nowhere.invalid"]),
    ("vmferry migrate web1 10.66.0.2", ["certificate is not for \"10.66.0.2\"",
                                        "`vmferry pki issue HOST NAME...`"]),
], ids=lambda value: value if isinstance(value, str) else "")
def test_mistakes(ready, command, words):
    check_mistake(ready.a, command, words)
    assert status(ready.a, "web1")["state"] == "running"


def test_wrong_first_word_of_a_command_line(ready):
    check_mistake(ready.a, "vmferry run x -- -m 64", ["begins with the program's name"], 2)


def test_hosts_of_two_authorities(fresh):
    make_pki(fresh.a)
    make_pki(fresh.b)
    fresh.a.start_agent()
    fresh.b.start_agent()
    fresh.a.sh(f"vmferry run web1 -- {QEMU}").require()
    check_mistake(fresh.a, "vmferry migrate web1 hostB", ["of another CA", "`vmferry pki issue`"])


def test_certificate_that_was_copied_to_the_other_host(fresh):
    make_pki(fresh.a)
    fresh.b.sh("mkdir -p /etc/vmferry").require()
    fresh.a.sh("scp -r /etc/vmferry/pki hostB:/etc/vmferry/pki").require()
    fresh.a.start_agent()
    fresh.b.start_agent()
    fresh.a.sh(f"vmferry run web1 -- {QEMU}").require()
    check_mistake(fresh.a, "vmferry migrate web1 hostB",
                  ["not for \"hostB\" but this host's own", "has a copy of it"])


# ---- check ----

def findings(host) -> dict[str, dict]:
    """By topic."""
    answer = host.vmferry("check", "--json").json
    return {one["topic"]: one for one in answer["findings"]} | {"all": answer["moves_possible"]}


def test_check_from_nothing_to_a_ready_host(fresh):
    found = findings(fresh.a)
    assert found["all"] is False and found["PKI"]["grade"] == "problem"
    assert "/etc/vmferry/pki" in found["PKI"]["detail"] and "--insecure" in found["PKI"]["advice"]
    make_pki(fresh.a)
    found = findings(fresh.a)
    assert found["all"] is True and found["PKI"]["grade"] == "ok"
    assert found["agent"]["grade"] == "note" and "systemctl" in found["agent"]["advice"]
    assert "once its agent runs" in fresh.a.vmferry("check").require().stdout
    fresh.a.start_agent()
    assert findings(fresh.a)["agent"]["grade"] == "ok"
    assert "moved from and to this host.\n" in fresh.a.vmferry("check").require().stdout


def test_check_asks_the_agent(fresh):
    """What it was told on its command line counts, not what commonly holds."""
    fresh.a.start_agent("--insecure")
    found = findings(fresh.a)
    assert found["all"] is True and found["PKI"]["grade"] == "note"
    assert "--insecure" in found["PKI"]["detail"]
    fresh.b.start_agent("--listen none")
    found = findings(fresh.b)
    assert found["all"] is False
    assert found["PKI"]["grade"] == found["agent"]["grade"] == "problem"


def test_check_of_an_agent_that_others_cannot_reach(fresh):
    make_pki(fresh.a)
    fresh.a.start_agent("--listen none")
    found = findings(fresh.a)
    assert found["all"] is True and found["agent"]["grade"] == "note"
    assert "but not to it" in fresh.a.vmferry("check").require().stdout


def test_check_reads_the_configuration(fresh):
    fresh.a.sh("mkdir -p /etc/vmferry; echo '[agent]\ninsecure = true' >/etc/vmferry/agent.conf")
    assert findings(fresh.a)["all"] is True
    fresh.a.sh("echo 'insecure = perhaps' >>/etc/vmferry/agent.conf").require()
    found = findings(fresh.a)
    assert found["all"] is False and found["configuration"]["grade"] == "problem"


# ---- a move to where it is ----

@pytest.mark.parametrize("name", ["localhost", "hostA", "127.0.0.1", "10.66.0.1"])
def test_move_to_the_same_host(ready, name):
    """Also by names that the certificate does not carry; the guest is not touched."""
    before = status(ready.a, "web1")
    result = ready.a.vmferry("migrate", "web1", name, "--json")
    check_failed(result, "is this host itself")
    assert result.json["rounds"] == [] and result.json["tracker"] is None
    after = status(ready.a, "web1")
    assert (after["pid"], after["state"]) == (before["pid"], "running")
    assert traces_in(after["pid"]) == []


def test_move_to_the_same_host_without_tls(fresh):
    fresh.a.start_agent("--insecure")
    fresh.a.sh(f"vmferry run web1 -- {QEMU}").require()
    for name in ("localhost", "hostA"):
        check_failed(fresh.a.vmferry("migrate", "web1", name, "--json"), "is this host itself")
    assert status(fresh.a, "web1")["state"] == "running"


# ---- guests that have left ----

def check_moved(host, guest: str) -> None:
    text = host.vmferry("status", guest)
    assert text.exit_code == 1 and text.stdout == ""
    assert re.search(rf"vmferry status: {guest} moved to hostB (just now|\d+ \w+ ago)\n", text.stderr)
    answer = host.vmferry("status", guest, "--json")
    assert answer.exit_code == 1 and answer.json["error"]["code"] == "not-found"
    assert answer.json["moved"]["destination"] == "hostB"
    for verb in ("stop", "cancel"):
        check_failed(host.vmferry(verb, guest), f"{guest} moved to hostB")
    check_failed(host.vmferry("migrate", guest, "hostB", "--json"), f"{guest} moved to hostB")


def departed(host) -> list[str]:
    listed = host.vmferry("list", "--moved", "--json").require().json["departures"]
    assert host.vmferry("list", "--moved", "--names").require().stdout.split() \
        == [one["name"] for one in listed]
    return [one["name"] for one in listed]


def test_guest_that_has_left(fresh):
    make_pki(fresh.a, fresh.b)
    agent = fresh.a.start_agent()
    fresh.b.start_agent()
    for name in ("web1", "web2"):
        fresh.a.sh(f"vmferry run {name} -- {QEMU}").require()
        fresh.a.vmferry("migrate", name, "hostB").require()
        check_moved(fresh.a, name)
    assert sorted(departed(fresh.a)) == ["web1", "web2"]
    assert "web1" in fresh.a.vmferry("list", "--moved").require().stdout
    assert "web1" not in fresh.a.vmferry("list").require().stdout
    agent.terminate()
    agent.wait(20)
    fresh.a.start_agent()
    check_moved(fresh.a, "web1")
    # One comes back, a new one takes the other's name.
    fresh.b.vmferry("migrate", "web1", "hostA").require()
    fresh.b.vmferry("stop", "web2").require()
    fresh.a.sh(f"vmferry run web2 -- {QEMU}").require()
    assert departed(fresh.a) == [] and departed(fresh.b) == ["web1"]
    fresh.a.vmferry("stop", "web2").require()
    check_failed(fresh.a.vmferry("status", "web2"), "no guest \"web2\"")


# ---- guests that cannot move ----

OBSTACLES = {
    "snapshot": ("-snapshot", "temporary files"),
    "memory": ("-object memory-backend-file,id=m,size=64M,mem-path=/srv/{0}.ram -machine "
               "memory-backend=m", "private mapping"),
}


@pytest.mark.parametrize("guest", OBSTACLES)
def test_guest_that_cannot_move(ready, guest):
    """Adopting says so at once, status too, and a move says the same."""
    options, words = OBSTACLES[guest]
    adopted = adopt(ready.a, guest, options.format(guest)).require()
    try:
        warning = re.search(rf"warning: {guest} cannot be moved as it is: (.*)\n", adopted.stderr)
        assert warning and words in warning[1], adopted.stderr
        seen = status(ready.a, guest)
        assert seen["not_movable"] == warning[1] and seen["machine"]
        assert f"cannot be moved  {warning[1]}" in ready.a.vmferry("status", guest).stdout
        check_failed(ready.a.vmferry("migrate", guest, "hostB", "--json"), warning[1])
    finally:
        ready.a.vmferry("stop", guest).require()


def test_guest_that_can_move(ready):
    result = adopt(ready.a, "free").require()
    assert result.stderr == ""
    assert status(ready.a, "free")["not_movable"] is None
    ready.a.vmferry("stop", "free").require()


def test_run_warns(ready):
    result = ready.a.sh(f"vmferry run snap -- {QEMU} -snapshot").require()
    assert "warning: snap cannot be moved as it is" in result.stderr
    ready.a.vmferry("stop", "snap").require()
    answer = ready.a.sh(f"vmferry run --json snap -- {QEMU} -snapshot").require()
    assert answer.stderr == "" and "temporary files" in answer.json["not_movable"]
    ready.a.vmferry("stop", "snap").require()


# ---- guests as people start them first ----

@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_guest_with_all_that_qemu_adds_by_itself(ready, any_qemu, machine):
    """Without -nodefaults there are drives, a card and a network that no option names."""
    command = shlex.join([*any_qemu.command, "-machine", machine, "-m", "64", "-display", "none"])
    ready.a.sh(f"vmferry run plain -- {command}").require()
    ready.a.vmferry("migrate", "plain", "hostB").require()
    ready.b.vmferry("migrate", "plain", "hostA").require()
    ready.a.vmferry("stop", "plain").require()
