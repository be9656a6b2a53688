"""What a move costs, seen from outside: the same ruler for every contender."""

import ctypes
import mmap
import threading
import time
from dataclasses import dataclass

from vmferry_lab import cpu_seconds

BASE_SECONDS = 3.0    # how long the guest's own use of CPU is watched before a move
WATCH_SECONDS = 0.01  # how often a process that may end is looked at
SETTLE_BEATS = 100    # beats waited for after a move


@dataclass
class Sample:
    """One move."""

    finished: bool            # False: it failed, or took too long and was cancelled
    reason: str               # why it ended, where the contender says so
    total_ms: float           # as the contender reports it
    wall_ms: float            # from the order to its completion, as its user sees it
    downtime_ms: float        # as the contender reports it
    gap_ms: float             # longest silence of the heartbeat, less its interval
    wire_bytes: int           # both directions, as the hosts' interfaces count
    cpu_s: float              # spent on the move by all processes of both sides
    prestart_cpu_s: float     # spent on starting the destination before the clock ran
    rounds: int
    round_reports: list[dict]  # vmferry's, as `migrate --json` has them
    peak_memory_bytes: int    # of the larger agent; 0 for QEMU
    started_ms: float         # time.monotonic() * 1e3 at the order
    latency: dict | None = None  # of an application's requests
    # The guest's own work that the move cost it, as the time in which it does as much when left
    # alone; None: it counts none.
    lost_ms: float | None = None
    prestart_ms: float | None = None  # what starting the destination took before the clock ran
    copies: list[dict] | None = None  # of disks that moved along, as the contender has them
    downtime_parts: dict | None = None
    disk: dict | None = None          # see disks.py
    # Pages a second that the guest wrote when left alone, and from the order to the end of the
    # move; None as above.
    alone_per_s: float | None = None
    work_per_s: float | None = None
    postcopy: dict | None = None      # as the contender has it; None: all went before it
    touches: dict | None = None       # of a guest that touches pages: those that took long

    @property
    def whole_total_ms(self) -> float | None:
        """As whole_cpu_s."""
        return None if self.prestart_ms is None else self.total_ms + self.prestart_ms

    @property
    def work_share(self) -> float | None:
        """What the guest did while it was moved, of what it does in that time when left alone."""
        return self.work_per_s / self.alone_per_s if self.alone_per_s else None

    @property
    def whole_cpu_s(self) -> float:
        """The same work for all: somebody has to start the destination."""
        return self.cpu_s + self.prestart_cpu_s


class CpuWatch:
    """CPU seconds of a process since the watch began, also after its end."""

    def __init__(self, pid: int):
        self._pid = pid
        self._first = self._last = cpu_seconds(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _look(self) -> bool:
        try:
            self._last = max(self._last, cpu_seconds(self._pid))
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True

    def _watch(self) -> None:
        while not self._done.wait(WATCH_SECONDS) and self._look():
            pass

    def finish(self) -> float:
        self._done.set()
        self._thread.join()
        self._look()
        return self._last - self._first


# More than a move needs of the destination.
TOUCHED_BYTES = 1536 << 20


def touch_free_memory() -> None:
    """Uses memory and frees it, so that the destination's first touch costs all the same.

    Where this host is a guest itself, what it has freed may have gone back to its own host, and
    the first touch takes ten times as long, or not, as it happens.
    """
    with mmap.mmap(-1, TOUCHED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        view = (ctypes.c_char * TOUCHED_BYTES).from_buffer(memory)
        ctypes.memset(view, 1, TOUCHED_BYTES)
        del view


def lost_work_ms(before: list, during: list) -> float | None:
    """From the pages written by some beats before a move and by those from its order on."""
    alone_ms = before[-1].arrival_ms - before[0].arrival_ms if before else 0
    alone = before[-1].written - before[0].written if before else 0
    if alone <= 0 or alone_ms <= 0 or len(during) < 2:
        return None
    took_ms = during[-1].arrival_ms - during[0].arrival_ms
    return took_ms - (during[-1].written - during[0].written) * alone_ms / alone


def pages_per_second(beats: list) -> float:
    """That were written; 0 where there is nothing to tell it by."""
    took_ms = beats[-1].arrival_ms - beats[0].arrival_ms if beats else 0
    return (beats[-1].written - beats[0].written) * 1e3 / took_ms if took_ms > 0 else 0.0


def beats_until(beats: list, end_ms: float) -> list:
    """With the silence that may reach beyond it."""
    count = sum(beat.arrival_ms < end_ms for beat in beats)
    return beats[:count + 1]


class Ruler:
    """Reads counters before and after a move: start(), the move, stop()."""

    def __init__(self, lab, heartbeat, source_pid: int, helpers: list[int]):
        """*helpers*: agents, or a QEMU that waits; they outlive the move."""
        self.lab = lab
        self.heartbeat = heartbeat
        self.source_pid = source_pid
        self.helpers = helpers
        before = cpu_seconds(source_pid)
        first_beat = len(heartbeat.beats)
        time.sleep(BASE_SECONDS)
        self._beats_before = heartbeat.beats[first_beat:]
        self._base_rate = (cpu_seconds(source_pid) - before) / BASE_SECONDS
        touch_free_memory()

    def start(self) -> None:
        self._helper_cpu = {pid: cpu_seconds(pid) for pid in self.helpers}
        self._wire = self._all_bytes()
        self._source_watch = CpuWatch(self.source_pid)
        self._started_ms = time.monotonic() * 1e3

    def stop(self, destination_pids: list[int]) -> None:
        self.wall_ms = time.monotonic() * 1e3 - self._started_ms
        pids = {*self.helpers, *destination_pids}
        others = sum(cpu_seconds(pid) - self._helper_cpu.get(pid, 0) for pid in pids)
        own_use = self._base_rate * self.wall_ms / 1e3
        self.cpu_s = self._source_watch.finish() + others - own_use
        self.wire_bytes = self._all_bytes() - self._wire

    def readings(self) -> dict:
        """What was read, as fields of a Sample."""
        gap_ms = self._gap_ms()
        during = [beat for beat in self.heartbeat.beats if beat.arrival_ms >= self._started_ms]
        moving = beats_until(during, self._started_ms + self.wall_ms)
        alone_per_s = pages_per_second(self._beats_before) or None
        return {"wall_ms": self.wall_ms, "gap_ms": gap_ms, "wire_bytes": self.wire_bytes,
                "cpu_s": self.cpu_s, "started_ms": self._started_ms,
                "lost_ms": lost_work_ms(self._beats_before, during), "alone_per_s": alone_per_s,
                "work_per_s": pages_per_second(moving) if alone_per_s else None}

    def _gap_ms(self) -> float:
        """The client's downtime, once the guest has beaten on for a while."""
        self.heartbeat.wait(SETTLE_BEATS)
        self.heartbeat.check()
        return self.heartbeat.downtime_ms(since_ms=self._started_ms - 200)

    def _all_bytes(self) -> int:
        return sum(self.lab.link.bytes_from(host.name) for host in self.lab.hosts)
