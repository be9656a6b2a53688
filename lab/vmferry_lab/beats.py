"""Reads a guest's heartbeat over TCP and prints when each beat came.

Run as a program of its own, at real-time priority, so that a busy host does
not add to the gaps it measures:  beats.py ADDRESS INTERVAL_MS

Prints per beat: arrival in ns (CLOCK_MONOTONIC) and the guest's own fields.
"""

import os
import socket
import sys
import time

PORT = 7000


def main() -> None:
    address, interval_ms = sys.argv[1:]
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(20))
    except PermissionError:
        pass
    connection = socket.create_connection((address, PORT), timeout=10)
    connection.settimeout(None)
    connection.sendall(f"beat {interval_ms}\n".encode())
    pending = b""
    while data := connection.recv(4096):
        arrival = time.monotonic_ns()
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            sys.stdout.write(f"{arrival} {line.decode()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
