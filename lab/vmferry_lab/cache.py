"""The cache folder: downloads and built images, shared by all runs of this tree."""

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """VMFERRY_CACHE, or .cache in the repository; made when missing."""
    path = Path(os.environ.get("VMFERRY_CACHE") or REPOSITORY / ".cache")
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


@contextmanager
def cache_lock(name: str = "lock"):
    """One user of the cache at a time.  Not reentrant.

    What takes minutes to make has a lock of its own *name*, so that labs that only use the cache do not wait.
    """
    with open(cache_dir() / name, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_once(name: str, make) -> Path:
    """The folder *name* in the cache; made by make(folder) where it is missing.

    The folder appears complete or not at all.  Call it with the lock held.
    """
    final = cache_dir() / name
    if final.exists():
        return final
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_dir()))
    try:
        work.chmod(0o755)
        make(work)
        work.rename(final)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return final
