"""A guest's emulated TPM: a swtpm on each host, its state and its socket in the host's folder."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .process import LabError, wait_until

if TYPE_CHECKING:
    from .lab import Host, Lab


class Swtpm:
    """Started on all hosts at once.

    The sockets have the same path but for the host's folder, which the agents' rules map.
    """

    def __init__(self, lab: Lab, guest_name: str):
        if not shutil.which("swtpm"):
            raise LabError("swtpm is not installed: run scripts/bootstrap")
        self.guest_name = guest_name
        for host in lab.hosts:
            self._start(host)
        for host in lab.hosts:
            self.wait_ready(host)

    def socket(self, host: Host) -> Path:
        return host.path(f"{self.guest_name}.tpm") / "socket"

    def wait_ready(self, host: Host) -> None:
        """Waits until the next QEMU can connect."""
        wait_until(self.socket(host).exists, f"TPM of {self.guest_name} on {host.name}")

    def _start(self, host: Host) -> None:
        """A QEMU that ends makes its swtpm end, too: there is always a new one."""
        socket = self.socket(host)
        socket.parent.mkdir()
        words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={socket.parent}",
                 "--ctrl", f"type=unixio,path={socket}"]
        host.start(["sh", "-c", f"while {shlex.join(words)}; do :; done"], f"{self.guest_name}.tpm")
