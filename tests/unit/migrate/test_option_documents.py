#!/usr/bin/env python3
"""Man pages, docs/api.md and docs/agent.conf.example have the options of a move that the
table of src/migrate/options.c has: all of them, none besides, with their choices, limits and
defaults.

Arguments: the program list_options, the program vmferry, the folder of the sources.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LISTER, VMFERRY, ROOT = sys.argv[1], sys.argv[2], Path(sys.argv[3])
# Described in vmferry(1).
COMMON = {"socket", "host", "pki"}
problems: list[str] = []


def output(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


def read(name: str) -> str:
    return (ROOT / name).read_text()


def compare(where: str, has: list, wanted: list) -> None:
    problems.extend(f"{where}: {item} is missing" for item in wanted if item not in has)
    problems.extend(f"{where}: {item} is not an option" for item in has if item not in wanted)
    problems.extend(f"{where}: {item} stands twice" for item in set(has) if has.count(item) > 1)


def need(where: str, text: str, parts: list[str]) -> None:
    problems.extend(f"{where}: does not say {part}" for part in parts if part not in text)


def items(text: str, macro: str) -> dict[str, str]:
    """What stands behind each `.It MACRO NAME` line of the outer list, by the whole line's rest."""
    found, depth, name = {}, 0, None
    for line in text.splitlines():
        if line.startswith(".El"):
            depth -= 1
        match = re.fullmatch(rf"\.It {macro}(.*)", line)
        if match and depth == 1:
            name = match[1].strip()
            found[name] = ""
        elif name is not None:
            found[name] += line + "\n"
        if line.startswith(".Bl"):
            depth += 1
    return found


def section(text: str, first: str, last: str) -> str:
    return text.partition(first)[2].partition(last)[0]


options = json.loads(output(LISTER))
names = {option["name"]: option for option in options}
# What the command itself has besides the table: --progress, --json, --socket and the like.
written = dict(re.findall(r"^ +(?:-\w, )?--([a-z-]+)(?:=(\S+))?", output(VMFERRY, "migrate", "--help"),
                          re.MULTILINE))
del written["help"]
# "a|b|c" in the help, a word for it in the man page.
written.update({name: option["argument"] for name, option in names.items() if option["choices"]})
compare("vmferry migrate --help", [name for name in written if name in names], list(names))


def check_migrate_page() -> None:
    page = read("man/vmferry-migrate.1")
    wanted = [f"{name} Ar {what.lower()}" if what else name for name, what in written.items()]
    compare("vmferry-migrate.1, synopsis", re.findall(r"^\.Op Fl -(.+)$", page, re.MULTILINE), wanted)
    described = items(section(page, ".Sh DESCRIPTION", ".Ss"), "Fl -")
    compare("vmferry-migrate.1", list(described),
            [name for name in wanted if name.split()[0] not in COMMON])
    for line, text in described.items():
        option = names.get(line.split()[0], {"kind": "", "choices": []})
        where = f"vmferry-migrate.1, --{line}"
        need(where, text, [f".Ql {choice}" for choice in option["choices"]])
        if option["kind"] == "count":
            need(where, text, [f"{option['least']} to {option['limit']}"])


def check_agent_files() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write("[agent]\nfrob = 1\n")
        file.flush()
        text = output(VMFERRY, "agent", "--config", file.name)
    keys = re.search(r"there are (.+)", text)[1].split(", ")
    settable = {option["file_key"]: option for option in options if option["file_key"]}
    compare("the agent's keys", [key for key in keys if key in settable], list(settable))
    described = items(section(read("man/vmferry-agent.conf.5"), ".Ss [agent]", ".Ss [api]"), "Cm ")
    compare("vmferry-agent.conf.5", list(described), keys)
    example = dict(re.findall(r"^#([a-z-]+) = (.*)$",
                              section(read("docs/agent.conf.example"), "[agent]", "\n[api]"), re.MULTILINE))
    compare("agent.conf.example", list(example), keys)
    for key, option in settable.items():
        where = f"vmferry-agent.conf.5, {key}"
        text = described.get(key, "")
        need(where, text, [f".Ql {choice}" for choice in option["choices"]])
        need(where, text, [f"Default:\n.Ql {option['default']} ."])
        if example.get(key) != option["default"]:
            problems.append(f"agent.conf.example: {key} is {option['default']} by default")


def check_api() -> None:
    text = section(read("docs/api.md"), "### POST /v1/guests/NAME/migrate", "If the move cannot begin")
    keys = [option["api_key"] for option in options]
    example = re.search(r"^    (\{.*?\})\n\n", text, re.DOTALL | re.MULTILINE)[1]
    compare("api.md, example", list(json.loads(example)), ["destination", "disk_modes", *keys])
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    compare("api.md", list(rows), [*keys, "disk_modes"])
    for option in options:
        row = rows.get(option["api_key"], "")
        need(f"api.md, {option['api_key']}", row, [f"`{choice}`" for choice in option["choices"]])
        if option["kind"] in ("duration", "count", "size"):
            need(f"api.md, {option['api_key']}", row, [f"{option['least']} to {option['limit']}"])


def check_list() -> None:
    """What the shells' completion is made of."""
    verbs = {verb["verb"]: verb for verb in json.loads(output(VMFERRY, "help", "--json"))["verbs"]}
    values = {option["name"]: option["value"] for option in verbs["migrate"]["options"]}
    compare("vmferry help --json", list(values), list(written))
    for name, option in names.items():
        wanted = "|".join(option["choices"]) or option["argument"]
        if values.get(name) != wanted:
            problems.append(f"vmferry help --json: --{name} takes {values.get(name)}, not {wanted}")


check_migrate_page()
check_agent_files()
check_api()
check_list()
print("\n".join(problems))
sys.exit(bool(problems))
