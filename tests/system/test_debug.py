"""`vmferry debug`: a copy of a guest that runs on, in Bochs and its debugger."""

import hashlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from vmferry_lab import REPOSITORY, wait_until

pytestmark = pytest.mark.skipif(not shutil.which("bochs-bin"), reason="needs a Bochs (package bochs)")

# Where the guest of tests/unit/vmm/bare_guest.h has its statistics; its rounds are in r9, too.
STATISTICS = 0x5000
LOOK = f"x /10wx {STATISTICS:#x}; r; x /10wx {STATISTICS:#x}"


def make_disk(folder, name):
    """A disk with that guest of the unit tests in its first sectors."""
    source = REPOSITORY / "tests/unit/vmm" / name
    subprocess.run(["gcc", "-c", source, "-o", folder / "guest.o"], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".rodata", folder / "guest.o", folder / "disk"],
                   check=True)
    os.truncate(folder / "disk", 4 << 20)
    return folder / "disk"


@pytest.fixture(scope="module")
def bare_disk(tmp_path_factory):
    return make_disk(tmp_path_factory.mktemp("bare"), "bare_guest.S")


@pytest.fixture(scope="module")
def pair_disk(tmp_path_factory):
    return make_disk(tmp_path_factory.mktemp("pair"), "pair_guest.S")


def run(scene, disk, name="bare", *words, defaults=False):
    """*defaults*: with what QEMU adds by itself: VGA, e1000, a CD-ROM drive, a serial line."""
    scene.a.vmferry("run", name, "--", "qemu-system-x86_64", "-M", "pc", "-m", "32",
                    *([] if defaults else ["-nodefaults"]), "-display", "none", "-cpu", "Haswell",
                    "-drive", f"file={disk},format=raw,if=ide", *words).require()


