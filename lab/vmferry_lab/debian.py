"""Debian's packages, downloaded and unpacked but never installed.

apt runs with a configuration of its own in the cache folder, so neither the
user's package sources nor the lists of the system are touched, and no root is
needed.  Call these functions with the cache's lock held.
"""

import re
import subprocess
from pathlib import Path

from .cache import cache_dir

ARCHIVE = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def release_name() -> str:
    """The running Debian's code name: "bookworm"."""
    text = Path("/etc/os-release").read_text()
    return re.search(r"^VERSION_CODENAME=(\w+)", text, re.M)[1]


def mirror() -> str:
    """The archive the user's own apt uses for this release."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"],
        capture_output=True, text=True).stdout
    for line in targets.splitlines():
        uri, _, release = line.partition(" ")
        if release == release_name() and uri.rstrip("/").endswith("/debian"):
            return uri.rstrip("/")
    return ARCHIVE


def _apt_options() -> list[str]:
    root = cache_dir() / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": root / "lists",
        "Dir::State::status": "/dev/null",  # newer versions may be installed
        "Dir::Cache": root,
        "Debug::NoLocking": "1",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "APT::Sandbox::User": "",
    }
    return [f"-o{key}={value}" for key, value in options.items()]


def _apt(tool: str, *arguments: str, folder: Path | None = None) -> str:
    done = subprocess.run([tool, *_apt_options(), *arguments], cwd=folder,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{tool} {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def update() -> None:
    """Fetches the lists of this release and its backports."""
    suites = [release_name(), f"{release_name()}-backports"]
    lines = [f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n" for suite in suites]
    _apt_options()
    (cache_dir() / "apt" / "sources.list").write_text("".join(lines))
    _apt("apt-get", "-qq", "update")


def concrete_kernel(package: str, suite: str) -> str:
    """The versioned package behind one such as linux-image-cloud-amd64."""
    text = _apt("apt-cache", "show", f"{package}/{suite}")
    return re.search(r"^Depends: (linux-image-[\w.+-]+)", text, re.M)[1]


def depends(package: str, suite: str) -> list[str]:
    """What a package depends on by itself; of alternatives the first."""
    text = _apt("apt-cache", "show", f"{package}/{suite}")
    lines = re.findall(r"^(?:Pre-)?Depends: (.*)", text, re.M)
    return [re.split(r"[ :|(]", word.strip())[0] for line in lines for word in line.split(",")]


def unpack(packages: list[str], suite: str, folder: Path) -> None:
    """Downloads *packages* from *suite* and unpacks them into *folder*."""
    downloads = folder / ".downloads"
    downloads.mkdir()
    _apt("apt-get", "-q", "-t", suite, "download", *packages, folder=downloads)
    for archive in sorted(downloads.iterdir()):
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        archive.unlink()
    downloads.rmdir()
