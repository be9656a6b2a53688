"""Guest images: a stock Debian kernel, and an initramfs with busybox and the workload."""

import functools
import hashlib
import lzma
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import debian
from .cache import REPOSITORY, cache_lock, make_once
from .guest_agent import install_agent
from .redis import install_redis

GUEST_SOURCES = REPOSITORY / "lab" / "guest"
WORKLOAD_SOURCES = ("workload.c", "arena.c", "block.c", "console.c", "content.c", "cpus.c", "disk.c",
                    "files.c", "noise.c", "orders.c", "reader.c", "settings.c", "timings.c", "touch.c",
                    "writers.c")
GUEST_MODULES = ("virtio_pci", "virtio_mmio", "virtio_net", "virtio_blk", "virtio_rng",
                 "virtio_balloon", "virtio_scsi", "virtio_console", "sd_mod", "sr_mod")
IDE_MODULES = ("ata_piix",)  # loaded with the kernel word lab.ide=1


@dataclass(frozen=True)
class Image:
    kernel: Path
    initramfs: Path


@dataclass(frozen=True)
class Kernel:
    vmlinuz: Path
    modules: Path


def fetch_kernel(package: str = "linux-image-cloud-amd64", suite: str | None = None) -> Kernel:
    """The kernel behind the meta package *package*, unpacked.  Lock held."""
    suite = suite or debian.release_name()

    def make(folder: Path) -> None:
        debian.update()
        debian.unpack([debian.concrete_kernel(package, suite)], suite, folder)

    folder = make_once(f"{package}-{suite}", make)
    return Kernel(next(folder.glob("boot/vmlinuz-*")), next(folder.glob("lib/modules/*")))


def fetch_busybox() -> Path:
    """A static busybox.  Lock held."""
    def make(folder: Path) -> None:
        debian.update()
        debian.unpack(["busybox-static"], debian.release_name(), folder)

    return make_once("busybox-static", make) / "bin/busybox"


def module_files(kernel: Kernel, names) -> list[Path]:
    """Files of the modules *names* and all they need, in loading order.

    Names that are built into the kernel are left out.
    """
    files = {_plain(path.name.split(".ko")[0]): path for path in kernel.modules.rglob("*.ko*")}
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = files.get(_plain(name))
        if path is None or path in ordered:
            return
        for needed in _depends(read_module(path)):
            add(needed)
        ordered.append(path)

    for name in names:
        add(name)
    return ordered


def read_module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _depends(module: bytes) -> list[str]:
    start = module.index(b"\0depends=") + len(b"\0depends=")
    return [name for name in module[start:module.index(b"\0", start)].decode().split(",") if name]


def build_program(name: str, *sources: str) -> Path:
    """The static program *name* of *sources* (default: NAME.c) in lab/guest,
    built again when a file there changes.  Lock held."""
    digest = digest_of(sorted(GUEST_SOURCES.glob("*.[ch]")))

    def make(folder: Path) -> None:
        subprocess.run(["gcc", "-std=gnu17", "-Wall", "-Wextra", "-O2", "-static", "-pthread",
                        "-o", folder / name, *(sources or [f"{name}.c"])],
                       cwd=GUEST_SOURCES, check=True)

    return make_once(f"{name}-{digest}", make) / name


def digest_of(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


@functools.cache
def host_tsc_khz() -> str:
    """Frequency of this host's time stamp counter."""
    with cache_lock():
        program = build_program("tsc_khz")
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout.strip()


def pack_initramfs(tree: Path, output: Path) -> None:
    """A cpio archive of *tree*, not compressed: that boots fastest under TCG."""
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    with open(output, "wb") as out:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=tree,
                       input=names.encode(), stdout=out, check=True)


def fill_guest_tree(tree: Path, kernel: Kernel) -> None:
    (tree / "bin").mkdir()
    (tree / "modules").mkdir()
    _install(fetch_busybox(), tree / "bin" / "busybox")
    (tree / "bin" / "sh").symlink_to("busybox")
    _install(build_program("workload", *WORKLOAD_SOURCES), tree / "bin" / "workload")
    _install(GUEST_SOURCES / "init", tree / "init")
    _install_modules(tree, kernel, GUEST_MODULES, "order")
    _install_modules(tree, kernel, IDE_MODULES, "order-ide")


def _install_modules(tree: Path, kernel: Kernel, modules, order: str) -> None:
    """The file *order* names them and all they need, in loading order."""
    names = []
    for path in module_files(kernel, modules):
        name = path.name.split(".ko")[0] + ".ko"
        (tree / "modules" / name).write_bytes(read_module(path))
        names.append(name)
    (tree / "modules" / order).write_text("".join(f"{name}\n" for name in names))


def _install(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _recipe() -> str:
    own = [Path(__file__).with_name(name) for name in ("images.py", "guest_agent.py", "packages.py", "redis.py")]
    return digest_of([*sorted(GUEST_SOURCES.iterdir()), *own])


def guest_image(redis: bool = False, agent: bool = False) -> Image:
    """The lab's guest, perhaps with Redis or a guest agent; downloaded and built on first use."""
    with cache_lock():
        kernel = fetch_kernel()

        def make(folder: Path) -> None:
            tree = folder / "tree"
            tree.mkdir()
            fill_guest_tree(tree, kernel)
            if redis:
                install_redis(tree)
            if agent:
                install_agent(tree)
            pack_initramfs(tree, folder / "initramfs.cpio")
            shutil.rmtree(tree)

        extras = ("-redis" if redis else "") + ("-agent" if agent else "")
        folder = make_once(f"guest{extras}-{_recipe()}", make)
        return Image(kernel.vmlinuz, folder / "initramfs.cpio")


def fill_image(path: Path, pieces) -> None:
    """Writes content to a raw image; *pieces*: (offset, bytes, kind) as of lab/guest/mixture.c."""
    with cache_lock():
        program = build_program("mixture", "mixture.c", "content.c")
    text = "".join(f"{offset} {length} {kind}\n" for offset, length, kind in pieces)
    subprocess.run([program, path], input=text, text=True, check=True)


def disk_image(path: Path, megabytes: int) -> Path:
    """A raw, sparse disk image full of zeros."""
    with open(path, "wb") as disk:
        disk.truncate(megabytes << 20)
    return path

