"""vmferry in the lab: its agents, its PKI, and commands as a host's user gives them."""

import json
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .cache import REPOSITORY
from .guest import Guest
from .lab import Host, Lab
from .process import LabError, Orphan, Process, is_alive

WAITING_TICKS = 3  # of 10 ms, that a vCPU thread takes to begin to wait


def vmferry_program() -> str:
    """VMFERRY, or the one in build/."""
    program = os.environ.get("VMFERRY") or str(REPOSITORY / "build/src/cli/vmferry")
    if not os.access(program, os.X_OK):
        raise LabError(f"{program} is not there: build it, or set VMFERRY")
    return program


class Pki:
    """A CA and a folder per host, made by `vmferry pki`.  Good for every lab:
    the hosts of all labs have the same names and addresses."""

    def __init__(self, directory: Path, hosts: dict[str, str]):
        """*hosts*: address by name."""
        self.directory = directory
        ca = directory / "ca"
        self._run("init", "--dir", ca)
        for name, address in hosts.items():
            self._run("issue", name, address, "--dir", ca, "--out", directory / name)

    def folder(self, host: str) -> Path:
        return self.directory / host

    def host(self, name: str, *names: str) -> Path:
        """The folder of one more host, whose certificate is for *names*, too; made when it is asked for."""
        if not self.folder(name).exists():
            self._run("issue", name, *names, "--dir", self.directory / "ca", "--out", self.folder(name))
        return self.folder(name)

    def engine(self, name: str) -> Path:
        """The folder of one who only uses the agents' API; made when it is asked for."""
        folder = self.directory / f"engine-{name}"
        if not folder.exists():
            self._run("engine", name, "--dir", self.directory / "ca", "--out", folder)
        return folder

    @staticmethod
    def _run(*arguments) -> None:
        done = subprocess.run([vmferry_program(), "pki", *map(str, arguments)],
                              capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise LabError(f"vmferry pki {' '.join(map(str, arguments))}: {done.stderr}")


@dataclass
class Result:
    """What a vmferry command came to."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self):
        """The object a command with --json ends with."""
        lines = self.stdout.strip().splitlines()
        if not lines:
            raise LabError(f"no JSON on stdout; stderr: {self.stderr}")
        try:
            return json.loads(lines[-1])
        except ValueError:
            return json.loads(self.stdout)

    def require(self) -> "Result":
        """Itself; LabError where the exit code is not 0."""
        if self.exit_code:
            raise LabError(f"exit code {self.exit_code}\n{self.stdout}{self.stderr}")
        return self


class Command:
    """A vmferry command under way."""

    def __init__(self, popen: subprocess.Popen):
        self.popen = popen

    def finish(self, timeout: float = 120) -> Result:
        try:
            out, err = self.popen.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            out, err = self.popen.communicate()
            raise LabError(f"{self.popen.args} took longer than {timeout} s\n{out}{err}") from None
        return Result(self.popen.returncode, out or "", err or "")


class Agent:
    """A host's agent; start() it.  Its files lie in the host's folder.

    Paths in the other hosts' folders become the same in this one, by rules in
    its configuration, so that a guest may have files "local to its host".
    """

    def __init__(self, lab: Lab, host: Host, pki: Path | None, settings: dict | None = None,
                 rules: dict[str, str] | None = None, program: str | None = None):
        """*pki* None: --insecure.  *settings* and *rules*: more of agent.conf's
        [agent] and [map]; a setting of None leaves a default out.  What [api] is to say goes into
        self.api."""
        self.lab = lab
        self.host = host
        self.program = program or vmferry_program()
        self.socket = host.path("agent.sock")
        self.config = host.path("agent.conf")
        self.process: Process | None = None
        self.wrapper: list = []  # words in front of its command line
        self.settings = {
            "listen": host.ip,
            "socket": self.socket,
            "state-dir": host.path("state"),
            "runtime-dir": host.path("run"),
            **({"pki": pki} if pki else {"insecure": "true"}),
            "protect-again": "0",
            "retry-for": "0",  # a connection that breaks is the end, unless a test says otherwise
            **(settings or {}),
        }
        self.rules = {f"folder-of-{other.name}": f"{other.directory} => {host.directory}"
                      for other in lab.hosts if other is not host}
        self.rules.update(rules or {})
        self.metrics_root: Path | None = None  # a control group that is its host, for its figures
        self.api: dict[str, str] = {}

    # ---- the process ----

    @property
    def address(self) -> str:
        """What a peer calls it."""
        return self.host.ip

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self, env: dict | None = None) -> "Agent":
        """Starts it and waits until it answers.  *env*: more environment."""
        self._write_config()
        for name in ("state", "run"):
            self.host.path(name).mkdir(exist_ok=True)
        notify = self.host.path("agent.notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            notify.unlink(missing_ok=True)
            ready.bind(str(notify))
            ready.settimeout(0.05)
            self.process = self.host.start(
                [*self.wrapper, self.program, "agent", "--config", self.config], "agent",
                env={**os.environ, "NOTIFY_SOCKET": str(notify), **(env or {})})
            self.process.require(lambda: _says_ready(ready), f"agent on {self.host.name} starts")
        return self

    def stop(self) -> int:
        return self.process.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()

    def freeze(self) -> None:
        self.process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.signal(signal.SIGCONT)

    def log(self) -> str:
        return self.process.output()

    def _write_config(self) -> None:
        lines = ["[agent]"]
        lines += [f"{key} = {value}" for key, value in self.settings.items() if value is not None]
        lines += ["[metrics]", f"root = {self.metrics_root}"] if self.metrics_root else []
        if self.api:
            lines += ["[api]", *(f"{key} = {value}" for key, value in self.api.items())]
        lines += ["[map]", *(f"{name} = {rule}" for name, rule in self.rules.items())]
        self.config.write_text("\n".join(lines) + "\n")

    # ---- commands, as this host's user ----

    def begin(self, *arguments, output=subprocess.PIPE) -> Command:
        """Starts a vmferry command on this host.  *output* None: on our terminal."""
        env = {**os.environ, "VMFERRY_SOCKET": str(self.socket)}
        argv = self.host.namespace.wrap([self.program, *arguments])
        return Command(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output,
                                        stderr=output, text=True, env=env))

    def vmferry(self, *arguments, timeout: float = 120) -> Result:
        """Runs a vmferry command to its end; never raises for its exit code."""
        return self.begin(*arguments).finish(timeout)

    def run(self, guest: Guest, *, wait: bool = True) -> None:
        """`vmferry run`; waits until the guest's workload serves."""
        self.vmferry("run", guest.name, "--", *guest.command).require()
        if wait and not self._boots(guest):
            self.vmferry("stop", guest.name).require()
            self.vmferry("run", guest.name, "--", *guest.command).require()
            guest.wait_ready()

    @staticmethod
    def _boots(guest: Guest) -> bool:
        """False where its kernel has stalled: with several CPUs, emulated on a busy machine, one in
        some hundreds does, before it has done anything."""
        try:
            guest.wait_ready()
        except LabError:
            if "detected stalls" not in guest.console_text():
                raise
            return False
        return True

    def adopt(self, guest: Guest, process: Orphan) -> None:
        """`vmferry adopt` of a guest that guest.start() began on this host."""
        self.vmferry("adopt", guest.name, "--pid", process.pid).require()

    def begin_migrate(self, guest: Guest, to, *options) -> Command:
        """`vmferry migrate --json`; *to*: an Agent or an address."""
        return self.begin("migrate", guest.name, getattr(to, "address", to), "--json", *options)

    def migrate(self, guest: Guest, to, *options, timeout: float = 120) -> Result:
        return self.begin_migrate(guest, to, *options).finish(timeout)

    def status(self, guest: Guest) -> dict:
        return self.vmferry("status", guest.name, "--json").require().json

    def guest_names(self) -> list[str]:
        listing = self.vmferry("list", "--json").require().json
        guests = listing["guests"] if isinstance(listing, dict) else listing
        return [entry["name"] for entry in guests]

    def events(self, kind: str | None = None) -> list[dict]:
        """What `vmferry events` knows, oldest first; only those of one type."""
        lines = self.vmferry("events", "--json").require().stdout.splitlines()
        events = [json.loads(line) for line in lines]
        return [event for event in events if kind in (None, event["type"])]

    def guest_pid(self, guest: Guest) -> int:
        return self.status(guest)["pid"]


def _says_ready(notify: socket.socket) -> bool:
    """Whether sd_notify(3) has told so."""
    try:
        return b"READY=1" in notify.recv(4096)
    except TimeoutError:
        return False


def qemu_pids(host: Host, guest: Guest) -> list[int]:
    """All QEMU processes of this guest on a host, whoever started them."""
    return [pid for pid in host.namespace.pids() if is_alive(pid) and _runs(pid, guest)]


def run_pids(host: Host, guest: Guest) -> list[int]:
    """Those whose vCPUs have run: not one that waits, incoming, as a standby's does."""
    return [pid for pid in qemu_pids(host, guest) if _vcpu_ticks(pid) > WAITING_TICKS]


def _vcpu_ticks(pid: int) -> int:
    """Of the thread that has run for longest, but the first one: that starts QEMU."""
    ticks = [0]
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            words = (task / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if task.name != str(pid):
            ticks.append(int(words[11]) + int(words[12]))
    return max(ticks)


def _runs(pid: int, guest: Guest) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return "qemu-system" in words[0] and guest.name in words
