"""boot_sector.S as a disk, and what that guest says."""

import re
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("boot_sector.S")
MEBIBYTE = 1 << 20
WRONG = "wrong"
SAYS = re.compile(r"^ok ([0-9A-F]{4})$", re.M)


def make_disk(path: Path) -> Path:
    """A raw image of 4 MiB that begins with it."""
    linked = path.with_suffix(".elf")
    subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x7c00,--build-id=none",
                    "-o", linked, SOURCE], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", linked, path], check=True)
    linked.unlink()
    with path.open("r+b") as file:
        file.truncate(4 * MEBIBYTE)
    return path


def counts_of(text: str) -> list[int]:
    """Each count that it has told."""
    return [int(each, 16) for each in SAYS.findall(text)]
