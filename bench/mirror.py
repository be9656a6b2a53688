"""QEMU's own move of a guest and its disk, by the commands that libvirt gives.

The destination waits with a target image that was made before, and exports it by NBD; the source
mirrors its disk to that export over TCP, then `migrate`s and pauses before the switchover, where the
mirror is ended (`virsh migrate --copy-storage-all`, 8.0 and later).
"""

import subprocess
import time

from contenders import INCOMING_PORT, LIMIT_S, Tuning
from measure import Ruler, Sample
from vmferry_lab import LabError, cpu_seconds
from vmferry_lab.qmp import Qmp, QmpTimeout

NBD_PORT = 4445
JOB, TARGET = "drive-disk0", "migration-disk0"
TUNING = Tuning(("pause-before-switchover", "late-block-activate"))
JOB_EVENTS = ("BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_ERROR")
ENDED = ("completed", "failed", "cancelled")


class Mirror:
    """One move; its steps in their order."""

    def __init__(self, lab, disk, here: Qmp, there: Qmp, limit_s: float):
        self._address = lab.host_b.ip
        self._disk = disk
        self._here = here
        self._there = there
        self._limit_s = limit_s
        self._deadline = 0.0
        self.parts: dict[str, float] = {}  # of the pause, as vmferry's downtime_parts

    def wait_for_it(self) -> None:
        """The destination, before the clock runs."""
        self._there.execute("nbd-server-start", addr=self._nbd("0.0.0.0"))
        self._there.execute("block-export-add", type="nbd", id="libvirt-nbd-disk0", name=JOB,
                            writable=True, **{"node-name": self._disk.node})
        self._there.execute("migrate-incoming", uri=f"tcp:0.0.0.0:{INCOMING_PORT}")

    def copy_disk(self, copy_mode: str) -> None:
        """Returns when the copy is in sync."""
        self._deadline = time.monotonic() + self._limit_s
        self._here.execute("blockdev-add", driver="nbd", export=JOB,
                           server=self._nbd(self._address)["data"] | {"type": "inet"},
                           **{"node-name": TARGET})
        self._here.execute("blockdev-mirror", device=self._disk.node, target=TARGET, sync="full",
                           **{"job-id": JOB, "auto-finalize": True, "auto-dismiss": False,
                              "copy-mode": copy_mode})
        self._await_job("BLOCK_JOB_READY")

    def move_memory(self) -> None:
        """Returns when the guest is paused there, all of it and of its disk."""
        self._here.execute("migrate", uri=f"tcp:{self._address}:{INCOMING_PORT}")
        self._await_status("pre-switchover")
        paused = time.monotonic()
        self._here.execute("block-job-cancel", device=JOB)
        self._await_job("BLOCK_JOB_COMPLETED")
        self._here.execute("job-dismiss", id=JOB)
        self._here.execute("blockdev-del", **{"node-name": TARGET})
        self.parts["disks_ms"] = (time.monotonic() - paused) * 1e3
        self._here.execute("migrate-continue", state="pre-switchover")
        self._await_status("completed")

    def resume(self) -> None:
        begin = time.monotonic()
        self._there.execute("nbd-server-stop")
        self._there.execute("cont")
        self.parts["start_ms"] = (time.monotonic() - begin) * 1e3

    def _nbd(self, host: str) -> dict:
        return {"type": "inet", "data": {"host": host, "port": str(NBD_PORT)}}

    def _wait(self, wanted) -> dict:
        return self._here.wait_event(wanted, max(0.1, self._deadline - time.monotonic()))

    def _await_job(self, wanted: str) -> None:
        event = self._wait(lambda event: event["event"] in JOB_EVENTS)
        if event["event"] != wanted or "error" in event["data"]:
            raise LabError(f"mirror: {event['event']} {event['data']}")

    def _await_status(self, wanted: str) -> None:
        event = self._wait(lambda event: event["event"] == "MIGRATION"
                           and event["data"]["status"] in (wanted, *ENDED))
        if event["data"]["status"] != wanted:
            raise LabError(f"migrate: {event['data']}")


def make_target(disk, path) -> None:
    """As a storage pool makes a volume of that size."""
    subprocess.run(["qemu-img", "create", "-q", "-f", disk.format, path, str(disk.bytes)], check=True)


def move_with_mirror(lab, guest, prepare, disk, copy_mode: str, limit_s: float = LIMIT_S) -> Sample:
    """*disk*: disks.Disk, the guest's only one."""
    make_target(disk, disk.on(lab.host_b))
    source = guest.start(lab.host_a)
    command = [word.replace(str(disk.on(lab.host_a)), str(disk.on(lab.host_b)))
               for word in guest.command_with_qmp(guest.qmp_path(lab.host_b))]
    begin = time.monotonic()
    destination = lab.host_b.start([*command, "-incoming", "defer", "-S"], f"{guest.name}.incoming")
    with Qmp(guest.qmp_path(lab.host_b)) as there, Qmp(guest.qmp_path(lab.host_a)) as here:
        mirror = Mirror(lab, disk, here, there, limit_s)
        for side in (there, here):
            TUNING.apply(side)
        mirror.wait_for_it()
        prestart_ms = (time.monotonic() - begin) * 1e3
        heartbeat = prepare(guest)
        prestart = cpu_seconds(destination.pid)
        ruler = Ruler(lab, heartbeat, source.pid, [destination.pid])
        ruler.start()
        begin = time.monotonic()
        reason, copied_ms = "", 0.0
        try:
            mirror.copy_disk(copy_mode)
            copied_ms = (time.monotonic() - begin) * 1e3
            mirror.move_memory()
            mirror.resume()
        except QmpTimeout:
            reason = "too long"
        total_ms = (time.monotonic() - begin) * 1e3
        ruler.stop([])
        facts = here.execute("query-migrate")
    return Sample(finished=not reason, reason=reason, total_ms=total_ms,
                  downtime_ms=facts.get("downtime", 0), prestart_cpu_s=prestart,
                  prestart_ms=prestart_ms, rounds=facts.get("ram", {}).get("dirty-sync-count", 0),
                  round_reports=[], peak_memory_bytes=0,
                  copies=[{"id": JOB, "copy_ms": copied_ms}],
                  downtime_parts=mirror.parts, **ruler.readings())
