"""Orders to the workload in a guest, over TCP."""

import socket
from dataclasses import dataclass

from .netns import Namespace
from .process import GuestHarmed, LabError

PORT = 7000
PAGE = 4096
# Under TCG each page that a guest of several vCPUs gives back interrupts all of them.
FREE_TIMEOUT_S = 150


@dataclass(frozen=True)
class Timing:
    """A commit (blocks that the guest wrote to its disk and flushed), or a touch of a page."""

    end_ms: int     # of the guest's clock, as in Beat
    took_ms: float


class Control:
    """One connection for orders; each order is a line, so is each answer."""

    def __init__(self, namespace: Namespace, address: str, timeout: float = 30):
        self._socket = namespace.socket()
        self._socket.settimeout(timeout)
        self._socket.connect((address, PORT))
        self._lines = self._socket.makefile("r")

    def ask(self, order: str) -> str:
        self._socket.sendall(order.encode() + b"\n")
        answer = self._lines.readline()
        if not answer:
            raise LabError(f"guest closed the connection after '{order}'")
        if answer.startswith("error"):
            raise LabError(f"guest on '{order}': {answer.strip()}")
        return answer.strip()

    def status(self) -> dict[str, str]:
        return _fields(self.ask("status"))

    def write(self, pattern: str, *, mb_per_second: float = 0, pages_per_second: int = 0,
              span_mb: int = 0, order: str = "random") -> None:
        """Changes what the guest writes: a pattern of workload.c, its rate
        (none: as fast as it goes) over the first *span_mb* of the arena
        (0: all of it), in "random" or "sequential" order."""
        pps = pages_per_second or round(mb_per_second * 1e6 / PAGE)
        self.ask(f"set pattern={pattern} order={order} pps={pps} span={span_mb}")

    def set(self, **settings) -> None:
        """Sets further settings: check=PAGES_PER_SECOND, disk_rate=BLOCKS_PER_SECOND,
        disk_batch=BLOCKS that are flushed together."""
        self.ask("set " + " ".join(f"{key.replace('_', '-')}={value}"
                                   for key, value in settings.items()))

    def check(self) -> str:
        """Checks the guest's whole arena; LabError for any finding.

        Returns a digest, which means something while the pattern is idle.
        """
        answer = _fields(self.ask("check"))
        if answer["errors"] != "0":
            raise GuestHarmed(f"guest's self-check: {answer['errors']} errors")
        return answer["digest"]

    def read(self, path: str, offset: int, count: int) -> bytes:
        """At most 100 bytes of a file in the guest, or of a card's memory (/sys/…/resource0)."""
        return bytes.fromhex(self.ask(f"read {path} {offset} {count}"))

    def write_bytes(self, path: str, offset: int, data: bytes) -> None:
        """Writes at most 100 bytes there."""
        self.ask(f"write {path} {offset} {data.hex()}")

    def free(self, megabytes: int) -> None:
        """The guest gives the last *megabytes* of its arena back to its kernel; they are zero
        from then on, and have no memory until they are written."""
        timeout = self._socket.gettimeout()
        self._socket.settimeout(FREE_TIMEOUT_S)
        self.ask(f"free {megabytes}")
        self._socket.settimeout(timeout)

    def check_disk(self) -> int:
        """Reads all acknowledged blocks back; LabError for any finding, else their number."""
        answer = _fields(self.ask("disk-check"))
        if answer["errors"] != "0":
            raise GuestHarmed(f"guest's disk check: {answer['errors']} errors")
        return int(answer["blocks"])

    def disk_commits(self, since: int = 1) -> list[Timing]:
        """All from that number (status: disk_sequence) on that the guest still knows."""
        return self._timings("disk-commits", since)

    def long_touches(self) -> list[Timing]:
        """Of the pattern "touch": all of 50 us or longer that the guest still knows."""
        return self._timings("touches", 1)

    def _timings(self, order: str, since: int) -> list[Timing]:
        timings: list[Timing] = []
        while True:
            answer = _fields(self.ask(f"{order} {since}"))
            pairs = [pair.split(":") for pair in answer["list"].split(",") if pair]
            if not pairs:
                return timings
            timings += [Timing(int(end_ms), int(took_us) / 1e3) for end_ms, took_us in pairs]
            since = int(answer["next"])

    def fill_block_device(self, name: str, blocks: int, seed: int) -> None:
        """Writes that many blocks of /dev/NAME."""
        self.ask(f"block-fill {name} {blocks} {seed}")

    def digest_block_device(self, name: str) -> str:
        """Of all of /dev/NAME, as the guest reads it; see digest_of_image()."""
        return _fields(self.ask(f"block-digest {name}"))["digest"]

    def machine(self) -> dict:
        """What the guest's kernel has: cpus, mem_kb, blocks, nets."""
        fields = _fields(self.ask("machine"))
        return {"cpus": int(fields["cpus"]), "mem_kb": int(fields["mem_kb"]),
                "blocks": set(fields["blocks"].split(",")), "nets": set(fields["nets"].split(","))}

    def clocks(self) -> dict[str, int]:
        """The guest's clocks: mono_ns, real_ns, and rtc_s (0: it has none)."""
        return {key: int(value) for key, value in _fields(self.ask("clocks")).items()}

    def mac(self, card: str) -> str:
        return self.read(f"/sys/class/net/{card}/address", 0, 17).decode()

    def power_off(self) -> None:
        """The guest powers off; no answer comes, so none is waited for."""
        self._socket.sendall(b"poweroff\n")

    def suspend_to_ram(self) -> None:
        """The guest goes to sleep (ACPI S3); it answers, if at all, when it was woken."""
        self._socket.sendall(f"write /sys/power/state 0 {b'mem'.hex()}\n".encode())

    def interrupt(self) -> None:
        """Ends an order that another thread waits for, with an error."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _fields(answer: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in answer.split() if "=" in word)
