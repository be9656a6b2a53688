"""Agents that are none: they answer as docs/api.md says, about hosts and guests that exist in here only, so that
the engine can be tested with hosts that lie, hang, die, and moves that take as long as a test wants."""

import contextlib
import json
import socket
import socketserver
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler
from itertools import count

# Where the engine can be made to fail (`VMFERRY_FAULT`); test_engine_fakes.py hits them.
ENGINE_POINTS = ["engine.intended", "engine.before-order", "engine.ordered"]

GIB = 1 << 30
LINK = 125_000_000  # bytes/s, of each host
INTERVAL_MS = 2000


class FakeGuest:
    def __init__(self, name: str, cpu: float, memory_mb: int = 512, wait: float = 0.0, vcpus: int = 2):
        self.name, self.cpu, self.memory_mb, self.wait = name, cpu, memory_mb, wait
        self.vcpus = vcpus
        self.id = f"{abs(hash(name)):032x}"[:32]
        self.term = 1
        self.activity: dict | None = None
        self.not_movable: str | None = None


class FakeHost:
    """One host and its agent, on a Unix socket."""

    def __init__(self, cluster: "FakeCluster", name: str, cpus: float = 2.0):
        self.cluster, self.name, self.cpus = cluster, name, cpus
        self.moves_to = f"10.0.0.{len(cluster.hosts) + 1}:4747"
        self.socket = cluster.folder / f"{name}.sock"
        self.guests: dict[str, FakeGuest] = {}
        self.events: list[dict] = []
        self.requests: list[tuple[str, str]] = []
        self.late: list[str] = []       # orders that had expired
        self.slept_ms = 0               # what its clock has gone on by meanwhile
        self.version = "0.2.0"
        self.wall_off = 0.0
        self.lies: dict = {}            # fields of GET /v1/load that are replaced
        self.hangs = threading.Event()  # set: answers nothing
        self.stands_still = False       # its figures are those of one moment
        self.still_ms = 0
        self.holds_orders = threading.Event()  # set: an order is on its way until it is cleared
        self.held: set[str] = set()     # GETs of these paths, too
        self.looks_every = 0.0          # seconds; 0: whenever it is asked
        self.looked = 0.0
        self.figures: dict = {}
        self.traffic = 1000.0           # of its guests, bytes/s
        self.rates: list[tuple[float, str, float]] = []  # when, guest, bytes/s, as ordered and changed
        self.drops_orders = False       # takes an order, and closes the connection instead of answering
        self.hangs_after_orders = False # takes an order, and answers nothing from then on
        self.server = None
        self.start()

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    def _listen(self):
        self.socket.unlink(missing_ok=True)
        return _Server(str(self.socket), self)

    def start(self) -> None:
        self.server = self._listen()
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05},
                         daemon=True).start()

    def stop(self) -> None:
        """As where the agent has died; its guests and moves go on."""
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.server.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server = None
        self.socket.unlink(missing_ok=True)

    def add(self, name: str, cpu: float, **options) -> FakeGuest:
        self.guests[name] = FakeGuest(name, cpu, **options)
        return self.guests[name]

    @property
    def changes(self) -> list[tuple[str, str]]:
        """What it was asked that is no GET."""
        return [(method, path) for method, path in self.requests if method != "GET"]

    @property
    def orders(self) -> list[tuple[str, str]]:
        return [one for one in self.changes if one[1].endswith("/migrate") and one[0] == "POST"]

    # ---- what it answers ----

    def load(self) -> dict:
        if time.monotonic() >= self.looked + self.looks_every:
            self.looked = time.monotonic()
            self.figures = self.look()
        return {**self.figures, **self.lies}

    def look(self) -> dict:
        now = time.clock_gettime(time.CLOCK_BOOTTIME) * 1e3
        if self.stands_still:
            self.still_ms = now = self.still_ms or now
        wanted = sum(guest.cpu for guest in self.guests.values())
        used = min(wanted + 0.02, self.cpus * 0.99)
        moving = sum(move.rate for move in self.cluster.moves.values() if self in (move.source, move.target))
        return {
            "host": self.name, "agent_id": f"agent-{self.name}", "version": self.version,
            "boot_id": "boot", "time_ms": now, "wall": time.time() + self.wall_off,
            "interval_ms": INTERVAL_MS, "cpus": self.cpus, "cpu_used": used, "run_queue": 1,
            "pressure": {"cpu": {"some": max(0.0, min(1.0, wanted / self.cpus - 0.8))},
                         "memory": {"some": 0.0, "full": 0.0}, "io": {"some": 0.0, "full": 0.0}},
            "memory_bytes": 8 * GIB,
            "memory_available_bytes": 8 * GIB - sum(guest.memory_mb << 20
                                                    for guest in self.guests.values()),
            "swap_bytes": 0, "swap_free_bytes": 0,
            "swap_in_bytes_per_s": 0, "swap_out_bytes_per_s": 0,
            "links": [{"name": "eth0", "speed_bytes_per_s": LINK,
                       "received_bytes_per_s": 1000, "sent_bytes_per_s": self.traffic + moving,
                       "drops_per_s": 0}],
            "moves": {"received_bytes_per_s": 0, "sent_bytes_per_s": moving, "cpu_used": 0.0},
            "problems": [],
            "guests": [self._load_of(guest, min(1.0, used / max(wanted, 0.01)))
                       for guest in self.guests.values()]}

    @staticmethod
    def _load_of(guest: FakeGuest, share: float) -> dict:
        return {"name": guest.name, "id": guest.id, "term": guest.term, "role": "ours",
                "state": "migrating" if guest.activity else "running", "vcpus": guest.vcpus,
                "memory_bytes": guest.memory_mb << 20, "cpu_used": guest.cpu * share,
                "cpu_wait": max(guest.wait, 1 - share), "resident_bytes": guest.memory_mb << 20,
                "swapped_bytes": 0, "major_faults_per_s": 0,
                "network": {"received_bytes_per_s": 100, "sent_bytes_per_s": 100,
                            "backlog_bytes": 0, "drops_per_s": 0},
                "disk": {"read_bytes_per_s": 0, "written_bytes_per_s": 0, "flushes_per_s": 0}}

    def view(self, guest: FakeGuest) -> dict:
        return {"name": guest.name, "id": guest.id, "term": guest.term, "role": "ours",
                "state": "migrating" if guest.activity else "running", "origin": "run",
                "since": 1, "pid": 1, "problem": None, "destination": None,
                "activity": guest.activity, "not_movable": guest.not_movable}

    def status(self) -> dict:
        return {"version": self.version, "host": self.name, "listening": self.moves_to,
                "guests": len(self.guests), "last_event": len(self.events),
                "boot_id": "boot", "time_ms": self.time_ms()}

    def time_ms(self) -> int:
        return int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1e3) + self.slept_ms

    def add_event(self, guest: str, kind: str, data: dict | None, text: str = "") -> None:
        self.events.append({"seq": len(self.events) + 1, "time": "2026-01-01T00:00:00.000000Z",
                            "guest": guest, "type": kind, "text": text, "data": data})

    def answer(self, method: str, path: str, body: dict | None) -> tuple[int, object]:
        words = path.partition("?")[0].strip("/").split("/")[1:]
        guest = self.guests.get(words[1]) if len(words) > 1 and words[0] == "guests" else None
        if words[0] == "guests" and len(words) > 1 and not guest:
            return 404, _error("not-found", f"no guest {words[1]} here")
        match method, words[0], words[2:]:
            case "GET", "load", _:
                return 200, self.load()
            case "GET", "status", _:
                return 200, self.status()
            case "GET", "events", _:
                since = int(path.rpartition("since=")[2] or 0)
                return 200, [event for event in self.events if event["seq"] > since]
            case "GET", "guests", _:
                if guest:
                    return 200, self.view(guest)
                return 200, {"guests": [self.view(one) for one in self.guests.values()]}
            case "POST", "guests", ["migrate"]:
                expires = body["expires"]
                if expires["boot_id"] != "boot" or self.time_ms() >= expires["time_ms"]:
                    self.late.append(path)
                    return 403, _error("refused", "the order has expired")
                return self.cluster.begin(self, guest, body["destination"], body.get("bandwidth", 0))
            case "PATCH", "guests", ["migrate"]:
                return self.cluster.set_rate(self, guest, body["bandwidth"])
            case "POST", "guests", ["estimate"]:
                return self.cluster.estimate(guest)
            case "POST", "guests", ["cancel"]:
                self.cluster.cancelled.add(guest.name)
                return 200, {"status": "cancelled"}
        return 404, _error("not-found", "there is no such path")


