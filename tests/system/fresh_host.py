"""A lab host as a newcomer meets it: default paths, nothing there yet, a shell, and other hosts by name.

The host is a lab host's network namespace with a mount namespace of its own, in which /etc, /var/lib
and /srv are overlays and /run is empty: what is written there stays in memory and goes with the lab.
/srv/vm is one folder on all hosts, as shared storage is.
"""

import os
import shlex
import subprocess
from pathlib import Path

from vmferry_lab import Lab, Result, vmferry_program, wait_until

SET_UP = """
set -e
mount -t tmpfs tmpfs {private}
for folder in etc var/lib srv; do
    mkdir -p {private}/upper/$folder {private}/work/$folder
    mount -t overlay overlay /$folder -o \
        lowerdir=/$folder,upperdir={private}/upper/$folder,workdir={private}/work/$folder
done
mount -t tmpfs tmpfs /run
mkdir -p /srv/vm
mount --bind {storage} /srv/vm
cp {hosts} /etc/hosts
hostname {name}
echo ready
exec sleep infinity
"""

# Copies between the hosts' file systems, as the real one does where there is ssh.
SCP = """#!/bin/sh
# scp -r FOLDER [USER@]HOST:PATH
set -e
[ $# -eq 3 ] && [ "$1" = -r ] || { echo "scp: only 'scp -r FOLDER HOST:PATH' is possible" >&2; exit 1; }
host=${3%%:*}
there="nsenter --mount --target $(cat "${0%/*}/${host#*@}.pid")"
$there mkdir "${3#*:}"
tar -C "$2" -c . | $there tar -C "${3#*:}" -x
"""


class FreshHost:
    """One of them; background commands end with the lab."""

    def __init__(self, host, tools: Path, storage: Path, hosts: Path):
        self.name = host.name
        private = host.path("private")
        private.mkdir()
        script = SET_UP.format(private=private, storage=storage, hosts=hosts, name=host.name)
        argv = ["unshare", "--mount", "--uts", "sh", "-c", script]
        self.keeper = host.start(argv, "keeper")
        self.keeper.require(lambda: "ready" in self.keeper.output(), f"{host.name} is set up")
        (tools / f"{host.name}.pid").write_text(str(self.keeper.pid))
        self.env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
        self.env.pop("VMFERRY_SOCKET", None)
        self.host = host

    def _wrap(self, command: str) -> list[str]:
        return ["nsenter", "--mount", "--net", "--uts", "--target", str(self.keeper.pid), "--",
                "sh", "-c", command]

    def sh(self, command: str, timeout: float = 120, *, together=False) -> Result:
        """Runs a command line of the shell.  *together*: its errors are in stdout, too."""
        done = subprocess.run(self._wrap(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT if together else subprocess.PIPE, text=True,
                              env=self.env, timeout=timeout)
        return Result(done.returncode, done.stdout, done.stderr or "")

    def vmferry(self, *words) -> Result:
        return self.sh(shlex.join(["vmferry", *map(str, words)]))

    def start(self, command: str) -> subprocess.Popen:
        """Begins a command that goes on."""
        log = open(self.host.path("background.log"), "ab")
        return subprocess.Popen(self._wrap(f"exec {command}"), stdin=subprocess.DEVNULL, stdout=log,
                                stderr=log, env=self.env, start_new_session=True)

    def start_agent(self, options: str = "") -> subprocess.Popen:
        process = self.start(f"vmferry agent {options}")
        wait_until(lambda: self.vmferry("status").exit_code == 0, f"agent on {self.name}")
        return process


def make_hosts(lab: Lab) -> dict[str, FreshHost]:
    """The lab's hosts, by name."""
    tools = lab.directory / "tools"
    tools.mkdir()
    (tools / "vmferry").symlink_to(vmferry_program())
    (tools / "scp").write_text(SCP)
    (tools / "scp").chmod(0o755)
    storage = lab.shared / "storage"
    storage.mkdir()
    hosts = lab.directory / "hosts"
    hosts.write_text("127.0.0.1 localhost\n"
                     + "".join(f"{host.ip} {host.name}\n" for host in lab.hosts))
    return {host.name: FreshHost(host, tools, storage, hosts) for host in lab.hosts}
