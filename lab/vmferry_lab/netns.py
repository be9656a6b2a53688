"""Network namespaces, and the links, bridges and taps in them, by ip(8), bridge(8) and tc(8)."""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454ca
TAP_FLAGS = 0x5002  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR

_libc = ctypes.CDLL(None, use_errno=True)


def run(*argv) -> str:
    """Runs a command; an error carries its own words."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))}: {done.stderr.strip() or done.stdout}")
    return done.stdout


class Namespace:
    """One network namespace; exists from creation to remove()."""

    def __init__(self, name: str):
        self.name = name
        run("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments) -> str:
        return run("ip", "-n", self.name, *arguments)

    def wrap(self, argv) -> list[str]:
        """The command line that runs *argv* inside."""
        return ["ip", "netns", "exec", self.name, *map(str, argv)]

    def bridge(self, name: str) -> None:
        self.ip("link", "add", "name", name, "type", "bridge", "forward_delay", "0", "stp_state", "0")
        self.ip("link", "set", "dev", name, "up")

    def connect(self, name: str, other: "Namespace", other_name: str) -> None:
        """A veth pair between two namespaces, both ends up."""
        self.ip("link", "add", "name", name, "type", "veth",
                "peer", "name", other_name, "netns", other.name)
        self.ip("link", "set", "dev", name, "up")
        other.ip("link", "set", "dev", other_name, "up")

    def enslave(self, name: str, bridge: str) -> None:
        self.ip("link", "set", "dev", name, "master", bridge)

    def address(self, name: str, address: str) -> None:
        self.ip("addr", "add", address, "dev", name)

    def tap(self, name: str, bridge: str, user: str | None = None) -> None:
        self.ip("tuntap", "add", name, "mode", "tap", *(["user", user] if user else []))
        self.enslave(name, bridge)
        self.ip("link", "set", "dev", name, "up")

    def open_tap(self, name: str):
        """A tap device of this namespace, to be handed to a QEMU; it lasts as long as it is open."""
        def make():
            tap = open("/dev/net/tun", "r+b", buffering=0)
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_FLAGS))
            return tap

        return self._inside(make)

    def congestion_control(self, name: str) -> None:
        """What TCP connections from here on begin with, instead of this machine's default.

        "reno", or another one of this machine's net.ipv4.tcp_allowed_congestion_control.
        """
        run(*self.wrap(["sh", "-c", f"echo {name} >/proc/sys/net/ipv4/tcp_congestion_control"]))

    def lock_congestion_control(self, name: str) -> None:
        """The same, and programs cannot choose another one: of connections by the routes that are there."""
        for route in self.ip("route", "show").splitlines():
            self.ip("route", "replace", *route.split(), "congctl", "lock", name)

    def bytes_sent(self, name: str) -> int:
        return self._statistic(name, "tx_bytes")

    def bytes_received(self, name: str) -> int:
        return self._statistic(name, "rx_bytes")

    def _statistic(self, name: str, which: str) -> int:
        path = f"/sys/class/net/{name}/statistics/{which}"
        return int(run(*self.wrap(["cat", path])))

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM) -> socket.socket:
        """A socket that lives in this namespace, usable from anywhere."""
        return self._inside(lambda: socket.socket(family, kind))

    def open(self, path: str):
        """A file below /proc/thread-self/net, as it reads in this namespace; seek(0) renews it."""
        return self._inside(lambda: open(path, encoding="ascii"))

    def _inside(self, make):
        """What make() returns in a thread of this namespace."""
        result = []

        def run_there() -> None:
            with open(f"/run/netns/{self.name}") as handle:
                if _libc.setns(handle.fileno(), CLONE_NEWNET):
                    result.append(OSError(ctypes.get_errno(), "setns"))
                else:
                    result.append(make())

        thread = threading.Thread(target=run_there)  # its namespace ends with it
        thread.start()
        thread.join()
        if isinstance(result[0], OSError):
            raise result[0]
        return result[0]

    def pids(self) -> list[int]:
        return namespace_pids(self.name)

    def remove(self) -> None:
        remove_namespace(self.name)


def namespace_names() -> list[str]:
    folder = Path("/run/netns")
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def namespace_pids(name: str) -> list[int]:
    return [int(pid) for pid in run("ip", "netns", "pids", name).split()]


def remove_namespace(name: str) -> None:
    """Ends what still runs inside, then removes it."""
    deadline = time.monotonic() + 10
    while (pids := namespace_pids(name)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
    run("ip", "netns", "del", name)
