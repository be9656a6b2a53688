"""A libvirt daemon on a host of the lab, and guests as its domains.

The daemon is Debian's, started by hand: it finds its folders (/run/libvirt, /var/lib/libvirt, …) in
the host's own, by mounts that only it and what it starts see.  Everybody else reaches it by `uri`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from .cache import cache_dir
from .process import LabError, Process, wait_until

if TYPE_CHECKING:
    from .guest import Guest
    from .lab import Host

FOLDERS = {"run": "/run/libvirt", "lib": "/var/lib/libvirt", "log": "/var/log/libvirt", "etc": "/etc/libvirt"}
# What it has found out about each QEMU, which takes it long, is kept for the next one.
CACHE = "/var/cache/libvirt"

# What a machine without systemd, AppArmor and control groups of its own lacks.
DAEMON = """host_uuid = "{uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
"""
DRIVER = """security_driver = "none"
namespaces = [ ]
stdio_handler = "file"
cgroup_controllers = [ ]
"""

DOMAIN = """<domain type={accel}>
<name>{name}</name><memory unit="MiB">{memory}</memory><vcpu>{vcpus}</vcpu>
<os><type arch="x86_64" machine={machine}>hvm</type>
<kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{words}</cmdline></os>
<features><acpi/></features>
<devices><emulator>{emulator}</emulator>
<serial type="file"><source path={console} append="on"/><target port="0"/></serial>
<controller type="usb" model="none"/><memballoon model="virtio"/>
{devices}
</devices></domain>
"""
CARD = """<interface type="ethernet"><mac address={mac}/><target dev={tap} managed="no"/>
<model type="virtio"/></interface>"""
DISK = """<disk type="file" device="disk"><driver name="qemu" type="raw" cache="none"/>
<source file={file}/><target dev="vda" bus="virtio"/></disk>"""


def has_libvirt() -> bool:
    return bool(shutil.which("libvirtd") and shutil.which("virsh"))


def client_environment(program: str) -> dict[str, str]:
    """What *program* needs to load libvirt's library.

    AddressSanitizer intercepts functions of libtirpc, and finds those behind its own only where that is there from
    the start: else libvirt calls nothing.
    """
    if b"__asan_init" not in Path(program).read_bytes():
        return {}
    return {"LD_PRELOAD": "libtirpc.so.3",
            "ASAN_OPTIONS": f"{os.environ.get('ASAN_OPTIONS', '')}:verify_asan_link_order=0".lstrip(":")}


class Libvirt:
    """start() it; it ends with the lab, and its domains do."""

    def __init__(self, host: Host, settings: str = ""):
        """*settings*: more lines of its qemu.conf."""
        if not has_libvirt():
            raise LabError("libvirt is not installed: run scripts/bootstrap")
        self.host = host
        self.folder = host.path("libvirt")
        self.process: Process | None = None
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # QEMU runs as a user of its own.
        for name in ("lib", "log"):
            (self.folder / name).chmod(0o755)
        (self.folder / "etc" / "libvirtd.conf").write_text(DAEMON.format(uuid=uuid.uuid4()))
        (self.folder / "etc" / "qemu.conf").write_text(DRIVER + settings)
        host.lab.at_close(self._end)

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "libvirt-sock"

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.socket}"

    # ---- the daemon ----

    def start(self) -> Libvirt:
        cache = cache_dir() / "libvirt"
        cache.mkdir(exist_ok=True)
        folders = {**{self.folder / name: target for name, target in FOLDERS.items()}, cache: CACHE}
        mounts = "".join(f"mkdir -p {target} && mount --bind {source} {target} && "
                         for source, target in folders.items())
        script = f"{mounts} exec libvirtd --pid-file {self.folder}/libvirtd.pid"
        self.process = self.host.start(["unshare", "--mount", "--", "sh", "-c", script], "libvirtd")
        self.process.require(self._answers, f"libvirtd on {self.host.name} starts")
        return self

    def _answers(self) -> bool:
        return self.socket.exists() and self.run("version").returncode == 0

    def kill(self) -> None:
        """SIGKILL: its domains run on."""
        self.process.kill()

    def stop(self) -> None:
        """As its service is stopped: its domains run on."""
        self.process.stop()

    def _end(self) -> None:
        if self.process:
            self.process.kill()

    # ---- virsh ----

    def run(self, *words, timeout: float = 300) -> subprocess.CompletedProcess:
        return self.host.run(["virsh", "-q", "-c", self.uri, *words], timeout=timeout)

    def virsh(self, *words, timeout: float = 300) -> str:
        """What it says; LabError where it fails."""
        done = self.run(*words, timeout=timeout)
        if done.returncode:
            raise LabError(f"virsh {' '.join(map(str, words))}: {done.stderr}{done.stdout}")
        return done.stdout.strip()

    def names(self, *options) -> list[str]:
        """Of its domains: those that run, unless options say otherwise."""
        return self.virsh("list", "--name", *options).split()

    def state(self, guest: Guest) -> str:
        return self.virsh("domstate", guest.name)

    def pid(self, guest: Guest) -> int:
        return int((self.folder / "run" / "qemu" / f"{guest.name}.pid").read_text())

    def qmp(self, guest: Guest, command: str, **arguments):
        order = {"execute": command, **({"arguments": arguments} if arguments else {})}
        reply = json.loads(self.virsh("qemu-monitor-command", guest.name, json.dumps(order)))
        if "error" in reply:
            raise LabError(f"{command}: {reply['error']['desc']}")
        return reply["return"]

    # ---- domains ----

    def domain_xml(self, guest: Guest) -> str:
        """The guest as a domain; its boot files are copied, since they get another owner."""
        words = guest.command
        files = {}
        for option in ("-kernel", "-initrd"):
            files[option] = guest.lab.shared / f"{guest.name}{option}"
            if not files[option].exists():
                shutil.copyfile(words[words.index(option) + 1], files[option])
        devices = CARD.format(mac=quoteattr(guest.mac), tap=quoteattr(guest.tap)) if guest.card else ""
        if guest.disk:
            devices += DISK.format(file=quoteattr(str(guest.disk)))
        if guest.rng:
            devices += '<rng model="virtio"><backend model="random">/dev/urandom</backend></rng>'
        if guest.vga:
            devices += '<video><model type="vga"/></video>'
        return DOMAIN.format(
            accel=quoteattr("kvm" if guest.accel == "kvm" else "qemu"), name=escape(guest.name),
            memory=guest.memory_mb, vcpus=guest.vcpus, machine=quoteattr(guest.machine),
            kernel=files["-kernel"], initrd=files["-initrd"],
            words=escape(words[words.index("-append") + 1]), emulator=words[0],
            console=quoteattr(str(guest.console)), devices=devices)

    def begin(self, guest: Guest, *, persistent: bool = True, wait: bool = True) -> int:
        """Defines (or not) the guest and starts it; the pid of its QEMU."""
        guest.console.touch()
        file = self.folder / f"{guest.name}.xml"
        file.write_text(self.domain_xml(guest))
        if persistent:
            self.virsh("define", file)
            self.virsh("start", guest.name)
        else:
            self.virsh("create", file)
        if wait:
            guest.wait_ready()
        return self.pid(guest)

    def wait_state(self, guest: Guest, state: str, timeout: float = 30) -> None:
        wait_until(lambda: self.state(guest) == state, f"{guest.name} is \"{state}\" for libvirt", timeout)
