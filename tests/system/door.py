"""Ways from this machine's loopback into a namespace, for a browser."""

import contextlib
import socket
import threading


class Door:
    """A port of this machine that leads to one that a namespace reaches: *host* and *port* there."""

    def __init__(self, namespace, host: str, port: int):
        self.namespace, self.inner = namespace, (host, port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                outer, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(outer,), daemon=True).start()

    def _serve(self, outer) -> None:
        inner = self.namespace.socket()
        with outer, inner, contextlib.suppress(OSError):
            inner.connect(self.inner)
            threading.Thread(target=self._pump, args=(inner, outer), daemon=True).start()
            self._pump(outer, inner)

    @staticmethod
    def _pump(source, target) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
