"""Loads a Redis server and times it; redis.RedisLoad runs it as a program of its own.

    redis_client.py ADDRESS PORT KEYS VALUE_BYTES RATE SEED

Writes the data set and says "loaded"; on "start" begins with the requests and
says "started"; on "finish" waits for the last answer, says "requests", a line
"DUE-NS LATENCY-NS" per request and "end", reads the data set back, and says
"checked".  Whatever is wrong ends it with words on standard error.

Keys are dealt to the connections, so what a GET must return is known when it
is sent.  A request's latency runs from the time it was due: a server that
stalls cannot hide the requests that would have come meanwhile.
"""

import os
import random
import select
import socket
import sys
import time
from collections import deque

CONNECTIONS = 4
PIPELINE = 256            # requests under way while loading and checking
POOL_BYTES = 1 << 20      # of text that values are cut from
ANSWER_SECONDS = 60       # longest wait for an answer
WORDS = (b"order", b"customer", b"address", b"invoice", b"item", b"price", b"state", b"open",
         b"paid", b"sent", b"note", b"street", b"phone", b"mail", b"since", b"until")


def make_pool(generator: random.Random) -> bytes:
    """Text of records: names, and values that are random."""
    pool = bytearray()
    while len(pool) < POOL_BYTES:
        pool += b'"%s":"%x",' % (generator.choice(WORDS), generator.getrandbits(64))
    return bytes(pool)


class DataSet:
    """What the server must hold: a version of each key, and the value that follows from it."""

    def __init__(self, keys: int, value_bytes: int, seed: int):
        self.random = random.Random(seed)
        self.versions = [1] * keys
        self._pool = make_pool(self.random)
        self._bytes = value_bytes

    def value(self, key: int, version: int) -> bytes:
        head = b"%08d:%08d:" % (key, version)
        at = (key * 2654435761 + version * 40503) % (len(self._pool) - self._bytes)
        return head + self._pool[at:at + self._bytes - len(head)]

    def set_request(self, key: int) -> bytes:
        value = self.value(key, self.versions[key])
        return b"*3\r\n$3\r\nSET\r\n$12\r\nkey:%08d\r\n$%d\r\n%s\r\n" % (key, len(value), value)

    def get_request(self, key: int) -> bytes:
        return b"*2\r\n$3\r\nGET\r\n$12\r\nkey:%08d\r\n" % key

    def get_answer(self, key: int) -> bytes:
        value = self.value(key, self.versions[key])
        return b"$%d\r\n%s\r\n" % (len(value), value)


class Connection:
    """One connection; requests may be sent before earlier ones are answered."""

    def __init__(self, address: str, port: int):
        self.socket = socket.create_connection((address, port), timeout=ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.waiting: deque = deque()  # (when it was due, the answer it must get)
        self._out = b""
        self._in = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, request: bytes, answer: bytes, due_ns: int = 0) -> None:
        self.waiting.append((due_ns, answer))
        self._out += request
        self.flush()

    @property
    def wants_to_write(self) -> bool:
        return bool(self._out)

    def flush(self) -> None:
        try:
            while self._out:
                self._out = self._out[self.socket.send(self._out):]
        except BlockingIOError:
            pass

    def receive(self) -> list[int]:
        """When the requests were due whose answers have come."""
        data = self.socket.recv(1 << 20)
        if not data:
            sys.exit("Redis closed a connection")
        self._in += data
        answered, at = [], 0
        while self.waiting:
            due, answer = self.waiting[0]
            have = self._in[at:at + len(answer)]
            if not answer.startswith(have):
                sys.exit(f"wrong answer {have[:60]} where {answer[:60]} was due")
            if len(have) < len(answer):
                break
            answered.append(due)
            at += len(answer)
            self.waiting.popleft()
        self._in = self._in[at:]
        return answered


def connect_all(address: str, port: int) -> list[Connection]:
    """The server may not be up yet."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            return [Connection(address, port) for _ in range(CONNECTIONS)]
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"no Redis at {address}: {error}")
            time.sleep(0.1)


def exchange(connections: list[Connection], seconds: float, also=()) -> tuple[list[int], list]:
    """Moves what can be moved, waiting at most so long: answered requests, and what of
    *also* has something to read."""
    writers = [one for one in connections if one.wants_to_write]
    readable, writable, _ = select.select([*connections, *also], writers, [], max(0.0, seconds))
    for one in writable:
        one.flush()
    answered = [due for one in connections if one in readable for due in one.receive()]
    return answered, [one for one in also if one in readable]


def wait_answers(connections: list[Connection], at_most: int) -> list[tuple[int, int]]:
    """Until no connection waits for more than *at_most* answers: when those that came
    meanwhile were due, and their latency."""
    answered: list[tuple[int, int]] = []
    last = time.monotonic()
    while any(len(one.waiting) > at_most for one in connections):
        come, _ = exchange(connections, 1)
        now = time.monotonic_ns()
        answered += [(due, now - due) for due in come]
        if come:
            last = time.monotonic()
        elif time.monotonic() - last > ANSWER_SECONDS:
            sys.exit(f"no answer within {ANSWER_SECONDS} s")
    return answered


def write_all(connections: list[Connection], data: DataSet) -> None:
    for key in range(len(data.versions)):
        connections[key % CONNECTIONS].send(data.set_request(key), b"+OK\r\n")
        wait_answers(connections, PIPELINE)
    wait_answers(connections, 0)


def read_all(connections: list[Connection], data: DataSet) -> None:
    for key in range(len(data.versions)):
        connections[key % CONNECTIONS].send(data.get_request(key), data.get_answer(key))
        wait_answers(connections, PIPELINE)
    wait_answers(connections, 0)


def send_one(connections: list[Connection], data: DataSet, due_ns: int) -> None:
    key = data.random.randrange(len(data.versions))
    connection = connections[key % CONNECTIONS]
    if data.random.random() < 0.5:
        data.versions[key] += 1
        connection.send(data.set_request(key), b"+OK\r\n", due_ns)
    else:
        connection.send(data.get_request(key), data.get_answer(key), due_ns)


def run(connections: list[Connection], data: DataSet, rate: int) -> list[tuple[int, int]]:
    """Requests until a line comes on standard input: when each was due, and its latency."""
    interval = 1_000_000_000 // rate
    due = time.monotonic_ns()
    answered: list[tuple[int, int]] = []
    while True:
        come, orders = exchange(connections, (due - time.monotonic_ns()) / 1e9, [sys.stdin])
        now = time.monotonic_ns()
        answered += [(one, now - one) for one in come]
        if orders:
            return answered + wait_answers(connections, 0)
        while due <= now:
            send_one(connections, data, due)
            due += interval


def main() -> None:
    address, port, keys, value_bytes, rate, seed = sys.argv[1], *map(int, sys.argv[2:])
    data = DataSet(keys, value_bytes, seed)
    connections = connect_all(address, port)
    write_all(connections, data)
    print("loaded", flush=True)
    sys.stdin.readline()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(19))
    except PermissionError:
        pass
    print("started", flush=True)
    answered = run(connections, data, rate)
    sys.stdin.readline()
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    print("requests")
    for due, latency in sorted(answered):
        print(due, latency)
    print("end", flush=True)
    read_all(connections, data)
    print("checked", flush=True)


if __name__ == "__main__":
    main()
