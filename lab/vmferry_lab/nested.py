"""A host with KVM inside an emulated machine: `kvm_amd` under `-accel tcg`.

The outer machine is an AMD one with SVM, emulated by QEMU; it runs Debian's
generic kernel from backports (6.12, which has PAGEMAP_SCAN) out of an
initramfs made of this machine's own programs: QEMU, ip and vmferry with their
libraries, and busybox.  Its first program is lab/nested/init, which plays
both hosts of a move and reports on the second serial line; the head of
lab/nested/library describes the lines.

Limits: the outer machine has one processor.  With two, which QEMU emulates
side by side, five crashes were seen in some 200 moves, in QEMU 7.2 and 10.0:
the guest reset, the outer machine reset, and the outer kernel died in code
that it was just patching.  With one there was none in 95.
"""

import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import debian, images
from .agent import vmferry_program
from .cache import REPOSITORY, cache_lock
from .heartbeat import Beat, parse_beat
from .initramfs import copy_file, copy_modules, copy_program
from .process import LabError, Process
from .qemu import backports_qemu, system_qemu

SOURCES = REPOSITORY / "lab" / "nested"
MODULES = ("kvm_amd", "tun", "veth", "bridge", "vhost_net", "ifb", "sch_ingress", "sch_plug",
           "cls_matchall", "act_mirred")
FIRMWARE_FOLDERS = ("/usr/share/seabios", "/usr/share/qemu", "/usr/lib/ipxe/qemu")
FIRMWARE = ("bios-256k.bin", "vgabios-stdvga.bin", "efi-virtio.rom", "kvmvapic.bin",
            "linuxboot_dma.bin")
# What Debian's QEMU loads without KVM.
MODULE_FOLDER = Path("/usr/lib/x86_64-linux-gnu/qemu")
TCG = "accel-tcg-x86_64.so"
MEMORY_MB = 2048


def fetch_outer_kernel() -> images.Kernel:
    """The outer machine's kernel; downloaded on first use."""
    with cache_lock():
        return images.fetch_kernel("linux-image-amd64",
                                   f"{debian.release_name()}-backports")


def build_initramfs(kernel: images.Kernel, steps: str, output: Path) -> None:
    """The outer machine's root file system, with these steps.  Made anew every time, in a second
    or two."""
    guest = images.guest_image()
    tree = output.with_name("tree")
    (tree / "bin").mkdir(parents=True)
    with cache_lock():
        copy_file(images.fetch_busybox(), tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    for program, place in ((system_qemu().program, "usr/bin/qemu-system-x86_64"),
                           (shutil.which("ip"), "usr/sbin/ip"),
                           (shutil.which("tc"), "usr/sbin/tc"),
                           (shutil.which("unshare"), "usr/bin/unshare"),
                           (vmferry_program(), "usr/bin/vmferry")):
        copy_program(program, tree, tree / place)
    for name in FIRMWARE:
        copy_file(_firmware(name), tree / "usr/share/qemu" / name)
    copy_file(MODULE_FOLDER / TCG, tree / MODULE_FOLDER.relative_to("/") / TCG)
    copy_file(guest.kernel, tree / "guest/vmlinuz")
    copy_file(guest.initramfs, tree / "guest/initramfs")
    for script, name in (("init", "init"), ("library", "library"), (steps, "steps")):
        copy_file(SOURCES / script, tree / name)
        (tree / name).chmod(0o755)
    copy_modules(kernel, MODULES, tree)
    images.pack_initramfs(tree, output)
    shutil.rmtree(tree)


def _firmware(name: str) -> Path:
    for folder in FIRMWARE_FOLDERS:
        if (path := Path(folder) / name).exists():
            return path
    raise LabError(f"{name} is not there: run scripts/bootstrap")


@dataclass
class Step:
    """One line of the report: "step NAME ok|failed SECONDS DETAIL"."""

    name: str
    passed: bool
    seconds: float
    detail: str


@dataclass
class Report:
    """What the outer machine has reported, by name."""

    steps: dict[str, Step] = field(default_factory=dict)
    moves: dict[str, dict] = field(default_factory=dict)  # what `migrate --json` said
    beats: dict[str, list[Beat]] = field(default_factory=dict)  # of guests
    said: list[str] = field(default_factory=list)  # by a guest on its serial line
    finished: bool = False

    def add(self, kind: str, rest: str) -> None:
        name, _, text = rest.partition(" ")
        if kind == "step":
            result, seconds, *detail = text.split(" ", 2)
            self.steps[name] = Step(name, result == "ok", float(seconds), " ".join(detail))
        elif kind == "move":
            self.moves[name] = json.loads(text) if text else {}
        elif kind == "beat":
            arrival, _, fields = text.partition(" ")
            self.beats.setdefault(name, []).append(parse_beat(float(arrival), fields))
        elif kind == "said":
            self.said.append(rest)
        elif kind == "end":
            self.finished = True


class NestedHost:
    """The outer machine.  A context manager: its QEMU and its files go with it."""

    def __init__(self, directory: Path, kernel: images.Kernel, steps: str = "steps"):
        """*directory*: for its files; *kernel*: of fetch_outer_kernel(); *steps*: a file of
        lab/nested, what happens."""
        self.console = directory / "outer.console"
        self._report = directory / "report"
        self._report.touch()
        self._initramfs = directory / "outer.cpio"
        build_initramfs(kernel, steps, self._initramfs)
        self.process = Process(
            [*backports_qemu().command, "-accel", "tcg", "-cpu", "EPYC", "-smp", "1",
             "-m", str(MEMORY_MB), "-nodefaults", "-display", "none", "-no-reboot",
             "-kernel", kernel.vmlinuz, "-initrd", self._initramfs,
             "-append", "console=ttyS0 loglevel=4 panic=-1 mitigations=off",
             "-serial", f"file:{self.console}", "-serial", f"file:{self._report}"],
            directory / "outer.qemu.log")

    def report(self) -> Report:
        """What it has reported so far."""
        report = Report()
        text = self._report.read_text(errors="replace")
        for line in text[:text.rfind("\n") + 1].splitlines():
            report.add(*line.partition(" ")[::2])
        return report

    def wait(self, timeout: float) -> Report:
        """Its whole report; LabError at the first failed step, or after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while True:
            running = self.process.running  # before the report: what it said last counts
            report = self.report()
            for step in report.steps.values():
                if not step.passed:
                    raise LabError(f"{step.name}: {step.detail}\n{self.log()}")
            if report.finished:
                return report
            done = ", ".join(report.steps) or "nothing"
            if not running:
                raise LabError(f"the outer machine ended after {done}\n{self.log()}")
            if time.monotonic() > deadline:
                raise LabError(f"not within {timeout} s; done: {done}\n{self.log()}")
            time.sleep(0.5)

    def log(self) -> str:
        """The end of the outer machine's console, and what its QEMU said."""
        console = self.console.read_text(errors="replace") if self.console.exists() else ""
        return console[-8000:] + self.process.output()[-2000:]

    def close(self) -> None:
        self.process.kill()
        self._initramfs.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
