"""A client's view of a guest: a held TCP connection on which it beats."""

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .netns import Namespace
from .process import GuestHarmed, LabError


@dataclass(frozen=True)
class Beat:
    arrival_ms: float  # time.monotonic() * 1e3 at the client
    sequence: int      # 0, 1, 2, … on this connection
    guest_ms: float    # the guest's own monotonic clock
    passes: int        # complete self-checks of memory
    errors: int        # findings of all checks so far
    written: int       # pages written so far


def parse_beat(arrival_ms: float, fields: str) -> Beat:
    """*fields*: what follows "beat" in the guest's line."""
    sequence, guest_ms, passes, errors, written = fields.split()
    return Beat(arrival_ms, int(sequence), float(guest_ms), int(passes), int(errors),
                int(written))


def check_beats(beats: list[Beat]) -> None:
    """GuestHarmed unless the sequence is whole, time moves on and memory is right."""
    for number, beat in enumerate(beats):
        if beat.sequence != number:
            raise GuestHarmed(f"heartbeat: beat {beat.sequence} where {number} was due")
        if beat.errors:
            raise GuestHarmed(f"guest's self-check: {beat.errors} errors at beat {number}")
    for before, after in zip(beats, beats[1:]):
        if after.guest_ms < before.guest_ms or after.written < before.written:
            raise GuestHarmed(f"guest went back in time at beat {after.sequence}")


def largest_gap_ms(beats: list[Beat]) -> float:
    arrivals = [beat.arrival_ms for beat in beats]
    return max((b - a for a, b in zip(arrivals, arrivals[1:])), default=0.0)


class Heartbeat:
    """Collects beats from its creation to close().

    The connection is the guest's: when every beat on it is followed by the
    next number, exactly one copy of the guest has run, and nothing it sent
    was lost or said twice.
    """

    def __init__(self, namespace: Namespace, address: str, interval_ms: int = 50):
        self.interval_ms = interval_ms
        self.beats: list[Beat] = []
        self._changed = threading.Condition()
        self._ended = False
        program = Path(__file__).with_name("beats.py")
        self._process = subprocess.Popen(
            namespace.wrap([sys.executable, program, address, interval_ms]),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            arrival, _, fields = line.split(" ", 2)
            beat = parse_beat(int(arrival) / 1e6, fields)
            with self._changed:
                self.beats.append(beat)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait(self, count: int = 1, timeout: float = 30) -> Beat:
        """Waits for *count* beats from now on; the last one."""
        with self._changed:
            return self._wait_for(len(self.beats) + count, timeout)

    def _wait_for(self, total: int, timeout: float) -> Beat:
        self._changed.wait_for(lambda: self._ended or len(self.beats) >= total, timeout)
        if len(self.beats) < total:
            how = "connection ended" if self._ended else f"not within {timeout} s"
            words = self._process.stderr.read().strip() if self._ended else ""
            raise LabError(f"heartbeat: {len(self.beats)} of {total} beats: {how} {words}")
        return self.beats[-1]

    def is_silent(self, seconds: float) -> bool:
        """True when no beat comes for that long."""
        before = len(self.beats)
        time.sleep(seconds)
        return len(self.beats) == before

    def largest_gap_ms(self, since_ms: float = 0, until_ms: float = float("inf")) -> float:
        """Longest time between two beats, of those that arrived in the window."""
        return largest_gap_ms([beat for beat in self.beats
                               if since_ms <= beat.arrival_ms <= until_ms])

    def downtime_ms(self, since_ms: float = 0, until_ms: float = float("inf")) -> float:
        """The largest gap beyond the interval of the heartbeat."""
        return max(0.0, self.largest_gap_ms(since_ms, until_ms) - self.interval_ms)

    def guest_ms(self, at_ms: float) -> float:
        """The guest's clock at that time of ours, behind the first beat."""
        beat = max((beat for beat in self.beats if beat.arrival_ms <= at_ms),
                   key=lambda beat: beat.arrival_ms)
        return beat.guest_ms + min(at_ms - beat.arrival_ms, self.interval_ms)

    def check(self) -> None:
        """GuestHarmed unless the sequence is whole, time moves on and memory is right."""
        check_beats(self.beats)
        if self._ended:
            raise GuestHarmed("heartbeat: the connection has ended")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._process.stderr.close()
