"""README.md is true: its commands are run, word for word, and what it names is there."""

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fresh_host import make_hosts
from vmferry_lab import REPOSITORY, vmferry_program, wait_until

TEXT = (REPOSITORY / "README.md").read_text()
OURS = ["/etc/vmferry", "/run/vmferry", "/var/lib/vmferry", "/srv/vm"]


# ---- the commands ----

@dataclass
class Step:
    """A line behind a prompt, and what stands below it."""

    prompt: str
    command: str
    output: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        told = re.search(r"# exit code (\d)", self.command)
        return int(told[1]) if told else 0

    def accepts(self, output: str) -> bool:
        """Whether the sample is what was printed: "…" is any text, any number is as good."""
        if not self.output:
            return True
        pattern = "".join("(.*\n)*?" if line == "…" else f"{pattern_of(line)}\n"
                          for line in self.output)
        return re.fullmatch(pattern, output) is not None


WILD = {"…": ".*", "number": r"\d+(\.\d+)?", "blanks": " +"}


def pattern_of(line: str) -> str:
    tokens = re.finditer(r"(?P<number>(?<![\w.])\d+(\.\d+)?)|(?P<blanks> +)|.", line)
    return "".join(WILD.get(token.lastgroup or token[0], re.escape(token[0])) for token in tokens)


def steps() -> list[Step]:
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", TEXT, re.M | re.S):
        for line in block.splitlines():
            prompt = re.match(r"(\w*[$#]) (.*)", line)
            if prompt:
                found.append(Step(prompt[1], prompt[2]))
            else:
                found[-1].output.append(line)
    return found


def run(hosts, step: Step) -> None:
    host = hosts[step.prompt.rstrip("#")]
    if step.command.endswith("&"):
        host.start(step.command.rstrip("& "))
        wait_until(lambda: host.vmferry("status").exit_code == 0, f"agent on {host.name}")
        return
    result = host.sh(step.command, together=True)
    assert result.exit_code == step.exit_code, f"{step.command}: {result.stdout}"
    assert step.accepts(result.stdout), f"{step.command} printed:\n{result.stdout}"


def test_commands(lab):
    """From an empty host to a guest that has been there and back."""
    before = [Path(path).exists() for path in OURS]
    hosts = make_hosts(lab)
    todo = [step for step in steps() if step.prompt.rstrip("#") in hosts]
    assert len(todo) >= 20  # they have been found at all
    for step in todo:
        run(hosts, step)
    assert [Path(path).exists() for path in OURS] == before


@pytest.mark.parametrize("sample, output, accepted", [
    ("web1 runs as process 4711.", "web1 runs as process 12.\n", True),
    ("web1 runs as process 4711.", "web2 runs as process 12.\n", False),
    ("  total time  1.1 s", "  total time    950 s\n", True),
    ("  total time  1.1 s", "  total time  1.1 min\n", False),
    ("a …", "a b c\n", True), ("a …", "b c\n", False), ("a", "a\nb\n", False),
    ("…\nb", "a\na\nb\n", True), ("…\nb", "a\na\n", False), ("a\n…", "a\nb\nc\n", True),
])
def test_samples(sample, output, accepted):
    assert Step("#", "x", sample.split("\n")).accepts(output) is accepted


# ---- what it names ----

def quoted() -> list[str]:
    """All that stands in backquotes."""
    return [" ".join(text.split()) for text in re.findall(r"(?<!`)`([^`]+)`(?!`)", TEXT)]


def options_of(verb: str) -> set[str]:
    text = subprocess.run([vmferry_program(), verb, "--help"], capture_output=True, text=True).stdout
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def verbs() -> list[str]:
    text = subprocess.run([vmferry_program(), "--help"], capture_output=True, text=True).stdout
    return re.findall(r"^  ([a-z]+) ", text, re.M)


def test_verbs_and_options():
    commands = [words.split() for words in quoted() if words.startswith("vmferry ")]
    assert len(commands) >= 10
    for _, verb, *rest in commands:
        assert verb in verbs(), verb
        own = " ".join(rest).partition(" -- ")[0]
        named = set(re.findall(r"(?<![\w-])--[a-z-]+[a-z]", own))
        assert named <= options_of(verb), (verb, named - options_of(verb))
    known = set().union(*(options_of(verb) for verb in verbs()))
    alone = {words.split()[0] for words in quoted() if re.match(r"--[a-z]", words)}
    assert len(alone) >= 5 and alone <= known, alone - known


def test_targets_of_make():
    named = set(re.findall(r"(?:^[#$] |`)make ([a-z-]+)", TEXT, re.M))
    rules = re.findall(r"^([a-z -]+):", (REPOSITORY / "Makefile").read_text(), re.M)
    there = {target for rule in rules for target in rule.split()}
    assert {"demo", "install", "uninstall", "check"} <= named <= there, named - there


def test_links():
    headings = {"#" + re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
                for title in re.findall(r"^#+ (.*)", TEXT, re.M)}
    links = set(re.findall(r"\]\(([^)]+)\)", TEXT))
    assert len(links) >= 4
    for link in links:
        assert link in headings or (REPOSITORY / link).is_file(), link


def test_man_pages():
    named = re.findall(r"`man ([a-z.-]+)`|`([a-z.-]+)\(\d\)`", TEXT)
    assert named
    for page in map("".join, named):
        assert list((REPOSITORY / "man").glob(f"{page}.[158]")), page


def test_what_is_installed():
    """The table of what `make install` puts where."""
    build = Path(vmferry_program()).parents[2]
    done = subprocess.run(["meson", "introspect", "--installed", str(build)], capture_output=True,
                          text=True, check=True)
    installed = json.loads(done.stdout).values()
    rows = re.findall(r"^\| (.*) \| `(/usr/local/[^`]*)` \|$", TEXT, re.M)
    assert len(rows) == 7
    for what, where in rows:
        there = [path for path in installed if path.startswith(f"{where}/")]
        assert there, where
        for name in re.findall(r"`([a-z.-]+)(?:\(5\))?`", what):
            assert any(Path(path).name.startswith(name) for path in there), (name, there)
