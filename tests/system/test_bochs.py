"""Guests of Bochs: run, shown, found again, ended."""

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from vmferry_lab import Agent, vmferry_program, wait_until

pytestmark = pytest.mark.skipif(not shutil.which("bochs-bin"), reason="there is no bochs-bin")

MEMORY_MB = 32
F_OFD_SETLK = 37  # <fcntl.h>; not in the module before Python 3.12
STATISTICS = 0x5000  # tests/unit/vmm/bare_guest.h


class BareGuest:
    """A bare guest in Bochs on one host."""

    def __init__(self, agent: Agent, name="bare"):
        self.agent, self.name = agent, name
        self.disk = agent.host.path(f"{name}.raw")
        tool = Path(vmferry_program()).resolve().parents[2] / "tests/system/bare_disk"
        subprocess.run([tool, self.disk], check=True)

    def words(self, **changes) -> list[str]:
        """Its command line; None leaves a line out."""
        lines = {
            "memory": f"guest={MEMORY_MB}, host={MEMORY_MB}",
            "cpu": "model=corei7_haswell_4770, count=1, ips=50000000",
            "pci": "enabled=1, chipset=i440fx, slot1=pcivga",
            "ata0-master": f"type=disk, mode=flat, path={self.disk}",
            **changes,
        }
        return ["bochs", *(f"{key}: {text}" for key, text in lines.items() if text)]

    def run(self, **changes):
        return self.agent.vmferry("run", self.name, "--", *self.words(**changes))

    @property
    def status(self) -> dict:
        return self.agent.vmferry("status", self.name, "--json").require().json

    @property
    def pid(self) -> int:
        return self.status["pid"]

    @property
    def folders(self) -> list[Path]:
        return list(self.agent.host.path("run").glob(f"guest-*/{self.name}.bochs"))

    def statistics(self) -> tuple:
        """Ticks, rounds, wrong entries, broken rounds: out of its memory."""
        record = json.loads((self.folders[0] / "record").read_text())
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(record["ram_address"] + STATISTICS)
            return struct.unpack("<4Q", memory.read(32))

    def require_runs(self) -> None:
        """It goes on from now, and is unharmed."""
        before = self.statistics()
        wait_until(lambda: self.statistics()[1] > before[1], f"{self.name} runs", 60)
        assert self.statistics()[2:] == (0, 0)

    def pids(self) -> list[int]:
        """Of all that have its folder."""
        folder = str(self.agent.host.path("run"))
        return [int(path.name) for path in Path("/proc").glob("[0-9]*")
                if is_bochs_in(path, folder)]


def is_bochs_in(process: Path, folder: str) -> bool:
    try:
        return (os.readlink(process / "exe").endswith("bochs-bin")
                and os.readlink(process / "cwd").startswith(folder))
    except OSError:
        return False


@pytest.fixture
def guest(lab, make_agent):
    agent = make_agent(lab.host_a).start()
    guest = BareGuest(agent)
    yield guest
    for pid in guest.pids():
        os.kill(pid, 9)


def wait_found(guest) -> None:
    wait_until(lambda: guest.status["state"] == "running", "it is found again", 30)


def write_locked(guest) -> bool:
    """Whether a QEMU is kept from writing to the image."""
    argv = ["qemu-img", "bench", "-f", "raw", "-w", "-c", "1", "-s", "512", "-o", "8M", guest.disk]
    return "lock" in subprocess.run(argv, capture_output=True, text=True).stderr


@contextmanager
def locked(path):
    """As a QEMU that lets nobody else write."""
    lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0)
    with open(path, "rb") as image:
        fcntl.fcntl(image, F_OFD_SETLK, lock)
        yield


def test_run_show_stop(guest):
    guest.run().require()
    assert guest.agent.vmferry("list", "--json").require().json["guests"][0]["state"] == "running"
    guest.require_runs()
    assert write_locked(guest)
    disks = guest.agent.vmferry("disk", "list", guest.name)
    assert disks.exit_code == 0 and "ata0-master" in disks.stdout
    guest.agent.vmferry("stop", guest.name).require()
    assert guest.pids() == []
    assert guest.folders == [] and not Path(f"{guest.disk}.lock").exists()
    assert not write_locked(guest) and guest.agent.guest_names() == []
    # And again.
    guest.run().require()
    guest.require_runs()


def test_agent_killed(guest):
    guest.run().require()
    guest.require_runs()
    pid = guest.pid
    for _ in range(3):
        guest.agent.kill()
        guest.agent.start()
        wait_found(guest)
        assert guest.pid == pid and guest.pids() == [pid]
        guest.require_runs()
    assert write_locked(guest)
    guest.agent.vmferry("stop", guest.name).require()
    assert guest.pids() == [] and guest.folders == []


def shown(guest) -> dict:
    return guest.agent.vmferry("state", "show", guest.name, "--json").require().json


