"""Helpers that make trouble: sockets that are busy, kernels that lack something, full disks."""

import fcntl
import socket
import struct
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

WITHOUT = Path(__file__).with_name("without.py")


def kernel_without(feature: str) -> list[str]:
    """Words in front of a command that then lacks "userfaultfd", "pagemap-scan" or
    "huge-pages", as on a kernel that does not have them."""
    return ["/usr/bin/python3", str(WITHOUT), feature]


@contextmanager
def listening(path: Path):
    """Somebody listens on a Unix socket."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield
    path.unlink(missing_ok=True)


@contextmanager
def full_disk(agent, folder: Path):
    """For the agent, *folder* lies on a small disk of its own; yields fill().

    What was in the folder is there too; what is written meanwhile is lost.
    """
    inside = Path(f"/proc/{agent.pid}/root") / folder.relative_to("/")
    folders = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_dir())
    files = {path.relative_to(folder): path.read_bytes()
             for path in folder.rglob("*") if path.is_file()}
    # `ip netns exec` has given the agent mounts of its own.
    enter = ["nsenter", f"--mount=/proc/{agent.pid}/ns/mnt"]
    subprocess.run([*enter, "mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "small", folder],
                   check=True)
    try:
        for name in folders:
            (inside / name).mkdir()
        for name, content in files.items():
            (inside / name).write_bytes(content)
        yield lambda: fill(inside)
    finally:
        subprocess.run([*enter, "umount", "--lazy", folder], check=True)


@contextmanager
def read_only(agent, path: Path):
    """For the agent, and the VMMs that it has started, a file or folder cannot be written to."""
    enter = ["nsenter", f"--mount=/proc/{agent.pid}/ns/mnt"]
    subprocess.run([*enter, "mount", "--bind", path, path], check=True)
    try:
        subprocess.run([*enter, "mount", "-o", "remount,bind,ro", path], check=True)
        yield
    finally:
        subprocess.run([*enter, "umount", "--lazy", path], check=True)


# QEMU's lock bytes: 100 + n, "I need permission n"; 200 + n, "nobody else may have it".
NOBODY_MAY_WRITE = 201


@contextmanager
def write_forbidden(image: Path):
    """Another process holds the lock on *image* that keeps every QEMU from writing to it."""
    with open(image, "rb") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0,
                                                         NOBODY_MAY_WRITE, 1, 0))
        yield


def fill(folder: Path) -> None:
    """Writes until the disk is full."""
    with open(folder / "filler", "ab", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return


class Peer:
    """A stranger on a host's port that answers each connection as it likes."""

    def __init__(self, host, port: int, answer):
        """*answer(connection)* is called for each one, in a thread."""
        self._server = host.namespace.socket()
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._server.bind((host.ip, port))
        self._server.listen()
        self._answer = answer
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.address = f"{host.ip}:{port}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                try:
                    self._answer(connection)
                except OSError:
                    pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


# ---- the protocol, as far as a stranger needs it (docs/protocol.md) ----

FRAME_HELLO = 1
FRAME_ERROR = 14


def send_frame(connection, kind: int, payload: bytes) -> None:
    connection.sendall(struct.pack("<4sHHI", b"VMF1", kind, 0, len(payload)) + payload)


def read_frame(connection) -> tuple[int, bytes]:
    header = _read_exactly(connection, 12)
    _, kind, _, length = struct.unpack("<4sHHI", header)
    return kind, _read_exactly(connection, length)


def _read_exactly(connection, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise OSError("closed")
        data += piece
    return data