def debug(scene, *words) -> str:
    result = scene.a.vmferry("debug", *words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def statistics(text: str) -> list[list[int]]:
    """[ticks, rounds, wrong, broken, tsc] of each look."""
    words = [int(word, 16) for line in text.splitlines() if line.startswith("0x")
             for word in re.findall(r"\t(0x[0-9a-f]{8})", line)]
    return [[low | high << 32 for low, high in zip(words[at:at + 10:2], words[at + 1:at + 10:2])]
            for at in range(0, len(words), 10)]


def rounds_in_register(text: str) -> int:
    return int(re.search(r"^r9 : ([0-9a-f_]+)", text, re.MULTILINE)[1].replace("_", ""), 16)


def look(scene, *words) -> list[int]:
    """What a copy has, of one moment: memory and processor agree, and it stands still."""
    text = debug(scene, *words, "--exec", LOOK)
    first, second = statistics(text)
    assert first == second
    assert first[2] == first[3] == 0
    assert first[1] <= rounds_in_register(text) <= first[1] + 1
    return first


def wait_booted(scene, name="bare"):
    def booted():
        result = scene.a.vmferry("debug", name, "--exec", LOOK)
        return result.exit_code == 0 and statistics(result.stdout)[0][1] > 0
    wait_until(booted, "the bare guest runs", timeout=60)


def state_of(scene, name="bare"):
    return scene.a.vmferry("status", name, "--json").require().json["state"]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_debug_of_a_guest(scene, bare_disk, tmp_path):
    """The copy is of one moment, the guest goes on, and nothing is left of it."""
    before = digest(bare_disk)
    run(scene, bare_disk)
    wait_booted(scene)
    first = look(scene, "bare", "--folder", tmp_path)
    assert list(tmp_path.iterdir()) == []
    second = look(scene, "bare")
    assert second[0] > first[0] and second[1] > first[1]
    assert state_of(scene) == "running"
    assert digest(bare_disk) == before
    check_runs_on(scene)
    check_image(scene, tmp_path)


def test_debug_of_a_whole_pc(scene, bare_disk):
    run(scene, bare_disk, defaults=True)
    wait_booted(scene)
    look(scene, "bare")
    check_runs_on(scene)


def test_debug_of_two_processors(scene, pair_disk):
    """Each can be looked at, and steps: one is in its rounds, the other waits for its start-up IPI."""
    run(scene, pair_disk, "pair", "-smp", "2")

    def look_at_both():
        return scene.a.vmferry("debug", "pair", "--exec",
                               f"r; set $cpu = 1; r; s all 1000; r; set $cpu = 0; r; x /1wx {STATISTICS + 8:#x}")
    wait_until(lambda: statistics_of_pair(look_at_both().stdout) > 0, "the guest runs", timeout=60)
    text = look_at_both().stdout
    assert re.findall(r"^CPU([01]):$", text, re.MULTILINE) == ["0", "1", "1", "0"]
    rips = [int(rip.replace("_", ""), 16) for rip in re.findall(r"^rip: ([0-9a-f_]+)", text, re.MULTILINE)]
    assert 0x7c00 <= rips[0] < 0x8000 and 0x7c00 <= rips[3] < 0x8000
    assert rips[2] == 0xfff0
    assert state_of(scene, "pair") == "running"


def statistics_of_pair(text: str) -> int:
    """Rounds of the first processor."""
    return int(re.findall(r"\t(0x[0-9a-f]{8})", text)[-1], 16)


def check_runs_on(scene):
    """The copy goes on where the guest was, by its own clock, and Ctrl-C stops it."""
    command = scene.a.begin("debug", "bare", "--exec", f"{LOOK}; s 3000000; {LOOK}")
    text = command.finish(120).stdout
    looks = statistics(text)
    assert looks[2][0] > looks[0][0] or looks[2][1] > looks[0][1]
    assert looks[2][2] == looks[2][3] == 0


def check_image(scene, folder):
    image = folder / "bare.vmfi"
    scene.a.vmferry("save", "bare", image).require()
    first, second = look(scene, "--image", image), look(scene, "--image", image)
    assert first == second
    assert look(scene, "bare")[1] > first[1]


def begin(scene, *words):
    """`vmferry debug` with lines for it to come."""
    agent = scene.a
    return subprocess.Popen(agent.host.namespace.wrap([agent.program, "debug", *words]),
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
                            env={**os.environ, "VMFERRY_SOCKET": str(agent.socket)})


def read_until(process, mark: bytes, interrupt=False) -> bytes:
    """What it says up to *mark*; *interrupt*: by Ctrl-C, as often as it takes."""
    text = b""
    deadline = time.monotonic() + 60
    while mark not in text:
        assert time.monotonic() < deadline and process.poll() is None, text
        if interrupt:
            process.send_signal(signal.SIGINT)
        if select.select([process.stdout], [], [], 0.2)[0]:
            text += process.stdout.read(4096)
    return text


def test_interrupt(scene, bare_disk):
    """Ctrl-C ends `c`, and not the command."""
    run(scene, bare_disk)
    wait_booted(scene)
    with begin(scene, "bare") as process:
        process.stdin.write(b"r\n")
        read_until(process, b"eflags")
        process.stdin.write(b"c\n")
        read_until(process, b"Next at t=", interrupt=True)
        process.stdin.write(b"creg\n")
        read_until(process, b"CR0=")
        process.stdin.write(b"q\n")
        assert process.wait(60) == 0


def test_nobody_reads(scene, bare_disk, tmp_path):
    """It ends, and leaves no Bochs and no file."""
    run(scene, bare_disk)
    wait_booted(scene)
    with begin(scene, "bare", "--folder", tmp_path) as process:
        process.stdout.close()
        process.stdin.write(b"r\nr\nr\n")
        process.wait(60)
    assert list(tmp_path.iterdir()) == []


def test_killed(scene, bare_disk, tmp_path):
    """No Bochs outlives the command."""
    run(scene, bare_disk)
    wait_booted(scene)
    with begin(scene, "bare", "--folder", tmp_path) as process:
        process.stdin.write(b"r\n")
        read_until(process, b"eflags")
        assert bochs_in(tmp_path)
        process.kill()
    wait_until(lambda: not bochs_in(tmp_path), "end of Bochs", 10)
    assert state_of(scene) == "running"


def bochs_in(folder) -> list[str]:
    """Processes that run below a folder."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if os.readlink(link).startswith(f"{folder}/"):
                found.append(link.parent.name)
    return found


def test_refused(scene, bare_disk):
    """Each by its name, and the guest runs on."""
    run(scene, bare_disk, "bare", "-device", "virtio-rng-pci")
    result = scene.a.vmferry("debug", "bare", "--exec", "r")
    assert result.exit_code == 1 and "virtio-rng-pci at 00:02.0" in result.stderr
    assert scene.a.events("saving") == []
    assert state_of(scene) == "running"
    missing = scene.a.vmferry("debug", "nobody", "--exec", "r")
    assert missing.exit_code == 1 and 'no guest "nobody"' in missing.stderr
