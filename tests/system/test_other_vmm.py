"""A running guest moves live from QEMU to a stock Bochs, and back."""

import json
import random
import re
import shutil
import subprocess
import time
from types import SimpleNamespace

import pytest

from boot_sector import WRONG, counts_of, make_disk
from other_vmm import PC, Journey, vmm_programs
from vmferry_lab import Agent, Lab, wait_until

pytestmark = pytest.mark.skipif(not shutil.which("bochs-bin"), reason="there is no bochs-bin")

# A card that the guest has no driver for: what its firmware has left in it has to come along.
E1000 = ["-netdev", "user,id=lan0,restrict=on", "-device", "e1000,netdev=lan0,mac=52:54:00:12:34:56"]


@pytest.fixture
def journey(agents, lab):
    """A guest of QEMU on host A that Bochs can be."""
    def make(**options):
        return Journey(*agents, lab.guest("web1", **{**PC, **options}))
    return make


def go_and_return(trip: Journey) -> None:
    report = trip.move("bochs", "--verify")
    assert report["verified"] is True and report["neutral"]["vmm"] == "bochs"
    assert trip.status()["vmm"] == "bochs"
    trip.hear(2)
    report = trip.move("qemu", "--verify")
    assert report["verified"] is True
    trip.finish()


def test_there_and_back(journey, any_qemu):
    go_and_return(journey(qemu=any_qemu).begin())


def test_default_cards(journey, any_qemu):
    """With a VGA and an e1000, as QEMU's own pc has them."""
    go_and_return(journey(qemu=any_qemu, vga=True, extra=E1000).begin())


def test_qemu_to_qemu(journey, any_qemu):
    """In the neutral form, which one asks for by name."""
    trip = journey(qemu=any_qemu, vga=True, extra=E1000).begin()
    for _ in range(2):
        report = trip.move("qemu", "--verify")
        assert report["verified"] is True and report["neutral"]["vmm"] == "qemu"
        assert trip.status()["vmm"] == "qemu"
        trip.hear(2)
    trip.finish()


# What its kernel has set up once, and what a look at the same guest in another VMM some seconds later finds as it was; and the
# machine.
KEPT = re.compile(r"machine|memory|disks|cpus\[0\]\.(cr0|cr4|idtr|gdtr|xcr0|ia32_(efer|star|lstar|pat|apic_base|misc_enable|mtrr)"
                  r"|local_apic\.(id|svr|ldr|lvt|divide))|devices\[\d+\]\.(type|at|config|imr|elcr|vector_base|id|redirection)")
PASSES = re.compile(r"clock\.|cpus\[0\]\.|devices\[")


def test_state_is_compared(journey, tmp_path):
    """In QEMU before, in Bochs after a move, both while it runs: a machine of the same parts, whose time goes by."""
    trip = journey().begin()
    file = tmp_path / "in-qemu.json"
    before = trip.here.vmferry("state", "show", "web1", "--json").require().json
    file.write_text(json.dumps(before))
    assert trip.here.vmferry("state", "check", "web1").exit_code == 0
    trip.move("bochs")
    trip.hear(2)
    after = trip.here.vmferry("state", "show", "web1", "--json").require().json
    assert parts(after) == parts(before)
    assert before["memory"] == after["memory"] == [{"base": "0x0", "bytes": hex(96 << 20), "kind": "ram"}]
    [disk] = before["disks"]
    assert disk["at"] == "pci:00:01.1/0/0" and int(disk["bytes"], 16) == 4 << 20 and after["disks"] == [disk]
    assert int(after["clock"]["tsc"], 16) > int(before["clock"]["tsc"], 16)
    assert trip.here.vmferry("state", "check", "web1").exit_code == 0
    result = trip.here.vmferry("state", "diff", file, "web1", "--json")
    paths = [difference["path"] for difference in result.json["differences"]]
    assert result.exit_code == 1 and "clock.tsc" in paths
    assert [path for path in paths if KEPT.match(path) or not PASSES.match(path)] == []
    assert trip.status()["state"] == "running"
    trip.hear(2)
    trip.move("qemu")
    trip.finish()


