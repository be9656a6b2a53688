"""`vmferry engine`, and the commands of its users."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from .agent import Result, vmferry_program
from .process import LabError


class Engine:
    """An engine; start() it.  *wrap*: what its command line, and its users', are put into (a host's namespace)."""

    def __init__(self, folder: Path, hosts: str, port: int, settings: dict | None = None, wrap=list):
        """*settings*: by group, of engine.conf."""
        self.folder, self.port, self.wrap = folder, port, wrap
        self.config = folder / "engine.conf"
        self.store = folder / "engine.db"
        self.log_path = folder / "engine.log"
        self.settings = {"engine": {"hosts": hosts, "listen": f"127.0.0.1:{port}",
                                    "store": self.store, "name": "engine1"}}
        for group, keys in (settings or {}).items():
            self.settings.setdefault(group, {}).update(keys)
        self.user_env: dict[str, str] = {}  # of its users' commands: certificates, a token
        self.process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return self.settings["engine"]["listen"]

    def start(self, env: dict | None = None) -> "Engine":
        self.config.write_text("".join(
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
            for group, keys in self.settings.items()))
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.wrap([vmferry_program(), "engine", "--config", str(self.config), "--debug"]),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})})
        return self

    def wait_ready(self, timeout: float = 20) -> "Engine":
        end = time.monotonic() + timeout
        while self.vmferry("cluster", "status").exit_code:
            if self.process.poll() is not None or time.monotonic() > end:
                raise LabError(f"the engine does not start: {self.log()}")
            time.sleep(0.05)
        return self

    def wait_end(self, timeout: float = 20) -> int:
        return self.process.wait(timeout)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30) if self.process else 0

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def vmferry(self, *words, timeout: float = 30) -> Result:
        done = subprocess.run(
            self.wrap([vmferry_program(), *map(str, words)]), capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=timeout,
            env={**os.environ, "VMFERRY_ENGINE": self.address, **self.user_env})
        return Result(done.returncode, done.stdout, done.stderr)

    # ---- what it shows ----

    def show(self, *words) -> dict:
        return json.loads(self.vmferry("cluster", *words, "--json").require().stdout)

    def host(self, name: str) -> dict:
        return next(host for host in self.show("hosts")["hosts"] if host["name"] == name)

    def guest(self, name: str) -> dict | None:
        found = [guest for guest in self.show("guests")["guests"] if guest["name"] == name]
        return found[0] if found else None

    def moves(self) -> list[dict]:
        """The oldest first."""
        return self.show("moves")["moves"][::-1]

    def events(self, kind: str | None = None) -> list[dict]:
        lines = self.vmferry("cluster", "events", "--json").require().stdout.splitlines()
        events = [json.loads(line) for line in lines]
        return [event for event in events if kind in (None, event["type"])]
