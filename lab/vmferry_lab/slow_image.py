"""A disk image whose reads take long, in the host's kernel: a file of a file system of our own.

A limit of QEMU's would delay a request before it is submitted.  Here the kernel holds the guest's
pages for as long as the file system takes to answer (O_DIRECT), as on a slow or distant disk.
"""

import array
import ctypes
import os
import stat
import struct
import subprocess
import threading
import time
from collections import deque
from pathlib import Path

PAGE = 4096
_MAX_READ = 1 << 20
_HEAD = struct.Struct("<IIQQIIII")  # fuse_in_header
_FILE = 2  # its node
# Numbers of linux/fuse.h
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ = 1, 2, 3, 4, 14, 15
_RELEASE, _FSYNC, _FLUSH, _INIT, _INTERRUPT, _BATCH_FORGET = 18, 20, 25, 26, 36, 42
_MAX_PAGES = 1 << 22
_ENOSYS = 38

_libc = ctypes.CDLL(None, use_errno=True)


class SlowImage:
    """A read-only image of *megabytes*, each 8-byte word of which holds its own byte offset.

    It is mounted when this is made, so it is seen by programs that are started afterwards.
    """

    def __init__(self, folder: Path, megabytes: int, delay_s: float):
        self.delay_s = delay_s
        self.reads = 0
        self._content = array.array("Q", range(0, megabytes << 20, 8)).tobytes()
        self._folder = folder
        self._late: deque = deque()
        self._wake = threading.Condition()
        self._ended = False
        folder.mkdir()
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other"
        if _libc.mount(b"slow", os.fsencode(folder), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), "FUSE cannot be mounted")
        self._threads = [threading.Thread(target=run, daemon=True)
                         for run in (self._serve, self._answer_late)]
        for thread in self._threads:
            thread.start()

    @property
    def path(self) -> Path:
        return self._folder / "disk"

    def close(self) -> None:
        with self._wake:
            self._ended = True
            self._wake.notify()
        subprocess.run(["umount", "-l", self._folder], check=True)
        os.close(self._fd)

    # ---- the file system ----

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, _MAX_READ + PAGE)
            except InterruptedError:
                continue
            except OSError:
                return
            _, opcode, unique, node = _HEAD.unpack_from(request)[:4]
            self._handle(opcode, unique, node, request[_HEAD.size:])

    def _handle(self, opcode: int, unique: int, node: int, body: bytes) -> None:
        if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            return
        if opcode == _READ:
            self._defer(unique, *struct.unpack_from("<QQI", body)[1:])
        elif opcode == _INIT:
            self._reply(unique, struct.pack("<IIIIHHIIHHI28x", 7, 31, _MAX_READ, _MAX_PAGES, 64, 64,
                                            _MAX_READ, 1, _MAX_READ // PAGE, 0, 0))
        elif opcode == _LOOKUP:
            self._reply(unique, struct.pack("<QQQQII", _FILE, 0, 1, 1, 0, 0) + self._attr(_FILE))
        elif opcode in (_GETATTR, _SETATTR):
            self._reply(unique, struct.pack("<QII", 1, 0, 0) + self._attr(node))
        elif opcode == _OPEN:
            self._reply(unique, struct.pack("<QII", 1, 0, 0))
        elif opcode in (_RELEASE, _FLUSH, _FSYNC):
            self._reply(unique)
        else:
            self._reply(unique, error=_ENOSYS)

    def _attr(self, node: int) -> bytes:
        is_file = node == _FILE
        mode = stat.S_IFREG | 0o644 if is_file else stat.S_IFDIR | 0o755
        size = len(self._content) if is_file else 0
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0,
                           mode, 1, 0, 0, 0, PAGE, 0)

    def _defer(self, unique: int, offset: int, size: int) -> None:
        with self._wake:
            self.reads += 1
            self._late.append((time.monotonic() + self.delay_s, unique, offset, size))
            self._wake.notify()

    def _answer_late(self) -> None:
        while True:
            with self._wake:
                while not self._late and not self._ended:
                    self._wake.wait()
                if self._ended:
                    return
                due, unique, offset, size = self._late.popleft()
            time.sleep(max(0, due - time.monotonic()))
            self._reply(unique, self._content[offset:offset + size])

    def _reply(self, unique: int, body: bytes = b"", error: int = 0) -> None:
        try:
            os.write(self._fd, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)
        except OSError:
            pass  # the request was given up


def has_fuse() -> bool:
    return os.access("/dev/fuse", os.R_OK | os.W_OK)
