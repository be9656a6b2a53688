"""The lab's guest as a QEMU command line, and what the outside knows about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import images
from .control import Control
from .guest_agent import agent_options
from .heartbeat import Heartbeat
from .process import GuestHarmed, LabError, Orphan, wait_until
from .qemu import Qemu, system_qemu
from .redis import RedisLoad
from .swtpm import Swtpm

if TYPE_CHECKING:
    from .lab import Host, Lab

MACHINES = ("pc", "q35", "microvm")


class Guest:
    """One guest; every argument of the lab's guest() is described there."""

    def __init__(self, lab: Lab, name: str, number: int, *, machine: str = "pc",
                 memory_mb: int = 256, vcpus: int = 1, qemu: Qemu | None = None,
                 accel: str = "tcg", disk_mb: int = 0, vga: bool | None = None,
                 rng: bool = True, ide: bool = False, card: bool = True, cpu: str | None = None,
                 tpm: str | None = None, shared_memory: bool = False,
                 redis: bool = False, guest_agent: bool = False, follow_card: bool = False,
                 arena_mb: int = 64, content: str = "random", pattern: str = "idle", order: str = "random",
                 pages_per_second: int = 0, span_mb: int = 0, check: int = 1024,
                 disk_rate: int = 0, disk_buffered: bool = False, readers: int = 0, kernel_words: str = "", extra: list[str] | None = None):
        self.lab = lab
        self.name = name
        self.machine = machine
        self.memory_mb = memory_mb
        self.vcpus = vcpus
        self.qemu = qemu or system_qemu()
        self.accel = accel
        self.ip = f"10.77.0.{10 + number}"
        self.mac = f"52:54:00:77:00:{10 + number:02x}"
        self.tap = f"tap{number}"
        self.console = lab.shared / f"{name}.console"
        self.disk = None
        self.rng = rng
        self.ide = ide
        self.card = card
        self.cpu = cpu
        self.vga = machine != "microvm" if vga is None else vga
        self.shared_memory = shared_memory
        self.redis = redis
        self.guest_agent = guest_agent
        self.follow_card = follow_card
        self.extra = extra or []
        if disk_mb:
            self.disk = images.disk_image(lab.shared / f"{name}.disk", disk_mb)
        self.workload = (f"lab.mb={arena_mb} lab.content={content} lab.pattern={pattern} "
                         f"lab.order={order} lab.pps={pages_per_second} lab.span={span_mb} "
                         f"lab.check={check} lab.disk-rate={disk_rate} "
                         f"lab.disk-buffered={int(disk_buffered)} lab.readers={readers}")
        self.kernel_words = kernel_words
        self.tpm_model = tpm
        self.tpm = Swtpm(lab, name) if tpm else None
        for host in lab.hosts:
            host.add_tap(self.tap)

    # ---- the command line ----

    @property
    def command(self) -> list[str]:
        """A plain QEMU command line, as a user would type it, without QMP."""
        image = images.guest_image(self.redis, self.guest_agent)
        return [
            *self.qemu.command,
            "-name", self.name,
            "-machine", self.machine,
            "-accel", self.accel,
            "-smp", str(self.vcpus),
            "-m", str(self.memory_mb),
            *self._memory(),
            "-nodefaults", "-display", "none", "-no-user-config",
            "-kernel", str(image.kernel), "-initrd", str(image.initramfs),
            "-append", self._kernel_command_line(),
            "-chardev", f"file,id=console,path={self.console},append=on",
            "-serial", "chardev:console",
            *(["-cpu", self.cpu] if self.cpu else []),
            *self._card(),
            *self._disk(), *self._small_devices(), *self._agent_port(), *self.extra,
        ]

    def command_with_qmp(self, path: Path) -> list[str]:
        return [*self.command, "-qmp", f"unix:{path},server=on,wait=off"]

    def _virtio(self, kind: str) -> str:
        return f"virtio-{kind}-{'device' if self.machine == 'microvm' else 'pci'}"

    def _card(self) -> list[str]:
        """Of a q35 in a port that it can be unplugged from."""
        if not self.card:
            return []
        port = self.machine == "q35" and self.follow_card
        return ["-netdev", f"tap,id=net0,ifname={self.tap},script=no,downscript=no",
                *(["-device", "pcie-root-port,id=port0,chassis=1"] if port else []),
                "-device", f"{self._virtio('net')},netdev=net0,mac={self.mac}{',bus=port0' if port else ''}"]

    def _memory(self) -> list[str]:
        if not self.shared_memory:
            return []
        return ["-object", f"memory-backend-memfd,id=ram0,size={self.memory_mb}M,share=on",
                "-machine", "memory-backend=ram0"]

    def _disk(self) -> list[str]:
        if not self.disk:
            return []
        if self.ide:
            return ["-drive", f"file={self.disk},format=raw,if=ide"]
        return ["-drive", f"file={self.disk},format=raw,if=none,id=disk0,cache=none",
                "-device", f"{self._virtio('blk')},drive=disk0"]

    def _small_devices(self) -> list[str]:
        devices = ["-device", self._virtio("rng")] if self.rng else []
        devices += ["-device", "VGA"] if self.vga else []
        if self.tpm:
            socket = self.tpm.socket(self.lab.host_a)
            devices += ["-chardev", f"socket,id=tpm,path={socket}",
                        "-tpmdev", "emulator,id=tpm0,chardev=tpm",
                        "-device", f"{self.tpm_model},tpmdev=tpm0"]
        return devices

    def _agent_port(self) -> list[str]:
        return agent_options(self.lab.host_a.path(f"{self.name}.qga")) if self.guest_agent else []

    def _kernel_command_line(self) -> str:
        words = ["console=ttyS0", "loglevel=4", "panic=-1", f"lab.ip={self.ip}" if self.card else "",
                 "lab.ide=1 lab.disk=sda" if self.ide else "", self.workload,
                 "lab.redis=1" if self.redis else "", "lab.agent=1" if self.guest_agent else "",
                 "lab.follow-card=1" if self.follow_card else "", self.kernel_words]
        if self.machine == "microvm" and self.accel == "tcg":
            words.append(f"tsc_early_khz={images.host_tsc_khz()} tsc=reliable")
        return " ".join(word for word in words if word)

    # ---- running it without vmferry ----

    def start(self, host: Host, *, wait: bool = True) -> Orphan:
        """Starts QEMU on *host*, with a QMP socket (qmp_path), as somebody else would."""
        process = host.start_orphan(self.command_with_qmp(self.qmp_path(host)), f"{self.name}.qemu")
        if wait:
            process.require(self.is_ready, f"guest {self.name}", timeout=90)
        return process

    def qmp_path(self, host: Host) -> Path:
        return host.directory / f"{self.name}.qmp"

    # ---- what the outside sees ----

    def console_text(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def is_ready(self) -> bool:
        """True once its workload serves."""
        return "lab: ready" in self.console_text()

    def wait_ready(self, timeout: float = 90) -> None:
        wait_until(self.is_ready, f"guest {self.name} boots", timeout)

    def control(self, timeout: float = 30) -> Control:
        """A new connection for orders, from the client."""
        return Control(self.lab.client, self.ip, timeout)

    def heartbeat(self, interval_ms: int = 50) -> Heartbeat:
        """A held connection from the client; closed with the lab."""
        heartbeat = Heartbeat(self.lab.client, self.ip, interval_ms)
        self.lab.at_close(heartbeat.close)
        return heartbeat

    def redis_load(self, **options) -> RedisLoad:
        """Fills its Redis from the client, which then waits for start(); closed with the lab."""
        load = RedisLoad(self.lab.client, self.ip, **options)
        self.lab.at_close(load.close)
        return load

    def check(self) -> None:
        """Checks all its memory (and disk, whoever made it) now; GuestHarmed for any finding."""
        with self.control() as control:
            control.check()
            if int(control.status()["disk_blocks"]):
                control.check_disk()
        if "lab: BAD" in self.console_text():
            raise GuestHarmed(f"guest {self.name} reported errors on its console")
