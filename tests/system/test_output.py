"""A guest's output is held back, epoch by epoch, and what it sends stays whole."""

import os
import random
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from vmferry_lab import REPOSITORY, wait_until
from vmferry_lab.qmp import Qmp

EPOCH_MS = 20
REDIS = 6379
REVERSE_ARP = 0x8035  # what QEMU announces a card with
# The header in front of each packet has 12 bytes, or 10.
CARDS = {"modern": [],
         "legacy": ["virtio-net-pci.disable-modern=on", "virtio-net-device.mrg_rxbuf=off"]}


def tool() -> Path:
    vmferry = Path(os.environ.get("VMFERRY") or REPOSITORY / "build/src/cli/vmferry")
    return vmferry.parents[2] / "tests/system/hold_output"


class Holder:
    """hold_output, in the host's namespace."""

    def __init__(self, host, process, guest):
        self._argv = [tool(), process.pid, guest.qmp_path(host)]
        self._host = host
        self._process = None

    def hold(self, *arguments) -> None:
        argv = self._host.namespace.wrap([*self._argv, "hold", EPOCH_MS, *arguments])
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "holding\n", self._process.stderr.read()

    def end(self) -> list[int]:
        """Packets released, held, dropped, lost."""
        text, words = self._process.communicate("\n", timeout=30)
        assert self._process.returncode == 0, words
        return [int(word) for word in text.split()]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, verb: str) -> str:
        done = self._host.run([*self._argv, verb])
        assert done.returncode == 0, done.stderr
        return done.stdout


def round_trips_ms(guest, count=20) -> list[float]:
    with guest.control() as control:
        return [timed_ms(control.status) for _ in range(count)]


def timed_ms(action) -> float:
    start = time.monotonic()
    action()
    return (time.monotonic() - start) * 1e3


def left_in(guest, host) -> list[str]:
    """What holds of output leave in QEMU."""
    with Qmp(guest.qmp_path(host)) as qmp:
        assert qmp.execute("query-status")["status"] == "running"
        names = [entry["name"] for entry in qmp.execute("qom-list", path="/objects")]
        names += [entry["label"] for entry in qmp.execute("query-chardev")]
    return [name for name in names if name.startswith("vmferry-")]


# A card that cannot be held, and that the guest does not use.
SECOND_CARD = ["-netdev", "tap,id=wide,queues=2,script=no,downscript=no",
               "-device", "virtio-net-pci,netdev=wide,mq=on,id=second"]


def begin(lab, guest, options, qemu):
    g = guest(qemu=qemu, memory_mb=128, arena_mb=16, check=256,
              extra=[*SECOND_CARD, *(word for option in options for word in ("-global", option))])
    process = g.start(lab.host_a)
    beats = g.heartbeat(20)
    beats.wait(5)
    return g, beats, Holder(lab.host_a, process, g)


@pytest.mark.parametrize("card", ["modern", pytest.param("legacy", marks=pytest.mark.long)])
def test_output_is_held_and_released(lab, guest, any_qemu, card):
    g, beats, holder = begin(lab, guest, CARDS[card], any_qemu)
    cards = {line.split("|")[0]: line for line in holder.run("list").splitlines()}
    assert re.fullmatch(r"net0\|virtio-net-pci at pci\.0 .*\|", cards["net0"])
    assert cards["wide"] == "wide|second (virtio-net-pci)|multiqueue is not supported"
    with lab.client.socket(socket.AF_PACKET, socket.SOCK_RAW) as reverse_arp:
        reverse_arp.bind(("eth0", REVERSE_ARP))
        reverse_arp.settimeout(20)
        holder.hold("pause")
        packet = reverse_arp.recv(2000)
    assert packet.startswith(b"\xff" * 6 + bytes.fromhex(g.mac.replace(":", "")))
    beats.wait(50)
    assert min(round_trips_ms(g)) >= EPOCH_MS
    released, *others = holder.end()
    assert released > 70 and others == [0, 0, 0]
    beats.wait(20)
    beats.check()
    assert left_in(g, lab.host_a) == []
    g.check()


def test_tap_interfaces_are_found(lab, guest, any_qemu):
    """By the name that QEMU gave, and by the descriptor that it was given; no other one's."""
    g = guest(qemu=any_qemu, memory_mb=128, arena_mb=16, extra=SECOND_CARD)
    process = g.start(lab.host_a)
    with Qmp(g.qmp_path(lab.host_a)) as qmp, lab.host_a.namespace.open_tap("given0") as tap:
        qmp.give("given", tap.fileno())
        qmp.execute("netdev_add", type="tap", id="given", fd="given")
        qmp.execute("netdev_add", type="user", id="user")
        for back_end in ("given", "user"):
            qmp.execute("device_add", driver="virtio-net-pci", netdev=back_end)
    found = dict(line.split("|") for line in Holder(lab.host_a, process, g).run("taps").splitlines())
    assert re.fullmatch(r"tap\d+", found.pop("wide"))
    assert found == {"net0": g.tap, "given": "given0", "user": "no tap interface is found behind it"}


@pytest.mark.long
def test_holder_is_killed(lab, guest, any_qemu):
    g, beats, holder = begin(lab, guest, [], any_qemu)
    holder.hold()
    beats.wait(20)
    holder.kill()
    assert beats.is_silent(0.5)
    assert len(left_in(g, lab.host_a)) == 4
    holder.run("end")
    beats.wait(20)
    beats.check()
    assert left_in(g, lab.host_a) == []
    # And once more, where another was killed.
    holder.hold()
    beats.wait(5)
    holder.kill()
    holder.hold("pause")
    beats.wait(20)
    holder.end()
    beats.wait(20)
    beats.check()
    assert left_in(g, lab.host_a) == []


@pytest.mark.long
def test_large_packets(lab, guest, any_qemu):
    """The card's own segmentation: packets of up to 64 KiB, many at a time."""
    content = random.Random(1).randbytes(8 << 20)
    g = guest(qemu=any_qemu, redis=True, arena_mb=16, check=256)
    process = g.start(lab.host_a)
    holder = Holder(lab.host_a, process, g)
    with lab.client.socket() as connection:
        connection.settimeout(60)
        wait_until(lambda: connection.connect_ex((g.ip, REDIS)) == 0, "Redis serves")
        connection.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%b\r\n" % (len(content), content))
        assert receive(connection, 5) == b"+OK\r\n"
        holder.hold("pause")
        for _ in range(2):
            connection.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
            head = b"$%d\r\n" % len(content)
            assert receive(connection, len(head) + len(content) + 2) == head + content + b"\r\n"
        released, *others = holder.end()
    assert released < 2 * len(content) / 1500 and others == [0, 0, 0]


def receive(connection, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += connection.recv(count - len(data)) or pytest.fail("the connection ended")
    return bytes(data)