class FakeTlsHost(FakeHost):
    """The same over HTTPS at a loopback address, for those who have a certificate of the CA."""

    def __init__(self, cluster: "FakeCluster", name: str, pki):
        """*pki*: the folder of its certificate."""
        self.pki, self.port = pki, free_port()
        self.callers: set[str] = set()  # the names in the certificates that it was shown
        super().__init__(cluster, name)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _listen(self):
        return _TlsServer(self)
class FakeMove:
    """One that is under way; it sends as fast as it may."""

    def __init__(self, source: FakeHost, target: FakeHost, guest: FakeGuest, rate: float):
        self.source, self.target, self.guest, self.rate = source, target, guest, rate
        self.started = self.noted = time.monotonic()
        self.sent = 0.0

    def note(self, overhead: float) -> None:
        now = time.monotonic()
        self.sent += self.rate * overhead * (now - self.noted)
        self.noted = now
        progress = self.guest.activity["progress"]
        progress.update(wire_bytes=int(self.sent), elapsed_ms=(now - self.started) * 1e3,
                        bandwidth=self.rate)


class FakeCluster:
    """Hosts by name, and the moves between them."""

    def __init__(self, folder, *names: str):
        self.folder = folder
        self.hosts: dict[str, FakeHost] = {}
        self.move_seconds = 1.0
        self.fail_moves: str | None = None
        self.fail_guests: set[str] = set()  # only these; empty: all
        self.round_bytes = 1000
        self.overhead = 1.0                 # of what a move takes beyond its rate
        self.moves: dict[str, FakeMove] = {}
        self.estimates: dict[str, dict] = {}
        self.cancelled: set[str] = set()
        self.done: list[tuple[str, str, str]] = []  # moves that were completed
        self.lock = threading.Lock()
        self.numbers = count(1)
        for name in names:
            self.hosts[name] = FakeHost(self, name)

    def __getitem__(self, name: str) -> FakeHost:
        return self.hosts[name]

    @property
    def spec(self) -> str:
        return ",".join(f"{name}={host.address}" for name, host in self.hosts.items())

    @property
    def orders(self) -> list[tuple[str, str]]:
        return [order for host in self.hosts.values() for order in host.orders]

    def place(self, guest: str) -> list[str]:
        return [name for name, host in self.hosts.items() if guest in host.guests]

    def estimate(self, guest: FakeGuest):
        if guest.name in self.estimates:
            return 200, self.estimates[guest.name]
        return 404, _error("not-found", "there is no such path")

    def set_rate(self, source: FakeHost, guest: FakeGuest, rate: float):
        with self.lock:
            if guest.name not in self.moves:
                return 403, _error("refused", f"guest {guest.name} is not being moved from here")
            self.moves[guest.name].note(self.overhead)
            self.moves[guest.name].rate = rate
            source.rates.append((time.monotonic(), guest.name, rate))
        return 200, {"bandwidth": rate}

    def begin(self, source: FakeHost, guest: FakeGuest, destination: str, rate: float = 0):
        target = next(host for host in self.hosts.values() if host.moves_to == destination)
        with self.lock:
            if guest.activity:
                return 409, _error("busy", f"guest {guest.name} moves already")
            if self.fail_moves and self.fail_moves.startswith("refused:"):
                return 403, _error("refused", self.fail_moves)
            activity = f"{next(self.numbers):032x}"
            guest.activity = {"id": activity, "kind": "migrate", "started": 1,
                              "destination": destination,
                              "progress": {"phase": "precopy", "round_bytes": self.round_bytes,
                                           "round_bytes_done": 10, "bytes_per_second": LINK}}
            self.moves[guest.name] = FakeMove(source, target, guest, rate)
            source.rates.append((time.monotonic(), guest.name, rate))
        threading.Thread(target=self._move, args=(self.moves[guest.name], destination), daemon=True).start()
        return 202, {"guest": guest.name, "destination": destination, "activity": activity}

    def _move(self, move: FakeMove, destination: str) -> None:
        source, target, guest = move.source, move.target, move.guest
        until = time.monotonic() + self.move_seconds
        while time.monotonic() < until and guest.name not in self.cancelled:
            with self.lock:
                move.note(self.overhead)
            time.sleep(0.02)
        activity = guest.activity["id"]
        report = {"guest": guest.name, "activity": activity, "status": "completed",
                  "destination": destination, "total_ms": self.move_seconds * 1e3,
                  "downtime_ms": 11.0, "wire_bytes": 1000, "error": None}
        with self.lock:
            guest.activity = None
            del self.moves[guest.name]
            if guest.name in self.cancelled:
                self.cancelled.discard(guest.name)
                source.add_event(guest.name, "cancelled", {**report, "status": "cancelled"})
            elif self.fail_moves and guest.name in (self.fail_guests or {guest.name}):
                source.add_event(guest.name, "move-failed",
                                 {**report, "status": "failed", "error": self.fail_moves})
            else:
                guest.term += 1
                target.guests[guest.name] = source.guests.pop(guest.name)
                self.done.append((guest.name, source.name, target.name))
                source.add_event(guest.name, "moved", report)

    def close(self) -> None:
        for host in self.hosts.values():
            host.hangs.clear()
            host.holds_orders.clear()
            host.held.clear()
            if host.server:
                host.stop()


