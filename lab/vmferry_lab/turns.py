"""A guest that is paused and resumed in turns by QMP, and whether its disks go on."""

import time

from .qmp import Qmp

DEAD_S = 5  # without one request done, though the guest runs


def disk_requests(qmp: Qmp) -> int:
    """Requests to all its disks that were done so far."""
    return sum(entry["stats"][f"{kind}_operations"] for entry in qmp.execute("query-blockstats")
               for kind in ("rd", "wr", "flush"))


def disks_stand_still(qmp: Qmp, seconds: float = DEAD_S) -> bool:
    """Not one request is done for that long."""
    since = disk_requests(qmp)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if disk_requests(qmp) > since:
            return False
        time.sleep(0.05)
    return True


def count_turns(qmp: Qmp, most: int, stop_s: float = 0.02, run_s: float = 0.02) -> int | None:
    """How many turns it took until the disks stood still for good; None: they work."""
    for number in range(1, most + 1):
        before = disk_requests(qmp)
        qmp.execute("stop")
        time.sleep(stop_s)
        qmp.execute("cont")
        time.sleep(run_s)
        if disk_requests(qmp) == before and disks_stand_still(qmp):
            return number
    return None
