"""The lab itself: without it, no other system test means anything."""

import subprocess
import sys
import threading
import time

import pytest

from vmferry_lab import MACHINES, REPOSITORY, backports_qemu, requests_between, system_qemu
from vmferry_lab.netns import namespace_names
from vmferry_lab.process import LabError, wait_until


def boot_and_beat(lab, guest):
    guest.start(lab.host_a)
    heartbeat = guest.heartbeat(10)
    heartbeat.wait(100)
    heartbeat.check()
    guest.check()
    return heartbeat


@pytest.mark.parametrize("machine", [
    "pc", pytest.param("microvm", marks=pytest.mark.long)])
def test_guest_boots_beats_and_checks_itself(lab, guest, machine):
    g = guest(machine=machine, vcpus=2, pattern="mixed", pages_per_second=2000, disk_mb=16,
              disk_rate=50)
    heartbeat = boot_and_beat(lab, g)
    assert heartbeat.largest_gap_ms() < 2000
    with g.control() as control:
        status = control.status()
        assert int(status["written"]) > 0 and int(status["disk_sequence"]) > 0
        assert status["threads"] == "2"


@pytest.mark.long
@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize("machine", MACHINES)
def test_guest_boots_everywhere(lab, guest, any_qemu, machine, vcpus):
    boot_and_beat(lab, guest(machine=machine, vcpus=vcpus, qemu=any_qemu, pattern="intensive",
                             disk_mb=16, disk_rate=50))


def test_self_check_finds_one_wrong_bit(lab, guest):
    """A check that cannot fail proves nothing."""
    g = guest(pattern="idle", check=0, memory_mb=128, arena_mb=16, shared_memory=True)
    process = g.start(lab.host_a)
    with g.control() as control:
        digest = control.check()
        assert control.check() == digest
        flip_a_bit(process.pid, g)
        with pytest.raises(LabError, match="1 errors"):
            control.check()
    assert "lab: BAD page=" in g.console_text()


def test_disk_check_finds_one_wrong_bit_in_a_kept_read(lab, guest):
    """What a device has written into memory counts as content of the guest, too."""
    g = guest(pattern="idle", check=0, memory_mb=128, arena_mb=16, shared_memory=True, disk_mb=1,
              disk_rate=200)
    process = g.start(lab.host_a)
    with g.control() as control:
        wait_until(lambda: int(control.status()["disk_sequence"]) > 20, "some blocks are written")
        control.set(disk_rate=0)
        assert control.check_disk() > 1
        control.check_disk()
        flip_a_bit_of_a_block(process.pid, g)
        with pytest.raises(LabError, match="disk check: . errors"):
            control.check_disk()
    assert "differs in the memory it was read into" in g.console_text()


def flip_a_bit_of_a_block(pid, g):
    """In all pages of guest RAM that hold the first block that was written to its disk."""
    start, ram = guest_ram(pid, g)
    image = g.disk.read_bytes()
    blocks = (image[at:at + 4096] for at in range(0, len(image), 4096))
    block = next(block for block in blocks if any(block))
    pages = [at for at in range(0, len(ram), 4096) if ram[at:at + 4096] == block]
    assert pages
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for at in pages:
            memory.seek(start + at + 100)
            memory.write(bytes([ram[at + 100] ^ 1]))


def guest_ram(pid, g):
    """Where guest RAM, a shared memfd, starts in QEMU, and its content."""
    maps = open(f"/proc/{pid}/maps").read().splitlines()
    line = next(text for text in maps if "memfd:" in text and " rw-s " in text)
    start = int(line.split("-")[0], 16)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(start)
        return start, memory.read(g.memory_mb << 20)


def flip_a_bit(pid, g):
    """Changes one bit of the arena in guest RAM, found by what page 0 starts with."""
    start, ram = guest_ram(pid, g)
    where = ram.index(first_bytes_of_page_0())
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(start + where)
        memory.write(bytes([ram[where] ^ 1]))


def first_bytes_of_page_0():
    """As workload.c fills a fresh page: hash3(page 0, version 1, 0), one xorshift."""
    mask = (1 << 64) - 1

    def mix(x):
        x &= mask
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
        return x ^ x >> 31

    inner = mix(1 + 0x632BE59BD9B4E019 + mix(0x5851F42D4C957F2D))
    x = mix(0x9E3779B97F4A7C15 + inner) | 1
    x ^= x << 13 & mask
    x ^= x >> 7
    x ^= x << 17 & mask
    return x.to_bytes(8, "little")


def test_patterns_write_and_survive_checks(lab, guest):
    g = guest(vcpus=2)
    g.start(lab.host_a)
    with g.control() as control:
        for pattern in ("sparse", "dense", "intensive", "text", "zero", "mixed"):
            before = int(control.status()["written"])
            control.write(pattern, mb_per_second=50, span_mb=32)
            wait_until(lambda: int(control.status()["written"]) > before + 1000, pattern)
            control.check()
        control.write("idle")
        assert control.check() == control.check()


@pytest.mark.long
@pytest.mark.parametrize("pattern", ["read", "touch"])
def test_reading_writes_nothing(lab, guest, pattern):
    g = guest(pattern=pattern, order="sequential", check=0)
    g.start(lab.host_a)
    with g.control() as control:
        before = int(control.status()["read"])
        wait_until(lambda: int(control.status()["read"]) > before + 1000, "reading")
        assert control.status()["written"] == "0"
        assert control.check() == control.check()


