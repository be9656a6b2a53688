"""Whole Debian systems in folders, and machines that run them.

A root is made by debootstrap from the archive that this machine's apt uses, kept in the cache, and never written
to: a machine puts an overlay over it, in memory, which goes with the machine.  A machine is a container of
systemd-nspawn in the network namespace of a lab's host, with systemd as its first process or without; the lab's
folder and the cache are there under the same paths, so that a lab's guest can be run in it.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from . import debian
from .agent import Result
from .cache import cache_dir, cache_lock, make_once
from .lab import Host
from .process import LabError, Process, wait_until

# What nspawn's filter forbids, and tracking needs.
SYSTEM_CALLS = "pidfd_getfd userfaultfd ptrace kcmp process_vm_readv process_vm_writev process_madvise"
LOCK = "roots.lock"
FROM_HERE = ("/etc/resolv.conf", "/etc/hosts")  # by which apt finds the archive
QUIET_APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "-o", "Dpkg::Use-Pty=0",
             "--no-install-recommends")


def _run(argv, what: str, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          cwd=cwd, env={**os.environ, "LC_ALL": "C.UTF-8"})
    if done.returncode:
        raise LabError(f"{what}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def chroot(root: Path, argv, what: str) -> str:
    """Runs a program in a root that may be written to, with this machine's network, to its end."""
    script = ('set -e; mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc"; mount -t sysfs sysfs "$0/sys"; '
              'exec chroot "$0" "$@"')
    return _run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, root, *argv], what)


def _base() -> Path:
    """A minimal Debian of this machine's release.  Lock held."""
    release = debian.release_name()

    def make(folder: Path) -> None:
        if not shutil.which("debootstrap"):
            raise LabError("debootstrap is not installed: run scripts/bootstrap packaging")
        _run(["debootstrap", "--variant=minbase", f"--keyring={debian.KEYRING}", release, folder,
              debian.mirror()], "debootstrap")
        chroot(folder, ["apt-get", "clean"], "apt")

    return make_once(f"root-{release}", make)


def root_with(packages: list[str], *, fetched: list[str] = []) -> Path:
    """A minimal Debian with *packages* installed, and what installing *fetched* takes downloaded.

    Both may be dependencies as in a package's control file: "libc6 (>= 2.34)".
    """
    names = [[word.split("(")[0].split(":")[0].strip() for word in words] for words in (packages, fetched)]
    digest = hashlib.sha256(json.dumps([packages, fetched]).encode()).hexdigest()[:16]

    def make(folder: Path) -> None:
        _run(["cp", "-a", "--reflink=auto", f"{_base()}/.", folder], "copy of a root")
        for path in FROM_HERE:
            if Path(path).exists():
                shutil.copy(path, folder / path[1:])
        (folder / "etc/apt/apt.conf.d/90lab").write_text('Acquire::Languages "none";\nAcquire::Retries "3";\n')
        chroot(folder, [*QUIET_APT, "update"], "apt-get update")
        chroot(folder, [*QUIET_APT, "install", *names[0]], "apt-get install")
        chroot(folder, ["apt-get", "clean"], "apt-get clean")
        if names[1]:
            chroot(folder, [*QUIET_APT, "--download-only", "install", *names[1]], "apt-get install -d")

    with cache_lock(LOCK):
        return make_once(f"root-{debian.release_name()}-{digest}", make)


class Machine:
    """A host of the lab with a Debian of its own; it ends with the lab.

    *systemd*: that is its first process, and has ended its start when this returns.
    *folders*: more of this machine's, read only, by their path there.
    """

    def __init__(self, host: Host, root: Path, *, systemd: bool, folders: dict[str, Path] | None = None):
        self.host = host
        self.name = host.name
        self.systemd = systemd
        self.journal: Process | None = None  # with systemd: its log, for a test that fails
        binds = [f"--bind={host.lab.directory}", "--bind=/dev/net/tun", f"--bind-ro={cache_dir()}"]
        binds += [f"--bind-ro={folder}:{path}" for path, folder in (folders or {}).items()]
        argv = ["systemd-nspawn", "--quiet", f"--machine={host.lab.name}-{host.name}", f"--hostname={host.name}",
                "--register=no", "--keep-unit", f"--directory={root}", "--volatile=overlay",
                f"--network-namespace-path=/run/netns/{host.namespace.name}", "--capability=all",
                f"--system-call-filter={SYSTEM_CALLS}", "--resolv-conf=off", "--console=pipe", *binds,
                *(["--boot"] if systemd else ["--as-pid2", "sleep", "infinity"])]
        # Without the words that tell nspawn's own service manager of itself.
        env = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "INVOCATION_ID")}
        log = host.path("machine.log")
        self.process = Process(argv, log, {**env, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"})
        host.lab.at_close(self.close)
        self.leader = self.process.require(self._find_leader, f"{host.name} starts")
        if systemd:
            self.process.require(lambda: self.sh("systemctl is-system-running").stdout.strip()
                                 in ("running", "degraded"), f"{host.name} has started", 120)
            self.journal = Process(self.wrap(["journalctl", "--follow", "--lines=all"]), host.path("journal.log"))

    def _find_leader(self) -> int | None:
        """The first process in there: its parent is nspawn, its id there 1."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
            ids = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
            # Before, it is nspawn's own process, which sets the container up.
            if len(ids) > 1 and ids[-1] == "1" and name in ("systemd", "(sd-stubinit)"):
                return int(pid)
        return None

    def close(self) -> None:
        if self.process.running:
            self.process.stop(20)
        if self.journal:
            self.journal.kill()

    # ---- commands ----

    def wrap(self, argv) -> list[str]:
        return ["nsenter", "-t", str(self.leader), "-a", "--", *map(str, argv)]

    def sh(self, command: str, timeout: float = 120) -> Result:
        """Runs a command line of the shell there; its errors are in stdout, too."""
        done = subprocess.run(self.wrap(["sh", "-c", command]), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=timeout, env=self._environment())
        return Result(done.returncode, done.stdout, "")

    def vmferry(self, *words, timeout: float = 120) -> Result:
        """Runs a vmferry command there."""
        done = subprocess.run(self.wrap(["vmferry", *words]), stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=timeout, env=self._environment())
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, command: str) -> subprocess.Popen:
        """Begins a command that goes on, as a daemon of somebody's would."""
        log = open(self.host.path("background.log"), "ab")
        return subprocess.Popen(self.wrap(["setsid", *shlex.split(command)]), stdin=subprocess.DEVNULL,
                                stdout=log, stderr=log, env=self._environment(), start_new_session=True)

    def copy_to(self, folder: str, other: "Machine", target: str) -> None:
        """What `scp -r FOLDER OTHER:TARGET` does."""
        pack = subprocess.Popen(self.wrap(["tar", "-C", folder, "-c", "."]), stdout=subprocess.PIPE)
        unpack = other.wrap(["sh", "-c", f"mkdir -p {target} && tar -C {target} -x"])
        done = subprocess.run(unpack, stdin=pack.stdout, capture_output=True, text=True)
        if pack.wait() or done.returncode:
            raise LabError(f"copy of {folder} to {other.name}: {done.stderr}")

    @staticmethod
    def _environment() -> dict:
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
                "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}

    def wait_for(self, condition, what: str, timeout: float = 30):
        return wait_until(condition, f"{what} on {self.name}", timeout)
