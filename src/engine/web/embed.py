#!/usr/bin/env python3
"""Writes the page's files, and uPlot's where it was fetched, as a C file: embed.py OUTPUT PAGE UPLOT."""

import hashlib
import sys
from pathlib import Path

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
         ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
         "": "text/plain; charset=utf-8"}
UPLOT = ["uPlot.esm.js", "uPlot.min.css", "LICENSE"]
LINE = 64


def files(page: Path, uplot: Path):
    """(path in the URL, content)"""
    for file in sorted(page.iterdir()):
        yield "/" if file.name == "index.html" else f"/web/{file.name}", file
    if all((uplot / name).is_file() for name in UPLOT):
        for name in UPLOT:
            yield f"/web/uplot/{name}", uplot / name
    else:
        print(f"NOTE: there is no uPlot in {uplot}: the engine's page has no charts "
              "(scripts/fetch-uplot fetches it)")


def literal(content: bytes) -> str:
    lines = (content[i:i + LINE] for i in range(0, len(content), LINE))
    return "\n".join('     "' + "".join(f"\\{byte:03o}" for byte in line) + '"' for line in lines) or '     ""'


def main(output: Path, page: Path, uplot: Path) -> None:
    text = ['#include "engine/web/web_files.h"', "", "const WebFile web_files[] = {"]
    for url, file in files(page, uplot):
        content = file.read_bytes()
        tag = hashlib.sha256(content).hexdigest()[:16]
        text += [f'    {{"{url}", "{TYPES[file.suffix]}", "\\"{tag}\\"", {len(content)},',
                 literal(content) + "},"]
    text += ["};", "const size_t web_n_files = sizeof web_files / sizeof web_files[0];", ""]
    new = "\n".join(text)
    # An old file that is the same is left alone, so that nothing is built again.
    if not output.exists() or output.read_text() != new:
        output.write_text(new)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