def parts(state: dict) -> list:
    return sorted((device["type"], device["at"]) for device in state["devices"])


@pytest.mark.long
@pytest.mark.parametrize("vcpus", (1, 2))
def test_bochs_to_bochs(journey, vcpus):
    """Of a guest that had come there from a QEMU, and goes back into one.  Both write into one file, which begins anew."""
    trip = journey(vcpus=vcpus, kernel_words="loglevel=6 lab.cpus=1").begin()
    trip.longest_step_ms = 60000
    for vmm in ("bochs", "bochs", "qemu"):
        trip.move(vmm, "--verify")
        trip.hear(1, timeout=900)
    assert trip.complaints() == []


@pytest.mark.long
def test_two_processors(journey, any_qemu):
    """Both go on, by one clock, there and back.  A Bochs of several processors does not leave out the time in which they are idle, so
    that a second of the guest's takes it most of a minute."""
    trip = journey(qemu=any_qemu, vcpus=2, kernel_words="loglevel=6 lab.cpus=1").begin()
    report = trip.move("bochs", "--verify")
    assert report["verified"] is True
    assert "count=1:2:1" in trip.bochs_configuration()
    trip.hear(3, timeout=900)
    report = trip.move("qemu", "--verify")
    assert report["verified"] is True
    trip.finish()
    assert len(trip.cpus) > 6 and len(trip.cpus[-1]) == 2


@pytest.mark.long
def test_ten_moves(journey, any_qemu):
    """In a row, of a guest that works."""
    trip = journey(qemu=any_qemu, pages_per_second=200, vga=True, extra=E1000).begin()
    for _ in range(5):
        trip.move("bochs", "--verify")
        trip.hear(1, timeout=240)
        trip.move("qemu", "--verify")
        trip.hear(1)
    trip.finish()


# What it is at when it is stopped: options of its machine.
WORK = {
    "mixture": {},
    "disk": {"disk_rate": 500},
    "timers": {"kernel_words": PC["kernel_words"] + " lab.wakeups=2000"},
    "user": {"pages_per_second": 0, "span_mb": 1},
    "kernel": {"kernel_words": PC["kernel_words"] + " lab.calls=1"},
}


def check_work(trip: Journey, work: str) -> None:
    """Nearly always in user mode, or in the kernel; else as it comes."""
    if work not in ("user", "kernel"):
        return
    levels = [trip.here.vmferry("state", "show", trip.guest.name, "--json").json["cpus"][0]["cpl"] for _ in range(5)]
    assert levels.count("0x3" if work == "user" else "0x0") >= 3, levels


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_random_moments_of_two_processors(journey, seed):
    """Begun whenever, of a guest that works."""
    chance = random.Random(seed)
    trip = journey(vcpus=2, kernel_words="loglevel=6 lab.cpus=1").begin()
    go_at_random(trip, chance)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("work", WORK)
def test_random_moments(journey, any_qemu, work, seed):
    """Begun whenever, of a guest that is at that work."""
    chance = random.Random(seed)
    trip = journey(qemu=any_qemu, **WORK[work]).begin()
    check_work(trip, work)
    go_at_random(trip, chance)


def go_at_random(trip: Journey, chance: random.Random) -> None:
    for _ in range(2):
        for vmm in ("bochs", "qemu"):
            time.sleep(chance.uniform(0, 3))
            trip.move(vmm)
    trip.finish()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_short_stays(journey, seed):
    """Many in a row: each processor does there what it did here, also one that has woken up since it arrived."""
    chance = random.Random(seed)
    trip = journey(vcpus=2, kernel_words="loglevel=6 lab.cpus=1").begin()
    for _ in range(12):
        for vmm in ("bochs", "qemu"):
            time.sleep(chance.uniform(0, 2))
            trip.move(vmm)
        trip.hear(2)
    trip.finish()