def test_state_is_shown(guest):
    """Of one that runs, which goes on, and of one that stands, which does not."""
    guest.run().require()
    guest.require_runs()
    first, second = shown(guest), shown(guest)
    assert first["format"] == "vmferry-state" and len(first["cpus"]) == 1
    assert second["clock"]["since_start"] > first["clock"]["since_start"]
    assert guest.status["state"] == "running"
    guest.require_runs()
    os.kill(guest.pid, signal.SIGINT)
    wait_until(lambda: guest.status["state"] == "paused", "the pause", 20)
    assert shown(guest) == shown(guest)
    assert guest.status["state"] == "paused"


def test_look_that_fails(guest):
    guest.run().require()
    guest.agent.stop()
    guest.agent.start({"VMFERRY_FAULT": "look.paused=fail"})
    wait_found(guest)
    result = guest.agent.vmferry("state", "show", guest.name)
    assert result.exit_code == 1 and "look.paused" in result.stderr
    assert guest.status["state"] == "running"
    guest.require_runs()


def test_agent_killed_in_a_look(guest):
    """The guest stands, and runs on as soon as an agent is back; a pause of somebody else's is not ended."""
    guest.run().require()
    guest.require_runs()
    pid = guest.pid
    guest.agent.stop()
    guest.agent.start({"VMFERRY_FAULT": "look.paused=kill"})
    wait_found(guest)
    assert guest.agent.vmferry("state", "show", guest.name).exit_code != 0
    wait_until(lambda: not guest.agent.process.running, "the agent dies")
    before = bochs_ticks(pid)
    guest.agent.start()
    wait_found(guest)
    wait_until(lambda: bochs_ticks(pid) > before + 20, "it works", 30)
    guest.require_runs()
    assert write_locked(guest)
    os.kill(pid, signal.SIGINT)
    wait_until(lambda: guest.status["state"] == "paused", "the pause", 20)
    guest.agent.kill()
    guest.agent.start()
    wait_until(lambda: guest.status["state"] == "paused", "it is found again, as it was", 30)


def bochs_ticks(pid: int) -> int:
    """CPU time of its process: of one that stands at its prompt it does not grow."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_bochs_killed(guest):
    guest.run().require()
    guest.require_runs()
    os.kill(guest.pid, 9)
    wait_until(lambda: guest.agent.guest_names() == [], "its end is seen", 20)
    ended = guest.agent.events("ended")
    assert [event["guest"] for event in ended] == [guest.name]
    assert guest.folders == []
    guest.run().require()
    guest.require_runs()


def test_bochs_killed_while_no_agent_runs(guest):
    guest.run().require()
    pid = guest.pid
    guest.agent.kill()
    os.kill(pid, 9)
    guest.agent.start()
    wait_until(lambda: guest.agent.guest_names() == [], "its end is seen", 20)
    assert guest.folders == []


@pytest.mark.parametrize("change, told", [
    ({"memory": None}, "memory"),
    ({"memory": "guest=32, host=16"}, "memory"),
    ({"cpu": "model=z80, count=1, ips=50000000"}, "cpu"),
    ({"display_library": "x"}, "display_library"),
    ({"ata0-master": "type=disk, mode=flat, path=/nonexistent/disk.raw"}, "disk.raw"),
    ({"ata0-master": "type=disk, mode=vmware4, path=/disk.vmdk"}, "vmware4"),
    ({"com1": "enabled=1, mode=socket-server, dev=0.0.0.0:4444"}, "socket-server"),
])
def test_wrong_command_lines(guest, change, told):
    result = guest.run(**change)
    assert result.exit_code != 0 and told in result.stderr, result.stderr
    assert guest.pids() == [] and guest.folders == [] and guest.agent.guest_names() == []


def test_image_in_use(guest):
    """Another program has it: nothing is started."""
    with locked(guest.disk):
        result = guest.run()
        assert result.exit_code != 0 and str(guest.disk) in result.stderr, result.stderr
        assert guest.pids() == [] and guest.folders == []
    guest.run().require()


def test_relative_path(guest):
    """As with other guests, from where `vmferry run` is called."""
    words = guest.words(**{"ata0-master": f"type=disk, mode=flat, path={guest.disk.name}"})
    environment = {**os.environ, "VMFERRY_SOCKET": str(guest.agent.socket)}
    argv = guest.agent.host.namespace.wrap([vmferry_program(), "run", guest.name, "--", *words])
    subprocess.run(argv, cwd=guest.disk.parent, env=environment, check=True)
    guest.require_runs()


def test_adopting_is_refused(guest, lab):
    guest.run().require()
    pid = guest.pid
    other = guest.agent.vmferry("adopt", "other", "--pid", str(pid))
    assert other.exit_code != 0 and guest.status["state"] == "running"
