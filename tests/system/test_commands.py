"""The command line as people and scripts meet it, with no agent and no guest."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from findings import error_text
from vmferry_lab import REPOSITORY, Result, vmferry_program

VERBS = ["agent", "pki", "run", "adopt", "list", "status", "disk", "image", "state", "debug", "top", "stop", "events",
         "estimate", "migrate", "bandwidth", "save", "restore", "protect", "unprotect", "failover", "cancel", "resolve",
         "check", "engine", "cluster", "drain", "undrain", "freeze", "thaw", "rule", "sla"]


def vmferry(*words) -> Result:
    done = subprocess.run([vmferry_program(), *map(str, words)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=30)
    return Result(done.returncode, done.stdout, done.stderr)


def options_of(verb: str, *, valued: bool | None = None) -> set[str]:
    """The long options that --help shows; only those with (without) a value if told so."""
    found = re.findall(r"^ +(?:-\w, )?(--[a-z][a-z-]+)(=?)", vmferry(verb, "--help").stdout, re.M)
    return {option for option, sign in found if valued in (None, sign == "=")}


def test_help_names_every_verb():
    text = vmferry("--help").require().stdout
    assert all(re.search(rf"^ +{verb} ", text, re.M) for verb in VERBS)
    named = set(re.findall(r"^  ([a-z]+) ", text, re.M)) - {"version", "help"}
    assert named == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb):
    result = vmferry(verb, "--help").require()
    assert "Usage:" in result.stdout and f"vmferry {verb}" in result.stdout
    assert vmferry("help", verb).require().stdout == result.stdout


# ---- man pages: as man(1) shows them ----

PAGES = sorted((REPOSITORY / "man").glob("*.[158]"))


def render(page: Path) -> str:
    """The page as text with lines as long as they are; not one warning is allowed."""
    done = subprocess.run(["man", "--warnings=w", "-l", page], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=30,
                          env={**os.environ, "MANWIDTH": "1000", "LC_ALL": "C.UTF-8", "PAGER": "cat"})
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.replace("\u2010", "-")


def section(text: str, title: str) -> list[str]:
    """The lines of a section that begin at its left edge."""
    body = re.search(rf"^{title}\n((?: .*\n|\n)*)", text, re.M)[1]
    return [line.strip() for line in body.splitlines() if re.match(r" {5}\S", line)]


def page_of(verb: str) -> Path:
    [page] = (REPOSITORY / "man").glob(f"vmferry-{verb}.[18]")
    return page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_man_page(page):
    """It has no mistakes, whatis(1) knows it, and its synopsis begins with the whole command."""
    text = render(page)
    name = page.name.rpartition(".")[0]
    assert section(text, "NAME")[0].startswith(f"{name} — ")
    index = subprocess.run(["lexgrog", page], capture_output=True, text=True)
    assert f'"{name} - ' in index.stdout, index.stdout
    command = ["vmferry", *name.split("-")[1:]]
    if name == "vmferry-sim" or page.suffix == ".5":
        command = ["vmferry-sim"] if page.suffix == ".1" else [f"/etc/vmferry/{name.split('-')[1]}"]
    for line in section(text, "SYNOPSIS"):
        assert line.split()[:len(command)] == command, line


def test_man_pages_are_all_installed():
    text = (REPOSITORY / "man/meson.build").read_text()
    assert sorted(re.findall(r"'(vmferry[^']*\.[158])'", text)) == [page.name for page in PAGES]


@pytest.mark.parametrize("verb", VERBS)
def test_man_page_of_a_verb_names_its_options(verb):
    """Its synopsis has those that --help shows and no others, and each is explained."""
    page = page_of(verb)
    synopsis = " ".join(section(render(page), "SYNOPSIS"))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", synopsis)) == options_of(verb) - {"--help"}
    tags = " ".join(re.findall(r"^\.It (.*\bFl .*)", page.read_text(), re.M))
    explained = {f"-{option}" for option in re.findall(r" (-[a-z][a-z-]+)", tags)}
    # vmferry(1) explains how another host's agent is asked.
    common = {"--json", "--socket", "--help"}
    common |= {"--host", "--pki"} if "--host" in options_of(verb) else set()
    assert options_of(verb) - common <= explained


def test_man_page_names_the_codes_of_errors():
    table = re.findall(r'^ +\[VMFERRY_ERROR_\w+\] = "([a-z-]+)",', (REPOSITORY / "src/base/error.c").read_text(), re.M)
    page = (REPOSITORY / "man/vmferry.1").read_text()
    named = re.findall(r"^\.It Cm ([a-z-]+)$", page.partition(".Sh JSON")[2].partition(".Sh EXIT")[0], re.M)
    assert len(table) > 10 and sorted(named) == sorted(table)


# ---- completion ----

COMPLETIONS = Path(vmferry_program()).parents[2] / "completions"
SHELLS = ["bash", "zsh", "fish"]


def in_bash(words: list[str]) -> str:
    return (f"source {COMPLETIONS}/vmferry; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; "
            "_vmferry; printf '%s\\n' \"${COMPREPLY[@]}\"")


def in_zsh(words: list[str]) -> str:
    """With stand-ins for what zsh's own completion offers it with."""
    return (f"words=({shlex.join(words)}); CURRENT={len(words)}; compset() {{ :; }}; "
            "compadd() { shift; print -rl -- \"$@\"; }; _files() { print FILES; }; _hosts() { print HOSTS; }; "
            "_command_names() { print COMMANDS; }; "
            "_describe() { local name=$@[$#]; print -rl -- \"${(@)${(P@)name}%%:*}\"; }; "
            f"autoload() {{ :; }}; source {COMPLETIONS}/_vmferry; _vmferry")


