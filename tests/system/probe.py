"""Numbered packets and streams between two hosts of a lab, for what a link does to them."""

import hashlib
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass

HEADERS = 14 + 20 + 8  # Ethernet, IPv4, UDP: what the link counts beside a datagram's bytes
# asm/socket.h, linux/in.h
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 32, 33, 35
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
PORT = 9000
FORCED_BUFFER = 64 << 20


@dataclass
class Arrival:
    number: int
    sent: float      # seconds, of the machine's clock
    received: float  # the same, as the receiving kernel noted it
    bytes: int       # of its frame

    @property
    def took_ms(self) -> float:
        return (self.received - self.sent) * 1000


class Probe:
    """Datagrams from one host to another; they wait in the receiver's socket until arrivals()."""

    def __init__(self, sender, receiver):
        self._target = (receiver.ip, PORT)
        self._out = sender.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._out.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, FORCED_BUFFER)
        # Not to be cut, whatever is known of the path.
        self._out.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        self._in = receiver.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._in.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, FORCED_BUFFER)
        self._in.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._in.bind(self._target)
        self.times: list[float] = []  # when each was sent

    @property
    def sent(self) -> int:
        return len(self.times)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._out.close()
        self._in.close()

    def send(self, count: int, size: int = 100, per_second: float = 0) -> None:
        """Datagrams of *size* bytes at that rate, as far as the machine has time; 0: at once."""
        start = time.monotonic()
        for i in range(count):
            if per_second:
                time.sleep(max(start + i / per_second - time.monotonic(), 0))
            head = struct.pack("!I", self.sent)
            self.times.append(time.time())
            self._out.sendto(head.ljust(size, b"\0"), self._target)

    def arrivals(self, silence: float = 0.5) -> list[Arrival]:
        """All that came since the last time, once none has come for so many seconds."""
        self._in.settimeout(silence)
        found = []
        while True:
            try:
                data, ancillary, _, _ = self._in.recvmsg(2048, 64)
            except TimeoutError:
                return found
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            number, = struct.unpack_from("!I", data)
            found.append(Arrival(number, self.times[number], seconds + nanoseconds / 1e9,
                                 len(data) + HEADERS))


@dataclass
class Stream:
    """What became of one: bytes a second at the receiver, until the last one."""

    bytes: int
    seconds: float
    whole: bool

    @property
    def rate(self) -> float:
        return self.bytes / self.seconds


def stream(sender, receiver, size: int, timeout: float = 60) -> Stream:
    """*size* random bytes over TCP; a stall longer than *timeout* ends it."""
    data = random.Random(size).randbytes(size)
    digest, received = hashlib.sha256(), 0
    with receiver.namespace.socket() as listener, sender.namespace.socket() as out:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((receiver.ip, PORT))
        listener.listen(1)
        out.settimeout(timeout)
        out.connect((receiver.ip, PORT))
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(timeout)
            start = end = time.monotonic()
            thread = threading.Thread(target=_send_all, args=(out, data))
            thread.start()
            try:
                while chunk := peer.recv(1 << 20):
                    digest.update(chunk)
                    received += len(chunk)
                    end = time.monotonic()
            except TimeoutError:
                pass
        thread.join()
    whole = received == size and digest.digest() == hashlib.sha256(data).digest()
    return Stream(received, max(end - start, 1e-9), whole)


def _send_all(out: socket.socket, data: bytes) -> None:
    try:
        out.sendall(data)
        out.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the receiver has given up
