"""A fresh QEMU takes the place of a paused one on the same host, its memory served from the old
one's and from a delta store (src/migrate/takeover.h).  tests/unit/migrate/takeover_tool.c does it."""

import os
import signal
import socket
from pathlib import Path

import pytest

from vmferry_lab import qemu_pids, vmferry_program, wait_until
from vmferry_lab.process import is_alive

TOOL = Path(vmferry_program()).parents[2] / "tests/unit/migrate/takeover_tool"
# A machine that only this runs on takes some 20 ms.
MOST_RUN_MS = 500


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Takeover:
    """A guest whose QEMU has all that only one on a host can have, and what the tool said."""

    def __init__(self, lab, qemu, **options):
        self.lab, self.host = lab, lab.host_a
        self.folder = self.host.path("takeover")
        self.folder.mkdir()
        self.pidfile, self.monitor = self.host.path("pid"), self.host.path("monitor")
        self.guest = lab.guest(
            qemu=qemu, disk_mb=16, disk_rate=50, pattern="mixed", pages_per_second=2000,
            extra=["-pidfile", self.pidfile, "-vnc", "127.0.0.1:7",
                   "-monitor", f"unix:{self.monitor},server=on,wait=off",
                   "-netdev", "user,id=user0,hostfwd=tcp:127.0.0.1:2222-:22"], **options)
        self.old = self.guest.start(self.host)
        self.beats = self.guest.heartbeat(10)
        self.beats.wait(20)
        self.said = {}

    def tool(self, *arguments):
        done = self.host.run([TOOL, *arguments], timeout=180)
        self.said |= dict(line.split() for line in done.stdout.splitlines())
        print(done.stdout)
        return done

    def run(self, delta_pages=0, dies_at=0):
        return self.tool("run", self.folder, self.old.pid, self.guest.qmp_path(self.host),
                         delta_pages, dies_at)

    def check(self):
        """Exactly one copy of the guest has run, with its memory and disk, and in the old place."""
        assert not is_alive(self.old.pid)
        assert qemu_pids(self.host, self.guest) == [int(self.said["pid"])]
        self.beats.wait(50)
        self.beats.check()
        self.guest.check()
        assert self.pidfile.read_text().strip() == self.said["pid"]
        for path in (self.monitor, self.guest.qmp_path(self.host)):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        for port in (2222, 5907):
            with self.host.namespace.socket() as client:
                client.connect(("127.0.0.1", port))
        print(f"largest gap between beats: {self.beats.largest_gap_ms():.0f} ms")


@pytest.mark.parametrize("delta_pages, options", [
    (0, {}), (20000, {"memory_mb": 384, "arena_mb": 128}),
    pytest.param(3000, {"shared_memory": True}, marks=pytest.mark.long)],
    ids=["memory", "delta", "shared"])
def test_takeover(lab, any_qemu, delta_pages, options):
    takeover = Takeover(lab, any_qemu, **options)
    done = takeover.run(delta_pages)
    assert done.returncode == 0, done.stderr
    assert int(takeover.said.get("delta_pages", 0)) == delta_pages
    takeover.check()
    assert float(takeover.said["run_ms"]) < MOST_RUN_MS
    given_back = int(takeover.said["old_mib_before"]) - int(takeover.said["old_mib_after"])
    assert given_back > 100  # of 256 or 384 MiB, much of which holds nothing


def test_old_host_has_died(lab, any_qemu):
    """All of the guest is in the delta store, nothing of the old one is left."""
    takeover = Takeover(lab, any_qemu)
    done = takeover.run("all")
    assert done.returncode == 0, done.stderr
    takeover.check()
    assert float(takeover.said["run_ms"]) < MOST_RUN_MS


@pytest.mark.long
def test_killed_while_it_feeds(lab, any_qemu):
    """The fresh one runs on until it needs a page, and waits; then it goes on."""
    takeover = Takeover(lab, any_qemu)
    done = takeover.run(delta_pages=5000, dies_at=8000)
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    assert "fill_ms" not in takeover.said
    wait_until(lambda: takeover.beats.is_silent(0.5), "the guest waits for a page", 30)
    spent = cpu_seconds(takeover.old.pid)
    assert takeover.beats.is_silent(0.5)
    assert cpu_seconds(takeover.old.pid) - spent < 0.1  # the old one waits for nothing it has lost
    done = takeover.tool("recover", takeover.folder, takeover.said["pid"])
    assert done.returncode == 0, done.stderr
    takeover.check()


@pytest.mark.long
@pytest.mark.parametrize("after_us", [1, 3000, 6000])
def test_killed_while_it_loads(lab, any_qemu, after_us):
    """Whatever the fresh one has come to: it goes on, or another one is launched."""
    takeover = Takeover(lab, any_qemu)
    done = takeover.run(delta_pages=5000, dies_at=-after_us)
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    done = takeover.tool("recover", takeover.folder, takeover.said["pid"])
    assert done.returncode == 0, done.stderr
    takeover.check()