def _error(code: str, message: str) -> dict:
    return {"error": {"code": code, "message": message}}


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, host: FakeHost):
        super().__init__(path, _Handler)
        self.host = host
        self.connections = set()

    def process_request(self, request, client_address):
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.connections.discard(request)
        super().shutdown_request(request)


class _TlsServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, host: FakeTlsHost):
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=host.pki / "ca.crt")
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_cert_chain(host.pki / "host.crt", host.pki / "host.key")
        super().__init__(("127.0.0.1", host.port), _TlsHandler)
        self.host = host
        self.connections = set()

    def get_request(self):
        plain, address = super().get_request()
        # The handshake is made by the connection's thread.
        secured = self.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self.connections.add(secured)
        return secured, address

    def shutdown_request(self, request):
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        pass  # a handshake that failed


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        host = self.server.host
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        host.requests.append((self.command, self.path))
        while host.hangs.is_set():
            time.sleep(0.05)
        while ((host.holds_orders.is_set() and self.command == "POST" and self.path.endswith("/migrate"))
               or (self.command == "GET" and self.path in host.held)):
            time.sleep(0.05)
        status, answer = host.answer(self.command, self.path, body)
        if host.drops_orders and self.command == "POST" and self.path.endswith("/migrate"):
            host.drops_orders = False
            self.close_connection = True
            return
        if host.hangs_after_orders and self.command == "POST" and self.path.endswith("/migrate"):
            host.hangs.set()
        while host.hangs.is_set():
            time.sleep(0.05)
        lines = answer if isinstance(answer, list) else [answer]
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with contextlib.suppress(BrokenPipeError):  # an engine that was killed, or has waited enough
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    def address_string(self) -> str:
        return "test"

    def log_message(self, *_) -> None:
        pass


class _TlsHandler(_Handler):
    def setup(self):
        self.request.settimeout(20)
        self.request.do_handshake()
        self.server.host.callers |= {value for part in self.request.getpeercert()["subject"]
                                     for key, value in part if key == "commonName"}
        super().setup()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

