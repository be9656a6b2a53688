"""A small QMP client, for QEMUs that the lab itself runs."""

import json
import socket
import time
from pathlib import Path

from .process import LabError, wait_until


class QmpTimeout(LabError):
    """Nothing came in time; the connection is as good as before."""


class Qmp:
    def __init__(self, path: Path, timeout: float = 30):
        """*timeout*: for the connection, and for each answer."""
        self._socket = socket.socket(socket.AF_UNIX)
        wait_until(lambda: self._connected(path), f"QMP at {path}", timeout)
        self._timeout = timeout
        self._pending = b""
        self._events: list[dict] = []
        self._read(time.monotonic() + timeout)  # the greeting
        self.execute("qmp_capabilities")

    def _connected(self, path: Path) -> bool:
        try:
            self._socket.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def _read(self, deadline: float) -> dict:
        while b"\n" not in self._pending:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise QmpTimeout("QMP: QEMU said nothing in time") from None
            if not data:
                raise LabError("QMP: QEMU closed the connection")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    def give(self, name: str, fd: int) -> None:
        """QEMU gets a copy of the descriptor, under that name."""
        self.execute("getfd", fds=[fd], fdname=name)

    def execute(self, command: str, fds=(), **arguments):
        order = {"execute": command, "arguments": arguments}
        self._socket.settimeout(self._timeout)
        socket.send_fds(self._socket, [json.dumps(order).encode() + b"\n"], fds)
        deadline = time.monotonic() + self._timeout
        while True:
            answer = self._read(deadline)
            if "event" in answer:
                self._events.append(answer)
            elif "QMP" in answer:
                continue  # a client came right after another one: QEMU 7.2 may greet it twice
            elif "error" in answer:
                raise LabError(f"QMP {command}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def wait_event(self, wanted, timeout: float = 60) -> dict:
        """The first event for which wanted(event) is true; QmpTimeout without one."""
        deadline = time.monotonic() + timeout
        while True:
            event = self._events.pop(0) if self._events else self._read(deadline)
            if wanted(event):
                return event

    def close(self) -> None:
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
