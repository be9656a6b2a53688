"""Whoever reaches the peers' port: moves and questions go on while strangers hold connections."""

import select
import threading
import time

import pytest

from test_handover import doubtful, move_until, settle_by_itself, wait_in_doubt  # noqa: F401
from vmferry_lab import qemu_pids, wait_until

PORT = 4747
SILENT = 300
STRANGER = "10.66.0.9"


class Siege:
    """Hundreds of connections from another address that say nothing, opened anew when cut."""

    def __init__(self, lab, hosts):
        self.namespace = lab.middle
        self.hosts = hosts
        self.opened = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self.namespace.address("link", f"{STRANGER}/24")
        self.namespace.ip("link", "set", "dev", "link", "up")
        self._thread.start()
        wait_until(lambda: self.opened >= SILENT * len(self.hosts), "the siege stands", 30)
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()
        self.namespace.ip("address", "del", f"{STRANGER}/24", "dev", "link")

    def _run(self) -> None:
        sockets = {}
        poll = select.poll()

        def open_one(host) -> None:
            connection = self.namespace.socket()
            connection.setblocking(False)
            connection.connect_ex((host.ip, PORT))
            sockets[connection.fileno()] = (connection, host)
            poll.register(connection, select.POLLRDHUP)
            self.opened += 1

        for _ in range(SILENT):
            for host in self.hosts:
                open_one(host)
        while not self._end.is_set():
            for fd, _ in poll.poll(50):
                connection, host = sockets.pop(fd)
                poll.unregister(connection)
                connection.close()
                open_one(host)
            time.sleep(0.02)
        for connection, _ in sockets.values():
            connection.close()


def test_move_while_strangers_say_nothing(shared):
    with Siege(shared.lab, shared.lab.hosts):
        shared.move(shared.guest, "--verify")
        shared.move(shared.guest)


@pytest.mark.long
def test_doubt_is_settled_while_strangers_say_nothing(doubtful):  # noqa: F811
    """The question finds its way to the destination."""
    scene, here = doubtful, doubtful.here(doubtful.guest)
    move = move_until(scene, here, "source.before-start")
    scene.lab.link.cut()
    here.thaw()
    wait_in_doubt(scene, move)
    there = scene.there(scene.guest)
    wait_until(lambda: not qemu_pids(there.host, scene.guest), "the destination gives up", 15)
    scene.require_silence(scene.guest)
    scene.lab.link.restore()
    with Siege(scene.lab, [there.host]):
        wait_until(lambda: not scene.beats[scene.guest.name].is_silent(0.1), "guest goes on", 40)
    settle_by_itself(scene, moved=False)