@pytest.mark.long
@pytest.mark.parametrize("vcpus", (1, 2))
@pytest.mark.parametrize("seed", range(5))
def test_early_boot(journey, any_qemu, seed, vcpus):
    """Of a kernel that finds its devices, or starts its second processor, just now."""
    chance = random.Random(seed)
    trip = journey(qemu=any_qemu, vcpus=vcpus, kernel_words="loglevel=6 lab.cpus=1").begin_at_once()
    wait_until(lambda: "Linux version" in trip.guest.console_text(), "the kernel begins", 90)
    for vmm in ("bochs", "qemu"):
        time.sleep(chance.uniform(0, 2))
        trip.move(vmm)
    trip.hear(2)
    trip.finish()
    assert len(trip.cpus[-1]) == vcpus


# ---- without an operating system ----

def small_machine(disk, console, *more, qemu=("qemu-system-x86_64",)) -> list[str]:
    """A guest that is its disk's boot sector."""
    return [*qemu, "-accel", "tcg", "-machine", "pc", "-cpu", "Haswell", "-m", "64", "-nodefaults",
            "-no-user-config", "-display", "none", "-drive", f"file={disk},format=raw,if=ide",
            "-chardev", f"file,id=console,path={console},append=on", "-serial", "chardev:console", *more]


@pytest.fixture
def small(lab):
    """What small_machine() is made of: .disk, .console, and .bochs_console where it runs in a Bochs."""
    console = lab.shared / "small.console"
    return SimpleNamespace(name="small", disk=make_disk(lab.shared / "small.disk"), console=console,
                           bochs_console=console.with_name(console.name + ".bochs"))


def hear_counts(file, since: int = 0, more: int = 20) -> list[int]:
    """What it tells in *file*, from its first whole line behind *since* bytes, until it has told so many more counts than
    now; each is one more than the one before."""
    def counts() -> list[int]:
        text = file.read_text(errors="replace")[since:] if file.exists() else ""
        assert WRONG not in text
        return counts_of(text.partition("\n")[2] if since else text)
    wanted = len(counts()) + more
    wait_until(lambda: len(counts()) >= wanted, f"{more} more counts in {file.name}", 90)
    told = counts()
    assert all((after - before) % 0x10000 == 1 for before, after in zip(told, told[1:])), told
    return told


def is_later(count: int, before: int) -> bool:
    """They have 16 bits."""
    return 0 < (count - before) % 0x10000 < 0x8000


def go_small(agents, small, chance, rounds: int, *more, qemu=("qemu-system-x86_64",)) -> None:
    """There and back, at moments that nobody has chosen."""
    a, b = agents
    a.vmferry("run", "small", "--", *small_machine(small.disk, small.console, *more, qemu=qemu)).require()
    last = hear_counts(small.console)[-1]
    for _ in range(rounds):
        time.sleep(chance.uniform(0, 0.3))
        a.migrate(small, b, "--vmm", "bochs").require()
        since = small.console.stat().st_size
        told = hear_counts(small.bochs_console)
        assert is_later(told[0], last)
        time.sleep(chance.uniform(0, 0.3))
        b.migrate(small, a, "--vmm", "qemu").require()
        last = told[-1]
        told = hear_counts(small.console, since)
        assert is_later(told[0], last)
        last = told[-1]
    a.vmferry("stop", "small").require()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_boot_loader(agents, small, any_qemu, seed):
    """In real mode, which reads its disk through the BIOS."""
    go_small(agents, small, random.Random(seed), 2, qemu=any_qemu.command)


def test_halted_processors(agents, small):
    """The others stay where QEMU's BIOS has left them."""
    go_small(agents, small, random.Random(4), 1, "-smp", "4,sockets=2,cores=2")


@pytest.mark.parametrize("vcpus", (1, pytest.param(2, marks=pytest.mark.long)))
def test_run_in_bochs(agents, small, vcpus):
    """A QEMU command line of which a Bochs is made.  Its TSC is as slow as Bochs is, which no QEMU here has."""
    a, b = agents
    a.vmferry("run", "small", "--vmm", "bochs", "--",
              *small_machine(small.disk, small.console, "-smp", str(vcpus))).require()
    assert a.status(small)["vmm"] == "bochs"
    hear_counts(small.bochs_console)
    result = a.migrate(small, b, "--vmm", "qemu", "--allow-cpu-mismatch")
    assert result.exit_code != 0 and "TSC" in result.json["error"]
    assert a.status(small)["state"] == "running"
    assert b.guest_names() == [] and vmm_programs(b.host) == []
    hear_counts(small.bochs_console)
    a.vmferry("stop", "small").require()


