"""What the tests look at: the outcome of a move, and what it may leave behind."""

import os
from pathlib import Path

from vmferry_lab import LabError, qemu_pids

# A contract with users: keys may be added, never renamed (docs, man vmferry-migrate).
REPORT_KEYS = {"status", "mode", "reason", "total_ms", "downtime_ms", "wire_bytes", "ram_bytes",
               "rounds", "verified", "source", "destination", "error"}
ROUND_KEYS = {"pages", "dirty_bytes", "wire_bytes", "ms"}


# ---- what `vmferry migrate --json` says ----

def check_completed(result, *, verified=None, mode="precopy") -> dict:
    """The report of a move that must have worked."""
    assert result.exit_code == 0, f"{result.stdout}{result.stderr}"
    report = result.json
    check_report(report, mode)
    assert report["status"] == "completed" and report["error"] is None
    assert report["verified"] is verified
    assert report["wire_bytes"] > 0 and report["ram_bytes"] > 0
    assert report["rounds"] or mode == "postcopy"
    assert (report["postcopy"] is None) == (mode == "precopy")
    assert 0 < report["downtime_ms"] <= report["total_ms"]
    return report


def check_report(report: dict, mode="precopy") -> None:
    assert REPORT_KEYS <= report.keys(), REPORT_KEYS - report.keys()
    assert report["mode"] == mode
    for entry in report["rounds"]:
        assert ROUND_KEYS <= entry.keys()


def error_text(result) -> str:
    """The one error of a command, which must be one clear line (a hint may follow)."""
    errors = [line for line in result.stderr.splitlines() if line.startswith("vmferry")]
    assert len(errors) <= 1, f"more than one error: {result.stderr}"
    answer = result.json if result.stdout.strip() else {}
    error = answer.get("error")
    text = error["message"] if isinstance(error, dict) else error or "".join(errors)
    assert text and "\n" not in text.strip(), f"no clear error: {text!r}"
    return text


def check_failed(result, *words, exit_code=1, status="failed") -> str:
    """The error text of a command that must have failed, with all of *words* in it."""
    text = error_text(result)
    assert result.exit_code == exit_code, f"{result.exit_code}: {text}"
    for word in words:
        assert word.lower() in text.lower(), f"{word!r} is not in: {text}"
    if result.stdout.strip() and "status" in result.json:
        check_report(result.json)
        assert result.json["status"] == status
        assert bool(result.json.get("in_doubt")) == (exit_code == 3)
    return text


# ---- what may be left ----

def traces_in(pid: int) -> list[str]:
    """What of a move is still to be seen in a QEMU: nothing, hopefully."""
    return [*_userfaultfds(pid), *_tracked_ranges(pid), *_tracers(pid)]


def _userfaultfds(pid: int) -> list[str]:
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(fd)
        except OSError:
            continue
        if "userfaultfd" in target:
            found.append(f"fd {fd.name}: {target}")
    return found


def _tracked_ranges(pid: int) -> list[str]:
    found, mapping = [], ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if not line.startswith("VmFlags:"):
            mapping = line if "-" in line.split()[0] else mapping
        elif {"uw", "um"} & set(line.split()):
            found.append(f"tracked: {mapping}")
    return found


def _tracers(pid: int) -> list[str]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        if fields["TracerPid"].strip() != "0":
            found.append(f"thread {task.name} is traced by {fields['TracerPid'].strip()}")
        if fields["State"].split()[0] in "Tt":
            found.append(f"thread {task.name} is stopped")
    return found


def strangers_on(agent, *guests) -> list[str]:
    """Processes on an agent's host that are neither the agent nor QEMUs of *guests*."""
    known = {agent.process.pid, *(pid for guest in guests for pid in qemu_pids(agent.host, guest))}
    found = {pid: _command(pid) for pid in agent.host.namespace.pids() if pid not in known}
    return [f"{pid}: {' '.join(words)[:200]}" for pid, words in found.items()
            if words[0] and not _is_users_command(words) and not _is_tpm(words)]


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]  # it has ended


def _is_users_command(words: list[str]) -> bool:
    """`vmferry events --follow` and the like."""
    return words[0].endswith("vmferry") and words[1] != "agent"


def _is_tpm(words: list[str]) -> bool:
    """Of a guest that has one on each host (lab/vmferry_lab/swtpm.py)."""
    return "swtpm socket " in " ".join(words)


def left_files(agent) -> list[str]:
    """Files of guests that the agent does not have (any more)."""
    names = agent.guest_names()
    directories = sorted(path.name for path in agent.host.path("run").iterdir())
    records = agent.host.path("state") / "guests"
    found = [path.name for path in records.glob("*.json") if path.stem not in names]
    found += [f"made-files of {path.name}"
              for path in (agent.host.path("state") / "made-files").glob("*")]
    return found + (directories if len(directories) > len(names) else [])


def require_nothing(findings: list[str], where: str) -> bool:
    """True; LabError with what was found otherwise."""
    if findings:
        raise LabError(f"left on {where}: {findings}")
    return True