def pages_of_text(process, g):
    """How many pages of guest RAM, which is a shared memfd, hold log lines."""
    ram = guest_ram(process.pid, g)[1]
    return sum(b" HTTP/1.1" in ram[at:at + 4096] for at in range(0, len(ram), 4096))


def test_guest_begins_with_the_content_asked_for(lab, guest):
    g = guest(content="text", check=0, memory_mb=128, arena_mb=8, shared_memory=True)
    process = g.start(lab.host_a)
    assert pages_of_text(process, g) >= 8 << 8
    g.check()


@pytest.mark.long
def test_sequential_order_reaches_every_page(lab, guest):
    """As many writes as there are pages; in random order a third would be left out."""
    g = guest(content="zero", check=0, memory_mb=128, arena_mb=4, shared_memory=True)
    process = g.start(lab.host_a)
    with g.control() as control:
        control.write("text", order="sequential", pages_per_second=2000)
        wait_until(lambda: int(control.status()["written"]) >= 4 << 8, "one pass")
        control.write("idle")
        assert pages_of_text(process, g) >= 4 << 8
        control.check()


def loaded_redis(lab, guest):
    g = guest(redis=True, memory_mb=256, arena_mb=16)
    g.start(lab.host_a)
    return g, g.redis_load(keys=2000, value_bytes=1000, rate=500)


def test_redis_answers_every_request(lab, guest):
    g, load = loaded_redis(lab, guest)
    start_ms = time.monotonic() * 1e3
    load.start()
    time.sleep(2)
    requests = load.finish()
    assert len(requests) > 500 and min(one.latency_ms for one in requests) > 0
    assert len(requests_between(requests, start_ms, start_ms + 1e6)) == len(requests)
    g.check()


def test_redis_client_finds_a_lost_key(lab, guest):
    g, load = loaded_redis(lab, guest)
    load.start()
    with lab.client.socket() as connection:
        connection.connect((g.ip, 6379))
        connection.sendall(b"DEL key:00000007\r\n")
        assert connection.recv(100) == b":1\r\n"
    with pytest.raises(LabError, match="wrong answer"):
        load.finish()


@pytest.mark.long
def test_guests_dense_rate_is_what_was_asked_for(lab, guest):
    g = guest(memory_mb=512, arena_mb=256, check=0)
    g.start(lab.host_a)
    with g.control() as control:
        control.write("dense", mb_per_second=60, span_mb=256)
        before, start = int(control.status()["written"]), time.monotonic()
        time.sleep(2)
        pages = int(control.status()["written"]) - before
        rate = pages * 4096 / (time.monotonic() - start) / 1e6
    assert 50 < rate < 70


def transfer(lab, megabytes):
    """Sends bytes from host A to host B; MB/s."""
    listener = lab.host_b.namespace.socket()
    listener.bind((lab.host_b.ip, 0))
    listener.listen()
    sender = lab.host_a.namespace.socket()
    sender.connect(listener.getsockname())
    receiver, _ = listener.accept()

    def send():
        block = bytes(1 << 16)
        for _ in range(megabytes * 16):
            sender.sendall(block)
        sender.close()

    start = time.monotonic()
    thread = threading.Thread(target=send)
    thread.start()
    received = 0
    while data := receiver.recv(1 << 20):
        received += len(data)
    thread.join()
    assert received == megabytes << 20
    for end in (receiver, listener):
        end.close()
    return received / (time.monotonic() - start) / 1e6


def test_shaping_holds(lab):
    lab.link.shape("100mbit")
    assert 6 < transfer(lab, 8) < 13.5
    lab.link.shape("1gbit")
    assert 50 < transfer(lab, 64) < 130
    lab.link.shape(None)
    assert transfer(lab, 128) > 200


def test_cut_drops_silently_and_restore_heals(lab, guest):
    g = guest()
    g.start(lab.host_a)
    heartbeat = g.heartbeat(20)
    heartbeat.wait(10)
    lab.lan.cut("client")
    carrier = lab.client.wrap(["cat", "/sys/class/net/eth0/carrier"])
    assert subprocess.run(carrier, capture_output=True, text=True).stdout.strip() == "1"
    wait_until(lambda: heartbeat.is_silent(0.2), "silence")
    lab.lan.restore()
    heartbeat.wait(50)
    heartbeat.check()


def test_two_labs_side_by_side(lab, guest):
    from vmferry_lab import Lab
    with Lab() as other:
        twins = [guest("twin"), other.guest("twin")]
        twins[0].start(lab.host_a)
        twins[1].start(other.host_a)
        for twin in twins:
            twin.heartbeat(20).wait(5)


def test_crashed_owner_leaves_nothing_after_clean(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c",
         "import os, sys; sys.path.insert(0, 'lab')\n"
         "from vmferry_lab import Lab\n"
         "lab = Lab()\n"
         "lab.host_a.start(['sleep', '1000'], 'sleeper')\n"
         "print(lab.name, flush=True)\n"
         "os.kill(os.getpid(), 9)\n"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    name = owner.communicate()[0].strip()
    assert any(space.startswith(name) for space in namespace_names())
    cleaned = subprocess.run([REPOSITORY / "lab/lab", "clean"], capture_output=True, text=True,
                             check=True).stdout
    assert name in cleaned
    assert not any(space.startswith(name) for space in namespace_names())


def test_both_versions_of_qemu_are_there():
    assert system_qemu().version.startswith("7.2")
    assert backports_qemu().version.startswith("10.0")
