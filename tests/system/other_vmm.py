"""A guest that moves between QEMU and Bochs, heard of by its console alone."""

import re
from dataclasses import dataclass
from pathlib import Path

from vmferry_lab import Agent, GuestHarmed, Host, LabError, is_alive, wait_until

CPUS = re.compile(r"lab: cpus((?: \d+)+)")
BEAT = re.compile(r"lab: beat guest_ms=(\d+) passes=(\d+) errors=(\d+) written=(\d+) disk=(\d+)")
# An -M pc that Bochs can be: no card, or none that it has not.
PC = {"rng": False, "vga": False, "card": False, "memory_mb": 96, "arena_mb": 8, "disk_mb": 4,
      "ide": True, "cpu": "Haswell", "pattern": "mixed", "pages_per_second": 10, "check": 4,
      "disk_rate": 2, "kernel_words": "loglevel=6"}

LOOK_POINTS = ["look.paused"]  # faults: of `vmferry state`, not of moves


@dataclass(frozen=True)
class Beat:
    guest_ms: int
    passes: int
    errors: int
    written: int
    disk: int


def cpus_of(text: str) -> list[list[int]]:
    """What each processor had counted, once a second, of a guest with `lab.cpus=1`."""
    return [list(map(int, match.group(1).split())) for match in CPUS.finditer(text)]


def beats_of(text: str) -> list[Beat]:
    return [Beat(*map(int, match.groups())) for match in BEAT.finditer(text)]


def vmm_programs(host: Host) -> list[str]:
    """The command lines of QEMUs and Bochses that a host's agent has started.  A Bochs is in a network of its own, in a folder of
    its agent's."""
    inside = set(host.namespace.pids())
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            folder = str((process / "cwd").readlink())
        except OSError:
            continue
        if re.match(r"qemu-system|bochs", Path(words[0]).name) and is_alive(int(process.name)) and \
                (int(process.name) in inside or folder.startswith(str(host.directory))):
            found.append(" ".join(words))
    return found


class Journey:
    """A guest, and all that it has said: in QEMU into its console, in Bochs into a file beside it."""

    def __init__(self, a: Agent, b: Agent, guest):
        self.a, self.b, self.guest = a, b, guest
        self.here = a
        self.longest_step_ms = 4000
        self.heard: list[Beat] = []
        self.cpus: list[list[int]] = []
        self.said = 0  # of the file that it writes to now
        self.file = Path(guest.console)

    def begin(self) -> "Journey":
        self.a.run(self.guest)
        self.hear(2)
        return self

    def begin_at_once(self) -> "Journey":
        """It has just been started: its firmware runs."""
        self.a.run(self.guest, wait=False)
        return self

    # ---- moves ----

    def move(self, vmm: str, *options) -> dict:
        there = self.other()
        if vmm == "bochs":
            self._bochs_file().unlink(missing_ok=True)  # of the visit before
        result = self.here.migrate(self.guest, there, "--vmm", vmm, *options)
        if result.exit_code != 0:
            raise LabError(f"move to {vmm}: {result.stdout} {result.stderr} {there.log()[-2000:]}")
        self._take_all()
        self.here = there
        self.follow(vmm)
        assert self.status()["state"] == "running"
        assert self.guest.name not in self.other().guest_names()
        return result.json

    def follow(self, vmm: str) -> None:
        """From now on what it says goes there; Bochs begins its file anew."""
        console = Path(self.guest.console)
        if vmm == "bochs":
            self.file, self.said = self._bochs_file(), 0
        else:
            self.file, self.said = console, len(console.read_text(errors="replace"))

    def finish(self) -> None:
        """It goes on where it is, and has had nothing to complain of."""
        before, after = self.heard[-1], self.hear(3)[-1]
        assert after.disk > before.disk and after.written > before.written
        assert self.complaints() == []

    def _bochs_file(self) -> Path:
        console = Path(self.guest.console)
        return console.with_name(console.name + ".bochs")

    def bochs_configuration(self) -> str:
        """Of the one that it is in."""
        folder, = self.here.host.path("run").glob(f"guest-*/{self.guest.name}.bochs")
        return (folder / "bochsrc").read_text()

    def other(self) -> Agent:
        return self.b if self.here is self.a else self.a

    def status(self) -> dict:
        return self.here.status(self.guest)

    # ---- what it says ----

    def _take_all(self) -> str:
        text = self.file.read_text(errors="replace") if self.file.exists() else ""
        new = text[self.said:]
        whole = new[:new.rfind("\n") + 1]
        self.said += len(whole)
        self.heard += beats_of(whole)
        self.cpus += cpus_of(whole)
        if "lab: BAD" in new:
            raise GuestHarmed(f"it says: {new}")
        return new

    def hear(self, beats: int, timeout: float = 120) -> list[Beat]:
        """Waits for so many more; all of what it has said must be sound."""
        wanted = len(self.heard) + beats

        def look() -> bool:
            self._take_all()
            return len(self.heard) >= wanted
        wait_until(look, f"{beats} beats of {self.guest.name} in {self.file.name}", timeout)
        self.check()
        return self.heard[-beats:]

    def check(self) -> None:
        """Memory and disk hold what was written; its clock goes forward, by about a second a beat."""
        for before, after in zip(self.heard, self.heard[1:]):
            if after.errors:
                raise GuestHarmed(f"it has found errors: {after}")
            step = after.guest_ms - before.guest_ms
            if not 0 < step < self.longest_step_ms:
                raise GuestHarmed(f"its clock made a step of {step} ms at {after}")
            if after.disk < before.disk or after.passes < before.passes:
                raise GuestHarmed(f"what it had done is gone: {before}, {after}")
        # Two lines on: a host with fewer cores than its guest may leave one of them out for a moment.
        for before, after in zip(self.cpus, self.cpus[2:]):
            if not all(now > then for then, now in zip(before, after, strict=True)):
                raise GuestHarmed(f"a processor stands, or has gone back: {before}, {after}")

    def complaints(self) -> list[str]:
        """Of the kernel, since it had started, about clocks or devices."""
        console = Path(self.guest.console)
        texts = [file.read_text(errors="replace").partition("lab: ready")[2] if file is console
                 else file.read_text(errors="replace")
                 for file in (console, console.with_name(console.name + ".bochs"))
                 if file.exists()]
        words = re.compile(r"clocksource|unstable|watchdog|lost interrupt|ata\d.*(error|exception|timeout)"
                           r"|BUG|Oops|rcu.*stall|soft lockup", re.I)
        return [line for text in texts for line in text.splitlines() if words.search(line)]
