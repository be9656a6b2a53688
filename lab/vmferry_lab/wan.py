"""A long, slow, lossy link between hosts: what a WanLink asks for, and the relay that does it.

    hostA eth0 ─ switch "link" ─ tap wan-near ─ lab/link's relay ─ tap wan-far ─ bridge "far" ─ eth0 hostB

Who is beyond it is said by the lab (hostB). The taps have no offloads, so the kernel hands the relay
packets of the link's size with their check sums, whatever the hosts' cards are said to do.
"""

import json
import os
import socket
import threading
from dataclasses import dataclass, field, fields
from pathlib import Path

from .cache import REPOSITORY
from .links import Switch
from .netns import Namespace
from .process import LabError, Process, wait_until

TRACES = REPOSITORY / "lab" / "link" / "traces"
# The relay looks every 100 us, and later where the machine has no time for it.
TAP_QUEUE = 20000

FORWARD, BACKWARD = "forward", "backward"


@dataclass
class WanLink:
    """Settings in the words of lab/link/settings.h; None is what the relay has by itself.

    Of both directions, unless *forward* (from hostA to hostB) or *backward* say otherwise; times and
    rates as text ("50ms", "100mbit"), shares as text or numbers ("0.5%", 0.005). *trace* is a file,
    or the name of one in lab/link/traces. *mtu* leaves the hosts' interfaces as they are.
    """

    rate: str | None = None
    trace: str | Path | None = None
    delay: str | None = None
    jitter: str | None = None
    loss: str | float | None = None
    burst: float | None = None
    reorder: str | float | None = None
    reorder_by: str | None = None
    duplicate: str | float | None = None
    queue: str | int | None = None
    queue_time: str | None = None
    mtu: int | None = None
    frag_needed: bool | None = None
    break_: str | None = None
    break_after: str | None = None
    break_every: str | None = None
    seed: int = 1
    forward: dict = field(default_factory=dict)
    backward: dict = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What the relay is told at its start."""
        both = {item.name: getattr(self, item.name) for item in fields(self)
                if item.name not in ("seed", FORWARD, BACKWARD)}
        lines = [("", both), (FORWARD, self.forward), (BACKWARD, self.backward)]
        return [f"{way} {words}" for way, settings in lines if (words := in_words(settings))]


def in_words(settings: dict) -> str:
    """Python's names and values as words of an order; what is None is left out."""
    words = []
    for name, value in settings.items():
        if value is None:
            continue
        if name == "trace":
            value = trace_path(value)
        elif isinstance(value, bool):
            value = "on" if value else "off"
        elif isinstance(value, float):
            value = f"{value:.12f}"
        words += [name.rstrip("_").replace("_", "-"), str(value)]
    return " ".join(words)


def trace_path(trace) -> Path:
    """A file, or the name of one that is kept with the lab."""
    kept = TRACES / f"{trace}.trace"
    path = kept if kept.exists() else Path(trace).absolute()
    if any(char.isspace() for char in str(path)):
        raise LabError(f"the relay cannot be told of a trace with a blank in its name: {path}")
    return path


def relay_program() -> Path:
    return Path(os.environ.get("VMFERRY_LINK_RELAY", REPOSITORY / "build/lab/link/link_relay"))


class Wan:
    """A relay that runs between two bridges of the lab's middle namespace."""

    def __init__(self, middle: Namespace, near: str, far: str, directory: Path, link: WanLink):
        self.link = link
        self._lock = threading.Lock()
        self._socket_path = directory / "wan.socket"
        for tap, bridge in (("wan-near", near), ("wan-far", far)):
            middle.tap(tap, bridge)
            middle.ip("link", "set", "dev", tap, "txqueuelen", TAP_QUEUE)
        self.process = Process(
            middle.wrap([relay_program(), "wan-near", "wan-far", self._socket_path, link.seed,
                         *link.lines()]), directory / "wan.log")
        self.process.require(self._socket_path.exists, "the link's relay is up")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(10)
        self._socket.connect(str(self._socket_path))
        # A tap has its carrier from now on, and its bridge forwards when it has seen that.
        wait_until(lambda: _forwards(middle, "wan-near") and _forwards(middle, "wan-far"),
                   "the relay's taps are in their bridges")

    def order(self, line: str) -> dict:
        """One line as in lab/link/control.h, and its answer; from any thread."""
        with self._lock:
            self._socket.send(line.encode())
            answer = json.loads(self._socket.recv(1 << 16))
        if "error" in answer:
            raise LabError(f"link: {line}: {answer['error']}")
        return answer

    def set(self, way: str = "", **settings) -> None:
        """Changes settings (the names are WanLink's) while it runs, of both directions or one."""
        self.order(f"{way} {in_words(settings)}")

    def break_for(self, seconds: float) -> None:
        """Loses everything for so long, what is on the way included."""
        self.set(break_=f"{seconds}s")

    def stats(self) -> dict:
        """Of each direction ("forward", "backward"), since the start: see lab/README.md."""
        return self.order("stats")

    def close(self) -> None:
        self._socket.close()
        self.process.stop()


def _forwards(middle: Namespace, tap: str) -> bool:
    details = json.loads(middle.ip("-json", "-details", "link", "show", "dev", tap))[0]
    return details["linkinfo"]["info_slave_data"]["state"] == "forwarding"


class WanSwitch(Switch):
    """The hosts' switch in two parts, with a relay between; *far* are the members beyond it."""

    FAR = "far"

    def __init__(self, middle: Namespace, name: str, far: set[str]):
        super().__init__(middle, name)
        self._far = far
        middle.bridge(self.FAR)

    def plug(self, member: str, namespace: Namespace, interface: str) -> None:
        super().plug(member, namespace, interface)
        if member in self._far:
            self.middle.enslave(self._port(member), self.FAR)

    def join(self, directory: Path, link: WanLink) -> Wan:
        """Starts the relay between the parts."""
        return Wan(self.middle, self.name, self.FAR, directory, link)
