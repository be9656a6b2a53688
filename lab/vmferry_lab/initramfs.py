"""Root file systems of machines that run this host's programs under a Debian kernel."""

import re
import shutil
import subprocess
import time
from pathlib import Path

from . import images
from .cache import cache_lock
from .process import LabError, Process
from .qemu import system_qemu

# First process of run_program()'s machine.
INIT = """#!/bin/busybox sh
export PATH=/bin {environment}
busybox mkdir -p /proc /sys /dev /tmp
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
while read -r module; do
    busybox insmod "/modules/$module"
done </modules/order
busybox ip link set lo up
{command} >/dev/ttyS1 2>&1
busybox echo "exit code $?" >/dev/ttyS1
busybox poweroff -f
"""


def copy_file(source: Path | str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def copy_program(program: Path | str, tree: Path, target: Path) -> None:
    """A program of this machine, with its libraries where its loader looks for them."""
    copy_file(program, target)
    target.chmod(0o755)
    listing = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+) \(0x", listing):
        if not (tree / library[1:]).exists():
            copy_file(library, tree / library[1:])


def copy_modules(kernel: images.Kernel, names, tree: Path) -> None:
    """The kernel's modules *names* and all they need; modules/order has them in loading order."""
    (tree / "modules").mkdir()
    order = []
    for path in images.module_files(kernel, names):
        order.append(path.name.split(".ko")[0] + ".ko")
        (tree / "modules" / order[-1]).write_bytes(images.read_module(path))
    (tree / "modules/order").write_text("".join(f"{name}\n" for name in order))


def run_program(program: Path, modules, directory: Path, timeout: float,
                environment: str = "") -> str:
    """What *program* says in a machine of its own, under Debian's kernel with these modules; its
    last line is "exit code N".  LabError with the console after *timeout* seconds."""
    tree, initramfs, said = directory / "tree", directory / "machine.cpio", directory / "said"
    console = directory / "machine.console"
    with cache_lock():
        kernel = images.fetch_kernel()
        copy_file(images.fetch_busybox(), tree / "bin/busybox")
    copy_program(program, tree, tree / "bin/program")
    copy_modules(kernel, modules, tree)
    (tree / "init").write_text(INIT.format(command="/bin/program", environment=environment))
    (tree / "init").chmod(0o755)
    images.pack_initramfs(tree, initramfs)
    shutil.rmtree(tree)
    machine = Process(
        [*system_qemu().command, "-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none",
         "-no-reboot", "-kernel", kernel.vmlinuz, "-initrd", initramfs,
         "-append", "console=ttyS0 loglevel=4 panic=-1 mitigations=off",
         "-serial", f"file:{console}", "-serial", f"file:{said}"], directory / "machine.log")
    deadline = time.monotonic() + timeout
    while machine.running and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = not machine.running
    machine.kill()
    text = said.read_text(errors="replace") if said.exists() else ""
    if not ended or "exit code" not in text:
        raise LabError(f"not within {timeout} s: {text[-2000:]}\n"
                       f"{console.read_text(errors='replace')[-4000:]}{machine.output()[-2000:]}")
    return text
