"""Redis in the guest: Debian's server with its libraries in the guest's image, and a client
outside that loads it and times every request."""

import math
import re
import shutil
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from .netns import Namespace
from .packages import fetch_program, install_program
from .process import LabError

PACKAGE = "redis-tools"  # the server is in there too
SERVER = "usr/bin/redis-check-rdb"  # a program of several names, redis-server one of them
PORT = 6379


# ---- in the image ----

def install_redis(tree: Path) -> None:
    """Puts the server where the guest's init starts it from.  Lock held."""
    install_program(tree, fetch_program("redis", PACKAGE), SERVER, "redis-server")


# ---- from outside ----

@dataclass(frozen=True)
class Request:
    due_ms: float      # when it was to be sent: time.monotonic() * 1e3
    latency_ms: float  # from then to its answer


def quantile(values: list[float], share: float) -> float:
    """The least of them that *share* of all do not exceed; 0 where there are none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else 0.0


def requests_between(requests: list[Request], since_ms: float, until_ms: float) -> list[float]:
    """Latencies of the requests that were due in the window."""
    return [one.latency_ms for one in requests if since_ms <= one.due_ms <= until_ms]


class RedisLoad:
    """A seeded data set, then requests, half of them SET and half GET, at a bounded rate.

    Requests are sent when they are due, whether earlier ones are answered or
    not.  Every GET must return what the last SET before it wrote, and finish()
    reads everything back: an acknowledged SET that is gone is an error, so is
    a connection that does not live on.
    """

    def __init__(self, namespace: Namespace, address: str, *, keys: int, value_bytes: int,
                 rate: int, seed: int = 1):
        """*rate*: requests a second of all connections."""
        program = Path(__file__).with_name("redis_client.py")
        self._process = subprocess.Popen(
            namespace.wrap([sys.executable, program, address, PORT, keys, value_bytes, rate, seed]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._words: deque[str] = deque(maxlen=20)  # what it complains of
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._expect("loaded")

    def _listen(self) -> None:
        self._words.extend(self._process.stderr)

    def _expect(self, word: str) -> None:
        line = self._process.stdout.readline().strip()
        if line != word:
            self.close()
            raise LabError(f"Redis client: {line or ''.join(self._words) or 'ended'}")

    def _order(self, word: str) -> None:
        try:
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._expect(word)

    def start(self) -> None:
        """Begins the requests."""
        self._order("start")
        self._expect("started")

    def finish(self) -> list[Request]:
        """Ends them, compares the whole data set; all requests, oldest first.

        LabError where an answer was wrong or did not come.
        """
        self._order("finish")
        self._expect("requests")
        requests = []
        while (line := self._process.stdout.readline().strip()) and line != "end":
            due, latency = line.split()
            requests.append(Request(int(due) / 1e6, int(latency) / 1e6))
        self._expect("checked")
        self.close()
        return requests

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            pipe.close()


def redis_throughput(namespace: Namespace, address: str, *, connections: int, requests: int,
                     value_bytes: int) -> float:
    """Requests a second, half of them SET and half GET, by Redis' own benchmark from *namespace*."""
    with cache_lock():
        folder = fetch_redis()
    libraries = sorted({str(path.parent) for path in folder.rglob("*.so*")})
    done = subprocess.run(
        namespace.wrap([folder / LOADER, "--library-path", ":".join(libraries),
                        folder / "usr/bin/redis-benchmark", "-h", address, "-p", PORT,
                        "-c", connections, "-n", requests, "-d", value_bytes, "-r", 2000,
                        "-t", "set,get", "--csv"]),
        capture_output=True, text=True, timeout=300, check=False)
    rates = re.findall(r'^"(?:SET|GET)","([0-9.]+)"', done.stdout, re.MULTILINE)
    if done.returncode != 0 or len(rates) != 2:
        raise LabError(f"redis-benchmark: {done.stdout}{done.stderr}")
    return 2 / sum(1 / float(rate) for rate in rates)
