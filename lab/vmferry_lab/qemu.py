"""The QEMU programs of the lab: Debian's own, and the newer one from backports."""

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import debian
from .cache import cache_dir, cache_lock, make_once
from .process import LabError

BACKPORTS_PACKAGES = ["qemu-system-x86", "qemu-system-common", "qemu-system-data",
                      "qemu-system-modules-opengl", "qemu-system-modules-spice",
                      "seabios", "ipxe-qemu"]
# The program was not built to be moved, so it is told where its firmware lies.
FIRMWARE_FOLDERS = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"]


@dataclass(frozen=True)
class Qemu:
    """One QEMU: its program and the options it always needs."""

    program: str
    options: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        return [self.program, *self.options]

    @functools.cached_property
    def version(self) -> str:
        text = subprocess.run([self.program, "--version"], capture_output=True, text=True,
                              check=True).stdout
        return re.search(r"version ([\d.]+)", text)[1]


def system_qemu() -> Qemu:
    """The installed one (7.2 in Debian 12)."""
    program = shutil.which("qemu-system-x86_64")
    if not program:
        raise LabError("qemu-system-x86_64 is not installed: run scripts/bootstrap")
    return Qemu(program)


def backports_qemu() -> Qemu:
    """QEMU 10.0, downloaded into the cache on first use.

    Its libraries are those of the installed QEMU, so that one must be there.
    """
    suite = f"{debian.release_name()}-backports"

    def make(folder: Path) -> None:
        debian.update()
        debian.unpack(BACKPORTS_PACKAGES, suite, folder)
        # Where a folder of this name is beside it, QEMU takes its modules from there.
        (folder / "usr/bin/qemu-bundle").symlink_to("../..")

    with cache_lock():
        folder = make_once("qemu-10.0-modules", make)
    program = folder / "usr/bin/qemu-system-x86_64"
    _require_libraries(program)
    options = [word for name in FIRMWARE_FOLDERS for word in ("-L", str(folder / name))]
    return Qemu(str(program), tuple(options))


def _require_libraries(program: Path) -> None:
    listing = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    missing = [line.split()[0] for line in listing.splitlines() if "not found" in line]
    if missing:
        raise LabError(f"{program} lacks {', '.join(missing)}: run scripts/bootstrap")


def qemu(version: str) -> Qemu:
    """ "7.2" (or "system") and "10.0" (or "backports")."""
    return backports_qemu() if version in ("10.0", "backports") else system_qemu()


def has_kvm() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)
