"""Programs of Debian's packages in the guest's image, with their libraries."""

import re
import shutil
import subprocess
from pathlib import Path

from . import debian
from .cache import make_once
from .process import LabError

LIBRARIES = "lib/x86_64-linux-gnu"
LOADER = "lib64/ld-linux-x86-64.so.2"


def library_packages(package: str, suite: str) -> list[str]:
    """The libraries a package depends on, directly or not.  Lock held, lists fetched."""
    found, waiting = set(), [package]
    while waiting:
        needed = [name for name in debian.depends(waiting.pop(), suite)
                  if name.startswith("lib") and name not in found]
        found.update(needed)
        waiting += needed
    return sorted(found)


def fetch_program(name: str, package: str) -> Path:
    """A folder with that package and all its libraries, unpacked.  Lock held."""
    suite = debian.release_name()

    def make(folder: Path) -> None:
        debian.update()
        debian.unpack([package, *library_packages(package, suite)], suite, folder)

    return make_once(f"{name}-{suite}", make)


def needed_libraries(program: Path, folder: Path) -> dict[str, Path]:
    """The shared libraries of *program* by name, found in *folder*, and those of these."""
    files = {path.name: path for path in sorted(folder.rglob("*.so*"))}
    found: dict[str, Path] = {}
    waiting = [program]
    while waiting:
        dynamic = subprocess.run(["readelf", "-d", waiting.pop()], capture_output=True, text=True,
                                 check=True).stdout
        for name in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic):
            if name in found:
                continue
            if name not in files:
                raise LabError(f"{program.name} for the guest: no package brings {name}")
            found[name] = files[name]
            waiting.append(files[name])
    return found


def install_program(tree: Path, folder: Path, program: str, name: str) -> None:
    """Puts a program of such a folder into the image, as bin/NAME.  Lock held."""
    libraries = needed_libraries(folder / program, folder)
    loader = libraries.pop(Path(LOADER).name)
    targets = {tree / LIBRARIES / library: path for library, path in libraries.items()}
    targets |= {tree / LOADER: loader, tree / "bin" / name: folder / program}
    for target, source in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755)
