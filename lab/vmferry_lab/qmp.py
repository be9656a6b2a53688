"""A small QMP client, for QEMUs that the lab itself runs."""

import json
import socket
import time
from pathlib import Path

from .process import LabError, wait_until


class Qmp:
    def __init__(self, path: Path, timeout: float = 30):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        wait_until(lambda: self._connected(path), f"QMP at {path}", timeout)
        self._lines = self._socket.makefile("r")
        self._events: list[dict] = []
        self._read()  # the greeting
        self.execute("qmp_capabilities")

    def _connected(self, path: Path) -> bool:
        try:
            self._socket.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def _read(self) -> dict:
        line = self._lines.readline()
        if not line:
            raise LabError("QMP: QEMU closed the connection")
        return json.loads(line)

    def execute(self, command: str, **arguments):
        order = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(order).encode() + b"\n")
        while True:
            answer = self._read()
            if "event" in answer:
                self._events.append(answer)
            elif "error" in answer:
                raise LabError(f"QMP {command}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def wait_event(self, wanted, timeout: float = 60) -> dict:
        """The first event for which wanted(event) is true."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            event = self._events.pop(0) if self._events else self._read()
            if wanted(event):
                return event
        raise LabError(f"QMP: no such event within {timeout} s")

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
