#!/usr/bin/env python3
"""No component includes one that is linked after it (the order is meson.build's), and only the
driver itself includes its driver's folder."""

import re
import sys
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[2])
# What may name a VMM's driver: its own folder, and the registry of drivers.
DRIVERS = {"qemu", "bochs"}
REGISTRY = "vmm/vmm_drivers.c"


def order() -> list[str]:
    return re.findall(r"^subdir\('src/(\w+)'\)", (ROOT / "meson.build").read_text(), re.MULTILINE)


def includes(path: Path) -> list[str]:
    return re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE)


def problems() -> list[str]:
    rank = {name: i for i, name in enumerate(order())}
    found = []
    for path in sorted((ROOT / "src").rglob("*.[ch]")):
        here = path.relative_to(ROOT / "src")
        for name in includes(path):
            folder, *rest = name.split("/")
            if folder not in rank:
                continue
            if rank[folder] > rank[here.parts[0]]:
                found.append(f"{here} includes {name}, which comes after it")
            driver = folder == "vmm" and len(rest) > 1 and rest[0] in DRIVERS
            if driver and here.parts[:2] != ("vmm", rest[0]) and str(here) != REGISTRY:
                found.append(f"{here} includes {name}, a driver's own header")
    return found


if __name__ == "__main__":
    text = problems()
    print("\n".join(text))
    sys.exit(bool(text))
