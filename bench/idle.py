#!/usr/bin/python3
"""What it costs a guest to be in vmferry's care, and to be tracked.

CPU seconds per second of QEMU and of the agent, for an idle guest, in three
states: left alone, in care, and attached and tracked (during a move that
--bandwidth holds back).  And the pages a busy guest writes a second in the
same states.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

from vmferry_lab import Agent, Lab, backports_qemu, cpu_seconds  # noqa: E402

MEMORY_MB = 1024
CRAWL = "200K"  # a second: the move goes on for as long as we look


def watch(pids: list[int], control, seconds: float) -> dict[str, float]:
    """CPU per second of each process, and the guest's writes per second."""
    before = [cpu_seconds(pid) for pid in pids]
    written, start = int(control.status()["written"]), time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - start
    used = [(cpu_seconds(pid) - was) / elapsed for pid, was in zip(pids, before)]
    pages = (int(control.status()["written"]) - written) / elapsed
    return {"qemu_cpu": used[0], "agent_cpu": used[1], "pages_per_second": pages}


def measure(load: dict, seconds: float) -> dict[str, dict]:
    with Lab() as lab:
        a, b = (Agent(lab, host, None).start() for host in lab.hosts)
        guest = lab.guest("idle", memory_mb=MEMORY_MB, check=0, qemu=backports_qemu())
        process = guest.start(lab.host_a)
        results = {}
        with guest.control() as control:
            control.write(**load)
            time.sleep(2)
            pids = [process.pid, a.pid]
            results["alone"] = watch(pids, control, seconds)
            a.adopt(guest, process)
            results["in care"] = watch(pids, control, seconds)
            move = a.begin_migrate(guest, b, "--bandwidth", CRAWL)
            time.sleep(2)
            results["tracked"] = watch(pids, control, seconds)
            a.vmferry("cancel", guest.name).require()
            move.finish()
        guest.check()
        return results


def print_table(title: str, results: dict[str, dict]) -> None:
    print(f"\n{title}, {MEMORY_MB} MiB\n")
    print(f"  {'':12}{'QEMU CPU %':>12}{'agent CPU %':>13}{'MB written/s':>14}")
    for state, row in results.items():
        print(f"  {state:12}{row['qemu_cpu'] * 100:12.2f}{row['agent_cpu'] * 100:13.2f}"
              f"{row['pages_per_second'] * 4096 / 1e6:14.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="to look at each state")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {
        "idle guest": measure({"pattern": "idle"}, arguments.seconds),
        "busy guest": measure({"pattern": "intensive", "span_mb": 64}, arguments.seconds),
    }
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        for title, rows in results.items():
            print_table(title, rows)


if __name__ == "__main__":
    main()
