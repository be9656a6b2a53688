"""The command line as people and scripts meet it, with no agent and no guest."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from findings import error_text
from vmferry_lab import REPOSITORY, Result, vmferry_program

VERBS = ["agent", "pki", "run", "adopt", "list", "status", "stop", "events", "migrate", "cancel",
         "resolve", "check"]


def vmferry(*words) -> Result:
    done = subprocess.run([vmferry_program(), *map(str, words)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=30)
    return Result(done.returncode, done.stdout, done.stderr)


def options_of(verb: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", vmferry(verb, "--help").stdout))


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


@pytest.mark.parametrize("verb", VERBS)
def test_man_page_of_a_verb_names_its_options(verb):
    [page] = Path(REPOSITORY / "man").glob(f"vmferry-{verb}.[18]")
    text = page.read_text()
    for option in options_of(verb) - {"--help", "--help-all", "--list-faults"}:
        assert re.search(rf"^\.(It|Op) .*{option[1:]}\b", text, re.M), \
            f"{option} is not in {page.name}"


def test_completion_knows_every_verb():
    text = "".join(path.read_text() for path in (REPOSITORY / "completions").iterdir())
    assert all(re.search(rf"\b{verb}\b", text) for verb in VERBS)


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
    ["agent", "now"],
], ids=lambda words: "-".join(words) or "nothing")
def test_wrong_usage(words):
    result = vmferry(*words)
    assert result.exit_code == 2, result
    assert result.stdout == "" and "--help" in result.stderr


def test_refusals_say_what_is_possible():
    for words, possible in [
            (["--max-downtime", "0"], "from 1 ms to 1 h"), (["--deadline", "3d"], "500ms, 2s, 1m"),
            (["--max-downtime", "2s", "--downtime-cap", "1s"], "from 2000 ms"),
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
    ["adopt", "web1", "--pid", "1"], ["resolve", "web1", "--keep", "here"],
], ids=lambda words: words[0])
def test_without_an_agent(words, tmp_path):
    result = vmferry(words[0], "--socket", tmp_path / "none.sock", "--json", *words[1:])
    assert result.exit_code == 1
    text = error_text(result)
    assert "agent" in text and "none.sock" in text
    assert result.json["error"]


def test_check_says_what_works():
    result = vmferry("check", "--json")
    answer = result.json
    assert result.exit_code == (0 if answer["moves_possible"] else 1)
    assert answer["moves_possible"] is True
    topics = json.dumps([finding["topic"] for finding in answer["findings"]])
    for topic in ("userfaultfd", "PAGEMAP_SCAN", "ptrace", "pidfd_getfd", "QEMU"):
        assert topic.lower() in topics.lower(), topics
    assert vmferry("check").stdout.strip()


def test_pki_makes_what_an_agent_needs(tmp_path):
    vmferry("pki", "init", "--dir", tmp_path / "ca").require()
    again = vmferry("pki", "init", "--dir", tmp_path / "ca")
    assert again.exit_code == 1 and "exists already" in error_text(again)
    vmferry("pki", "issue", "hostA", "--dir", tmp_path / "ca", "--out", tmp_path / "a").require()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"ca.crt", "host.crt", "host.key"}
    assert (tmp_path / "a/host.key").stat().st_mode & 0o077 == 0
    no_ca = vmferry("pki", "issue", "hostA", "--dir", tmp_path / "none")
    assert no_ca.exit_code == 1 and "vmferry pki init" in error_text(no_ca)
