"""The disk writes of a split guest: revocable, and not lost (src/migrate/epoch_writes.h)."""

import subprocess
from pathlib import Path

import pytest
from vmferry_lab import REPOSITORY, images

PROGRAM = REPOSITORY / "build/tests/unit/migrate/epoch_writes_guest"
SIZE_MB = 80


def run(folder: Path, qemu, image_format: str, end: str, *, epochs: int) -> str:
    """A guest that writes and flushes all the time, in a second QEMU once it has been moved."""
    subprocess.run(["qemu-img", "create", "-q", "-f", image_format, folder / "disk",
                    f"{SIZE_MB}M"], check=True)
    guest = images.guest_image()
    console = f"file,id=console,path={folder / 'console'},append=on"
    drive = f"file={folder / 'disk'},format={image_format},if=none,id=disk0,cache=none"
    command = [*qemu.command, "-machine", "pc", "-accel", "tcg", "-m", "128", "-nodefaults",
               "-display", "none", "-kernel", str(guest.kernel), "-initrd", str(guest.initramfs),
               "-append", "console=ttyS0 panic=-1 lab.mb=8 lab.disk=vda lab.disk-rate=400",
               "-chardev", console, "-serial", "chardev:console",
               "-drive", drive, "-device", "virtio-blk-pci,drive=disk0"]
    result = subprocess.run([PROGRAM, folder, image_format, end, str(epochs), "--", *command],
                            capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


def test_takeover(tmp_path, any_qemu):
    """The destination's QEMU is killed: the image is that of the last committed epoch."""
    run(tmp_path, any_qemu, "qcow2", "takeover", epochs=40)


def test_ends_often(tmp_path, any_qemu):
    """Taps that end while the guest writes, some with a server that was killed: QEMU bears it.  (Ended
    by force while a write was under way, QEMU damaged its heap: within 20 times.)"""
    run(tmp_path, any_qemu, "qcow2", "often", epochs=40)


@pytest.mark.long
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("end", ["takeover", "end"])
def test_ends(tmp_path, any_qemu, image_format, end):
    """The same for longer, and the ordinary end: the guest finds on its disk what it has written."""
    run(tmp_path, any_qemu, image_format, end, epochs=100)
