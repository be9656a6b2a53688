"""The lab: two hosts, a client outside, and the switches between them.

    hostA eth0 ──┐ switch "link"  ┌── eth0 hostB      migration traffic; shaped, cut
                 └────────────────┘
    guest ─ tap ─ bridge in host ─ lan0 ─ switch "lan" ─ client      the guests' network

With a WanLink the switch "link" is two, with a relay between them (wan.py).

Everything is in namespaces of the lab's own, whose names carry the owner's
pid, so that any number of labs run side by side and clean() can tell what an
owner that died has left.
"""

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from .guest import Guest
from .links import Switch
from .netns import Namespace, namespace_names, remove_namespace
from .process import Orphan, Process, start_time
from .wan import WanLink, WanSwitch

PREFIX = "vmlab"

_labs = itertools.count()


class Host:
    """One host: a namespace, a folder of its own, an address on the link."""

    def __init__(self, lab: "Lab", name: str, ip: str):
        self.lab = lab
        self.name = name
        self.ip = ip
        self.directory = lab.directory / name
        self.directory.mkdir(mode=0o755)
        self.namespace = Namespace(f"{lab.name}-{name}")
        lab.link.plug(name, self.namespace, "eth0")
        self.namespace.address("eth0", f"{ip}/24")
        self.namespace.bridge("guests")
        lab.lan.plug(name, self.namespace, "lan0")
        self.namespace.enslave("lan0", "guests")

    def add_tap(self, name: str, user: str | None = None) -> None:
        self.namespace.tap(name, "guests", user)

    def give_tap(self, name: str, user: str) -> None:
        """Makes it again as a tap that *user* may open."""
        self.namespace.ip("link", "del", "dev", name)
        self.add_tap(name, user)

    def start(self, argv, name: str, env: dict | None = None) -> Process:
        """Starts a program here; its output goes to NAME.log in the host's folder."""
        return Process(self.namespace.wrap(argv), self.directory / f"{name}.log", env)

    def start_orphan(self, argv, name: str, env: dict | None = None) -> Orphan:
        """The same for a program whose parent is init."""
        return Orphan(self.namespace.wrap(argv), self.directory / f"{name}.log", env)

    def run(self, argv, *, env: dict | None = None,
            timeout: float = 120) -> subprocess.CompletedProcess:
        """Runs a program here to its end; never raises for its exit code."""
        return subprocess.run(self.namespace.wrap(argv), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, env=env, timeout=timeout)

    def path(self, name: str) -> Path:
        return self.directory / name


class Lab:
    """Use it as a context manager, or call close().

    With a *wan* hostB is far away: whatever it sends and gets on the link goes through `lab.wan`.
    """

    def __init__(self, wan: WanLink | None = None):
        owner = os.getpid()
        self.name = f"{PREFIX}-{owner}-{start_time(owner)}-{next(_labs)}"
        self._cleanups = []
        self.directory = Path(tempfile.gettempdir()) / self.name
        self.directory.mkdir(mode=0o755)
        self.shared = self.directory / "shared"
        self.shared.mkdir()
        self._guest_numbers = itertools.count()
        try:
            self._build(wan)
        except BaseException:
            self.close()
            raise

    def _build(self, wan: WanLink | None) -> None:
        self.middle = Namespace(f"{self.name}-middle")
        self.link = WanSwitch(self.middle, "link", {"hostB"}) if wan else Switch(self.middle, "link")
        self.wan = self.link.join(self.directory, wan) if wan else None
        if self.wan:
            self.at_close(self.wan.close)
        self.lan = Switch(self.middle, "lan")
        self.host_a = Host(self, "hostA", "10.66.0.1")
        self.host_b = Host(self, "hostB", "10.66.0.2")
        self.hosts = [self.host_a, self.host_b]
        self.client = Namespace(f"{self.name}-client")
        self.lan.plug("client", self.client, "eth0")
        self.client.address("eth0", "10.77.0.1/24")

    def third_host(self) -> Host:
        """hostC, on the same switches; no guest has files there."""
        return Host(self, "hostC", "10.66.0.3")

    def guest(self, name: str = "web1", **options) -> Guest:
        """Describes a guest; nothing runs yet.

        machine         "pc", "q35", "microvm"
        memory_mb, vcpus, accel
        qemu            system_qemu() (default) or backports_qemu()
        disk_mb         size of a virtio disk on storage both hosts share; 0: none
        ide             that disk is an IDE disk
        card            False: no network card, so its console is all that is heard of it
        cpu             model of QEMU's
        vga, rng        devices; VGA is there by default except in microvm
        tpm             "tpm-tis" or "tpm-crb", with a swtpm on each host
        shared_memory   guest RAM as a shared memfd
        redis           with a Redis server: see Guest.redis_load()
        guest_agent     with Debian's qemu-guest-agent, and a port for it
        follow_card     what takes a network card's place gets its address
        arena_mb        memory the workload owns, writes and checks
        content         what all of that holds at first: "random", "text", "zero"
        pattern, order, pages_per_second, span_mb     what it writes: see Control.write()
        check           pages it checks a second, all the time (0: only on demand)
        disk_rate       blocks it writes to the disk a second
        disk_buffered   they go through its page cache (else around it)
        readers         of a second disk (see SlowImage), at a time; what they read is kept
        kernel_words, extra     more words for its kernel (also what lab/guest/noise.h has), for QEMU
        """
        return Guest(self, name, next(self._guest_numbers), **options)

    def logs(self) -> dict[str, str]:
        """The end of every log and console in the lab, by name."""
        found = [*self.directory.glob("*.log"), *self.directory.glob("*/*.log"),
                 *self.directory.glob("host*/run/**/*.log"), *self.shared.glob("*.console")]
        return {str(path.relative_to(self.directory)): path.read_text(errors="replace")[-4000:]
                for path in sorted(set(found))}

    def at_close(self, function) -> None:
        """Has function() called when the lab closes, last one first."""
        self._cleanups.append(function)

    def close(self) -> None:
        """Ends everything that runs in the lab and removes it."""
        for function in reversed(self._cleanups):
            function()
        self._cleanups.clear()
        _remove(self.name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _remove(lab_name: str) -> None:
    for name in namespace_names():
        if name.startswith(f"{lab_name}-"):
            remove_namespace(name)
    folder = Path(tempfile.gettempdir()) / lab_name
    _kill_in(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _kill_in(folder: Path) -> None:
    """What has a network namespace of its own (Bochs) runs in a folder of the lab."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if Path(os.readlink(link)).is_relative_to(folder):
                os.kill(int(link.parent.name), signal.SIGKILL)


def _lab_names() -> set[str]:
    """Names of all labs of which anything is left."""
    names = [*namespace_names(), *os.listdir(tempfile.gettempdir())]
    return {"-".join(name.split("-")[:4]) for name in names if name.startswith(f"{PREFIX}-")}


def clean() -> list[str]:
    """Removes what labs of dead owners have left; the names of these labs."""
    removed = []
    for name in sorted(_lab_names()):
        _, owner, started, _ = name.split("-")
        if start_time(int(owner)) != int(started):
            _remove(name)
            removed.append(name)
    return removed