def in_fish(words: list[str]) -> str:
    line = shlex.join(words[:-1]) + " " + words[-1]
    return f"source {COMPLETIONS}/vmferry.fish; complete -C {shlex.quote(line)}"


def complete(shell: str, *words: str) -> list[str]:
    """What a shell offers for the last word; what only looks like an error is one."""
    script = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}[shell](["vmferry", *words])
    path = f"{Path(vmferry_program()).parent}:{os.environ['PATH']}"
    argv = [shell, *{"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell], "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PATH": path, "VMFERRY_SOCKET": "/nonexistent"})
    assert done.stderr == "", done.stderr
    return [line.partition("\t")[0] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_verb(shell):
    found = set(complete(shell, ""))
    assert found | {"--help", "--version"} == {*VERBS, "version", "help", "--help", "--version"}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_the_options_of_every_verb(shell):
    for verb in [*VERBS, "version", "help"]:
        found = {word for word in complete(shell, verb, "--") if word.startswith("--")}
        assert found == options_of(verb), verb


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("words, expected", [
    (["migrate", "web1", "b", "--mode", ""], {"auto", "precopy", "postcopy", "hybrid"}),
    (["protect", "--disks", ""], {"auto", "copy"}),
    (["migrate", "--disks", ""], {"auto", "shared", "copy", "top"}),
    (["resolve", "web1", "--keep", ""], {"here", "there"}),
    (["migrate", "--max-downtime", ""], set()),
    (["cluster", ""], {"status", "hosts", "guests", "plan", "moves", "explain", "history", "events", "move",
                       "cancel"}),
    (["rule", "add", ""], {"together", "apart", "hosts", "never"}),
    (["rule", "list", ""], set()), (["rule", "--on", "a,b", "add", ""], {"together", "apart", "hosts", "never"}),
    (["image", "--json", ""], {"info", "verify", "list", "merge"}),
], ids=lambda value: "-".join(value) if isinstance(value, list) else "")
def test_completion_of_values_and_arguments(shell, words, expected):
    assert set(complete(shell, *words)) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_of_files(shell, tmp_path):
    (tmp_path / "one.image").touch()
    assert complete(shell, "restore", f"{tmp_path}/on") in ([f"{tmp_path}/one.image"], ["FILES"])
    assert complete(shell, "agent", "--config", f"{tmp_path}/on") in ([f"{tmp_path}/one.image"], ["FILES"])
    assert "qemu-img" in complete(shell, "run", "x", "--", "qemu-im") or shell == "zsh"


def test_list_of_options():
    """`vmferry help --json` tells what --help does."""
    told = vmferry("help", "--json").require().json
    assert {verb["verb"] for verb in told["verbs"]} == {*VERBS, "version", "help"}
    for verb in told["verbs"]:
        names = {f"--{option['name']}": option["value"] for option in verb["options"]}
        assert set(names) == options_of(verb["verb"]) - {"--help"}
        assert {name for name, value in names.items() if value} == options_of(verb["verb"], valued=True)


def test_version():
    text = vmferry("--version").require().stdout
    assert re.fullmatch(r"vmferry \d+\.\d+\.\d+\n", text)
    assert vmferry("version", "--json").require().json["version"] in text


@pytest.mark.parametrize("words", [
    [], ["fly"], ["migrate"], ["migrate", "web1"], ["migrate", "web1", "b", "c"],
    ["migrate", "web1", "b", "--warp"], ["migrate", "web1", "b", "--max-downtime", "soon"],
    ["migrate", "web1", "b", "--max-downtime", "0"], ["migrate", "web1", "b", "--downtime-cap", "0"],
    ["migrate", "web1", "b", "--max-downtime", "2s", "--downtime-cap", "1s"],
    ["migrate", "web1", "b", "--deadline", "0"], ["migrate", "web1", "b", "--deadline", "2 days"],
    ["migrate", "web1", "b", "--streams", "0"], ["migrate", "web1", "b", "--streams", "17"],
    ["migrate", "web1", "b", "--streams", "x"], ["migrate", "web1", "b", "--memory-budget", "0"],
    ["migrate", "web1", "b", "--memory-budget", "lots"],
    ["migrate", "web1", "b", "--throttle", "hard"], ["migrate", "web1", "b", "--segments", "some"],
    ["migrate", "web1", "b", "--compress", "zip"],
    ["migrate", "web1", "b", "--detach", "--record", "/dev/null"],
    ["migrate", "web1", "b", "--tracker", "magic"], ["adopt", "web1"], ["adopt", "web1", "--pid", "x"],
    ["run", "web1"], ["run", "a b", "--", "qemu"], ["stop"], ["resolve", "web1"],
    ["resolve", "web1", "--keep", "both"], ["pki", "burn"], ["events", "--since", "-1"],
    ["agent", "now"], ["disk"], ["disk", "show", "web1"], ["disk", "list"],
    ["migrate", "web1", "b", "--disks", "some"], ["migrate", "web1", "b", "--disk", "system"],
    ["migrate", "web1", "b", "--keep", "--delete-source"],
    ["engine"], ["engine", "--hosts", ""], ["engine", "--hosts", "a,a"], ["cluster"], ["cluster", "burn"],
    ["cluster", "explain"], ["cluster", "move", "web1"], ["drain"], ["drain", "a", "b"], ["rule"],
    ["rule", "add", "apart"], ["rule", "burn", "x"], ["sla", "web1", "--cpu-wait", "much"],
    ["sla", "web1", "--swap", "1"], ["sla", "--none"], ["freeze", "a", "b"],
], ids=lambda words: "-".join(words) or "nothing")
def test_wrong_usage(words):
    result = vmferry(*words)
    assert result.exit_code == 2, result
    assert result.stdout == "" and "--help" in result.stderr


def test_refusals_say_what_is_possible():
    for words, possible in [
            (["--max-downtime", "0"], "from 1 ms to 1 h"), (["--deadline", "3d"], "500ms, 2s, 1m"),
            (["--max-downtime", "2s", "--downtime-cap", "1s"], "at least 2000 ms"),
            (["--streams", "17"], "from 1 to 16"), (["--memory-budget", "1"], "from 1Mi to 1024Gi"),
            (["--throttle", "x"], "auto, cgroup, duty or off"),
            (["--segments", "x"], "auto, fingerprint, shadow or off"),
            (["--compress", "x"], "auto, none, lz4 or zstd")]:
        assert possible in vmferry("migrate", "web1", "b", *words).stderr, words


def test_record_that_cannot_be_written(tmp_path):
    """The move does not begin: the guest is not even asked for."""
    result = vmferry("migrate", "web1", "b", "--record", tmp_path / "none" / "trace")
    assert result.exit_code == 1
    assert "No such file" in error_text(result) and "agent" not in error_text(result)


@pytest.mark.parametrize("words", [
    ["list"], ["status"], ["status", "web1"], ["stop", "web1"], ["events"], ["cancel", "web1"],
    ["migrate", "web1", "b"], ["run", "web1", "--", "qemu-system-x86_64"],
    ["adopt", "web1", "--pid", "1"], ["resolve", "web1", "--keep", "here"], ["disk", "list", "web1"],
], ids=lambda words: words[0])
def test_without_an_agent(words, tmp_path):
    result = vmferry(words[0], "--socket", tmp_path / "none.sock", "--json", *words[1:])
    assert result.exit_code == 1
    text = error_text(result)
    assert "agent" in text and "none.sock" in text
    assert result.json["error"]


# ---- check ----

@pytest.fixture
def host_pki(tmp_path) -> Path:
    vmferry("pki", "init", "--dir", tmp_path / "ca").require()
    vmferry("pki", "issue", "hostA", "--dir", tmp_path / "ca").require()
    return tmp_path / "ca/hostA"


def test_check_says_what_works(host_pki):
    result = vmferry("check", "--json", "--pki", host_pki)
    answer = result.json
    assert result.exit_code == (0 if answer["moves_possible"] else 1)
    assert answer["moves_possible"] is True
    topics = json.dumps([finding["topic"] for finding in answer["findings"]])
    for topic in ("userfaultfd", "PAGEMAP_SCAN", "ptrace", "pidfd_getfd", "output of vhost", "QEMU"):
        assert topic.lower() in topics.lower(), topics
    assert "Guests can be moved" in vmferry("check", "--pki", host_pki).require().stdout


@pytest.mark.parametrize("missing, words", [
    ("", "there is no certificate"), ("ca.crt", "ca.crt: No such file"),
    ("host.crt", "there is no certificate"), ("host.key", "host.key: No such file"),
])
def test_check_says_that_a_certificate_is_missing(host_pki, missing, words):
    if missing:
        (host_pki / missing).unlink()
    result = vmferry("check", "--json", "--pki", host_pki if missing else host_pki / "none")
    assert result.exit_code == 1 and result.json["moves_possible"] is False
    [problem] = [one for one in result.json["findings"] if one["grade"] == "problem"]
    assert problem["topic"] == "PKI" and words in problem["detail"]
    assert "vmferry pki issue HOST" in problem["advice"]
    text = vmferry("check", "--pki", host_pki if missing else host_pki / "none")
    assert text.exit_code == 1 and "Guests cannot be moved" in text.stdout


# ---- pki ----


def test_pki_makes_what_an_agent_needs(tmp_path):
    vmferry("pki", "init", "--dir", tmp_path / "ca").require()
    again = vmferry("pki", "init", "--dir", tmp_path / "ca")
    assert again.exit_code == 1 and "exists already" in error_text(again)
    vmferry("pki", "issue", "hostA", "--dir", tmp_path / "ca", "--out", tmp_path / "a").require()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"ca.crt", "host.crt", "host.key"}
    assert (tmp_path / "a/host.key").stat().st_mode & 0o077 == 0
    no_ca = vmferry("pki", "issue", "hostA", "--dir", tmp_path / "none")
    assert no_ca.exit_code == 1 and "vmferry pki init" in error_text(no_ca)


def test_pki_issues_for_more_names(tmp_path):
    vmferry("pki", "init", "--dir", tmp_path / "ca").require()
    text = vmferry("pki", "issue", "hostB", "b.example.org", "10.0.0.2", "fd00::2",
                   "--dir", tmp_path / "ca").require().stdout
    assert "hostB, b.example.org, 10.0.0.2, fd00::2" in text
    certificate = subprocess.run(["openssl", "x509", "-noout", "-text", "-in",
                                  tmp_path / "ca/hostB/host.crt"], capture_output=True, text=True)
    for name in ("DNS:hostB", "DNS:b.example.org", "IP Address:10.0.0.2", "IP Address:FD00:"):
        assert name in certificate.stdout
    wrong = vmferry("pki", "issue", "hostC", "not a name", "--dir", tmp_path / "ca")
    assert wrong.exit_code == 1 and "neither a host name nor an IP" in error_text(wrong)