def test_run_in_nothing(agents, small):
    a, _ = agents
    result = a.vmferry("run", "small", "--vmm", "nothing", "--", *small_machine(small.disk, small.console))
    assert result.exit_code != 0 and "nothing" in result.stderr
    assert a.guest_names() == [] and vmm_programs(a.host) == []


# ---- what cannot be ----

# More of QEMU's command line, options of the move, and the words that the refusal has.
REFUSALS = {
    "virtio": (["-device", "virtio-rng-pci"], [], ["virtio-rng"]),
    "virtio-net": (["-netdev", "hubport,id=lan0,hubid=0", "-device", "virtio-net-pci,netdev=lan0"], [], ["virtio-net"]),
    "q35": (["-machine", "q35"], [], ["chipset qemu,q35"]),
    "vcpus": (["-smp", "9"], [], ["9 vCPUs (Bochs takes 8)"]),
    "more vcpus later": (["-smp", "2,maxcpus=4"], [], ["2 of 4 vCPUs"]),
    "numbers": (["-smp", "6,sockets=2,cores=3"], [], ["sockets of 3 cores"]),
    "memory": (["-m", "4G"], [], ["4096 MiB of memory"]),
    "memory-map": (["-machine", "max-ram-below-4g=64M", "-m", "96"], [], ["memory at 0x100000000"]),
    "cpu": (["-cpu", "max"], [], ["CPU features"]),
    "several": (["-smp", "9", "-device", "virtio-rng-pci"], [], ["9 vCPUs", "virtio-rng"]),
    "postcopy": ([], ["--mode", "postcopy"], ["post-copy", "bochs"]),
    "copy": ([], ["--disks", "copy"], ["copying disks", "bochs"]),
}


@pytest.fixture(scope="module")
def two_hosts(pki):
    """Hosts for all the refusals, which leave nothing."""
    with Lab() as lab:
        hosts = [Agent(lab, host, pki.folder(host.name)) for host in (lab.host_a, lab.host_b)]
        yield lab, *[agent.start() for agent in hosts]
        for agent in hosts:
            agent.stop()


def check_refused(two_hosts, command, options, words, vmm="bochs") -> None:
    _, a, b = two_hosts
    name = SimpleNamespace(name="small")
    a.vmferry("run", "small", "--", *command).require()
    try:
        pid = a.guest_pid(name)
        assert len(vmm_programs(a.host)) == 1
        result = a.migrate(name, b, "--vmm", vmm, *options)
        assert result.exit_code != 0
        for word in words:
            assert word in result.stdout + result.stderr
        assert a.status(name)["state"] == "running" and a.guest_pid(name) == pid
        assert b.guest_names() == [] and vmm_programs(b.host) == []
    finally:
        a.vmferry("stop", "small").require()


@pytest.mark.parametrize("why", REFUSALS)
def test_refused(two_hosts, why):
    more, options, words = REFUSALS[why]
    lab = two_hosts[0]
    disk = make_disk(lab.shared / "small.disk")
    check_refused(two_hosts, small_machine(disk, lab.shared / "small.console", *more), options, words)


def test_qcow2_is_refused(two_hosts):
    lab = two_hosts[0]
    disk = lab.shared / "small.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "4M"], check=True)
    command = [word.replace("format=raw", "format=qcow2")
               for word in small_machine(disk, lab.shared / "small.console")]
    check_refused(two_hosts, command, [], [str(disk), "qcow2"])


def test_virtio_has_no_neutral_form(two_hosts):
    """Not for a QEMU, either."""
    lab = two_hosts[0]
    command = small_machine(make_disk(lab.shared / "small.disk"), lab.shared / "small.console", "-device", "virtio-rng-pci")
    check_refused(two_hosts, command, [], ["virtio-rng"], "qemu")
