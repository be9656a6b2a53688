#!/usr/bin/env python3
"""docs/state-format.md ends with the tables of the schema; --write puts them there."""

import subprocess
import sys
from pathlib import Path

MARK = "## The schema\n"


def main(program: str, document: Path, write: bool) -> int:
    text = document.read_text()
    tables = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    wanted = text.partition(MARK)[0] + tables
    if write:
        document.write_text(wanted)
    elif text != wanted:
        print(f"{document} is not what the schema says: {sys.argv[0]} PROGRAM DOCUMENT --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), "--write" in sys.argv))
