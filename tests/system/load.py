"""What an agent says its host and guests use, look by look."""

import json
import os
import socket
import subprocess
import threading
from pathlib import Path

from vmferry_lab import wait_until


def load(agent) -> dict:
    """The agent's last look."""
    return agent.vmferry("top", "--once", "--json").require().json


def get(agent, path: str) -> str:
    """What the agent's API answers."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(agent.socket))
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        with client.makefile() as answer:
            head, _, body = answer.read().partition("\n\n")
    assert " 200 " in head.splitlines()[0], head
    return body


def next_look(agent, after: dict, timeout: float = 15) -> dict:
    """The first look after that one."""
    def newer():
        now = load(agent)
        return now if now["time_ms"] > after["time_ms"] else None
    return wait_until(newer, "the agent looks again", timeout)


class Looks:
    """All looks from its making on, none left out, so that rates add up to what was counted.  A thread takes
    them as they come, until close()."""

    def __init__(self, agent):
        self.agent = agent
        self.looks: list[dict] = []
        self.last = json.loads(get(agent, "/v1/load"))
        self._problem: Exception | None = None
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._take_all)
        self._thread.start()

    def _take_all(self) -> None:
        try:
            while not self._ends.wait(0.2):
                now = json.loads(get(self.agent, "/v1/load"))
                if now["time_ms"] == self.last["time_ms"]:
                    continue
                ms = now["time_ms"] - self.last["time_ms"]
                assert abs(ms - now["interval_ms"]) <= 2, f"a look was missed: {ms} ms"
                check_sane(now)
                self.last = now
                self.looks.append(now)
        except Exception as problem:  # noqa: BLE001
            self._problem = problem

    def take(self, count: int = 1) -> None:
        """Waits for so many more; the first one may have begun before this was called."""
        wanted = len(self.looks) + count
        wait_until(lambda: self._problem or len(self.looks) >= wanted, "the agent looks", 60)
        if self._problem:
            raise self._problem

    def begin(self) -> None:
        """Forgets those that were taken, and that which is under way."""
        self.take(1)
        self.looks = []

    def close(self) -> None:
        self._ends.set()
        self._thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def sum(self, figure) -> float:
        """Of a rate, which figure(look) gives, over all of them: how much it was in all."""
        return sum(figure(look) * look["interval_ms"] / 1e3 for look in self.looks)

    def mean(self, figure) -> float:
        return self.sum(figure) / sum(look["interval_ms"] / 1e3 for look in self.looks)


def guest_of(look: dict, guest) -> dict:
    [entry] = [entry for entry in look["guests"] if entry["name"] == guest.name]
    return entry


def figures_in(value, path: str = ""):
    """(path, number) of each number below a value of JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from figures_in(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from figures_in(inner, f"{path}[{number}]")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def check_sane(look: dict) -> None:
    """No figure that cannot be."""
    cpus = os.cpu_count()
    for path, value in figures_in(look):
        assert value >= 0, f"{path} is {value}"
        if path.endswith("cpu_used"):
            assert value <= cpus * 1.25, f"{path} is {value}"
        if path.endswith((".some", ".full", "cpu_wait")):
            assert value <= 1, f"{path} is {value}"
        if path.endswith("_per_s") and "speed" not in path:
            assert value < 1e11, f"{path} is {value}"


def cpu_seconds(pid: int) -> float:
    """What a process has used, by its own file."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def pin(pid: int, cpu: int) -> None:
    """All threads of a process, to one CPU."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})


def hurry(pid: int) -> None:
    """All threads of a process go before those of others.  (A nice value counts within its session only.)"""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(1))


def mount_groups(lab) -> Path:
    """The control groups of version 2, where the lab's hosts see them too; gone with the lab."""
    folder = lab.directory / "groups"
    folder.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", folder], check=True)
    lab.at_close(lambda: subprocess.run(["umount", folder], check=True))
    return folder


def make_group(lab, root: Path, name: str) -> Path:
    """A group in there; whatever is left in it when the lab closes goes back to the one above."""
    group = root / f"{lab.name}-{name}"
    group.mkdir()

    def remove():
        for pid in (group / "cgroup.procs").read_text().split():
            (root / "cgroup.procs").write_text(pid)
        group.rmdir()
    lab.at_close(remove)
    return group
