"""The digest that a guest makes of a block device (lab/guest/block.c), of a file."""

import subprocess
import tempfile
from array import array
from pathlib import Path

START, FACTOR, MASK = 0xcbf29ce484222325, 0x100000001b3, (1 << 64) - 1


def digest_of_bytes(data: bytes) -> str:
    value = START
    for word in array("Q", data):
        value = ((value ^ word) * FACTOR) & MASK
    return f"{value:016x}"


def digest_of_image(image: Path, image_format: str = "raw") -> str:
    """What a guest would read from it; nobody may be writing to it."""
    if image_format == "raw":
        return digest_of_bytes(image.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        subprocess.run(["qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", image, raw],
                       check=True)
        return digest_of_bytes(raw.read_bytes())
