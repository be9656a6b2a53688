"""Processes in the lab: started, waited for by events, ended for sure."""

import os
import select
import signal
import subprocess
import time
from pathlib import Path


class LabError(Exception):
    """Something in the lab did not come about; the text says what and why."""


class GuestHarmed(LabError):
    """A guest is lost, doubled or not what it was: never a matter of a slow machine."""


def wait_until(condition, what: str, timeout: float = 30, interval: float = 0.02):
    """The first true value of condition(); LabError after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout} s")
        time.sleep(interval)


def start_time(pid: int) -> int | None:
    """When *pid* was started (clock ticks after boot); None when there is none or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(pid: int) -> bool:
    return start_time(pid) is not None


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory_bytes(pid: int) -> int:
    """Largest resident set so far (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise LabError(f"process {pid} has no VmHWM")


def wait_gone(pid: int, timeout: float = 30) -> None:
    """Waits until a process, child or not, has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([fd], [], [], timeout)[0]:
            raise LabError(f"process {pid} did not end within {timeout} s")
    finally:
        os.close(fd)


class Orphan:
    """A process whose parent is init, as one that was started long ago.

    Its output is in a file.  How it ended cannot be known.
    """

    def __init__(self, argv, log: Path, env: dict | None = None):
        self.argv = [str(word) for word in argv]
        self.log = log
        # The shell ends at once and leaves it behind.
        script = '"$@" </dev/null >>"$LAB_LOG" 2>&1 & echo $!'
        done = subprocess.run(["/bin/sh", "-c", script, "sh", *self.argv], check=True, text=True,
                              stdout=subprocess.PIPE, start_new_session=True,
                              env={**(env or os.environ), "LAB_LOG": str(log)})
        self.pid = int(done.stdout)

    @property
    def running(self) -> bool:
        return is_alive(self.pid)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def require(self, condition, what: str, timeout: float = 30):
        """Like wait_until(), but an early end of the process is an error at once."""
        def check():
            value = condition()
            if not value and not self.running:
                raise LabError(f"{what}: {self.argv[0]} has ended:\n" + self.output()[-2000:])
            return value
        return wait_until(check, what, timeout)

    def wait(self, timeout: float = 30) -> None:
        wait_gone(self.pid, timeout)

    def signal(self, number: int) -> None:
        if self.running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()


class Process:
    """A child with its output in a file; leaves with the lab."""

    def __init__(self, argv, log: Path, env: dict | None = None):
        self.argv = [str(word) for word in argv]
        self.log = log
        with open(log, "ab") as out:
            self.popen = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=out,
                                          stderr=out, env=env, start_new_session=True)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def require(self, condition, what: str, timeout: float = 30):
        """Like wait_until(), but an early end of the process is an error at once."""
        def check():
            value = condition()
            if not value and not self.running:
                raise LabError(f"{what}: {self.argv[0]} ended with {self.popen.returncode}:\n"
                               + self.output()[-2000:])
            return value
        return wait_until(check, what, timeout)

    def wait(self, timeout: float = 30) -> int:
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.argv[0]} did not end within {timeout} s") from None

    def signal(self, number: int) -> None:
        if self.running:
            self.popen.send_signal(number)

    def stop(self, timeout: float = 10) -> int:
        """SIGTERM, and SIGKILL when that does not help in time."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except LabError:
            return self.kill()

    def kill(self) -> int:
        self.signal(signal.SIGKILL)
        return self.wait()
