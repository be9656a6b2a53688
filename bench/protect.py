#!/usr/bin/python3
"""What protection costs a guest, and how fast its standby goes on.

Each guest runs alone and protected in turns within one run, over a link of 1 Gbit/s; the floor of a pause
is what QEMU itself takes to stop, save its devices' state and go on.  Prints a table with targets;
bench/results/ gets all figures as JSON.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

from vmferry_lab import (Agent, Lab, Pki, clean, qemu_pids, quantile, redis_throughput,  # noqa: E402
                         requests_between, wait_until)
from vmferry_lab.qmp import Qmp  # noqa: E402

HOSTS = {"hostA": "10.66.0.1", "hostB": "10.66.0.2", "hostC": "10.66.0.3"}
PAGE = 4096
FLOOR_TIMES = 30
STOOD_S = 10
LINK_BYTES_PER_S = 10**9 // 8

# Options of a guest, and at how much of what it does alone it is to do when it is protected.
GUESTS = {
    "computing": (dict(pattern="idle", arena_mb=8, check=1000000), 0.90),
    "sparse, 1,000 pages an epoch": (dict(pattern="sparse", pages_per_second=20000), 0.90),
    "mixed": (dict(pattern="mixed", pages_per_second=3000), 0.90),
    "dense, 60 MB/s": (dict(pattern="dense", pages_per_second=14600), 0.75),
}


class Stage:
    """Two hosts with agents, a witness, and a guest on the first one."""

    def __init__(self, pki: Pki, **options):
        self.lab = Lab()
        self.lab.link.shape("1gbit")
        hosts = [*self.lab.hosts, self.lab.third_host()]
        self.a, self.b, self.witness = (Agent(self.lab, host, pki.folder(host.name))
                                        for host in hosts)
        for agent in (self.a, self.b, self.witness):
            self.lab.at_close(lambda agent=agent: agent.process and agent.process.kill())
            agent.start()
        self.qmp_path = self.a.host.path("user.qmp")
        extra = ["-chardev", f"socket,id=user,path={self.qmp_path},server=on,wait=off",
                 "-mon", "chardev=user,mode=control", *options.pop("extra", [])]
        self.guest = self.lab.guest("web1", extra=extra,
                                    **{"memory_mb": 512, "arena_mb": 256, **options})
        self.a.run(self.guest)
        self.beats = self.guest.heartbeat(10)
        self.beats.wait(20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lab.close()

    def protect(self, *options) -> float:
        """Seconds until the standby had all of it."""
        begun = time.monotonic()
        self.a.vmferry("protect", "web1", self.b.address, "--witness", self.witness.address,
                       *options, timeout=120).require()
        return time.monotonic() - begun

    def unprotect(self) -> None:
        self.a.vmferry("unprotect", "web1").require()

    def checkpoints(self) -> dict:
        return self.a.status(self.guest)["activity"]["progress"]["checkpoints"]

    def work_per_s(self, seconds: float) -> float:
        """Pages that the guest wrote; passes over its memory where it writes none."""
        with self.guest.control() as control:
            before, begun = control.status(), time.monotonic()
            time.sleep(seconds)
            after, took = control.status(), time.monotonic() - begun
        key = "written" if int(after["written"]) > int(before["written"]) else "passes"
        return (int(after[key]) - int(before[key])) / took

    def floor_ms(self) -> float:
        """Median of stop, save the devices' state, and go on, as three commands."""
        qmp, times = Qmp(self.qmp_path), []
        path = self.a.host.path("floor")
        for _ in range(FLOOR_TIMES):
            begun = time.monotonic()
            qmp.execute("stop")
            qmp.execute("xen-save-devices-state", filename=str(path), live=False)
            qmp.execute("cont")
            times.append((time.monotonic() - begun) * 1e3)
        return median(times)


    def checkpoints_by_migrate(self, times: int) -> dict:
        """What is had without us: QEMU's `migrate` into a process that drops it, again and again."""
        qmp, found = Qmp(self.qmp_path), {"ms": [], "pause_ms": [], "bytes": []}
        qmp.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        qmp.execute("migrate-set-parameters", **{"max-bandwidth": LINK_BYTES_PER_S})
        for _ in range(times):
            qmp.execute("migrate", uri="exec:cat > /dev/null")
            qmp.wait_event(lambda event: event["event"] == "MIGRATION" and
                           event["data"]["status"] in ("completed", "failed"), 60)
            ended = time.monotonic()
            facts = qmp.execute("query-migrate")
            qmp.execute("cont")
            found["pause_ms"].append(facts["downtime"] + (time.monotonic() - ended) * 1e3)
            found["ms"].append(facts["total-time"])
            found["bytes"].append(facts["ram"]["transferred"])
        return {key: median(values) for key, values in found.items()}


def between(before: dict, after: dict, seconds: float) -> dict:
    epochs = max(1, after["epochs"] - before["epochs"])
    pages, sent = after["pages"] - before["pages"], after["bytes"] - before["bytes"]
    return {"epochs_per_s": epochs / seconds, "pages": pages / epochs,
            "share": sent / max(1, pages * PAGE),
            "stood": (after["pause_ms"] - before["pause_ms"]) / (seconds * 1e3),
            "pause_p50_ms": after["pause_p50_ms"], "pause_p99_ms": after["pause_p99_ms"]}


def measure_guest(pki: Pki, options: dict, runs: int, seconds: float) -> dict:
    with Stage(pki, **options) as stage:
        found = {"floor_ms": stage.floor_ms(), "alone": [], "protected": [], "seconds": [],
                 "migrate": stage.checkpoints_by_migrate(3)}
        epochs = []
        for _ in range(runs):
            found["alone"].append(stage.work_per_s(seconds))
            found["seconds"].append(stage.protect())
            time.sleep(1)
            before = stage.checkpoints()
            found["protected"].append(stage.work_per_s(seconds))
            epochs.append(between(before, stage.checkpoints(), seconds))
            stage.unprotect()
    return found | {key: median(run[key] for run in epochs) for key in epochs[0]}


def measure_failover(pki: Pki, runs: int) -> dict:
    """From the kill to the first answer at the client; the takeover alone, as the standby tells it.

    The kill comes when the standby has stood by for STOOD_S: leases begin long, and become short.
    """
    gaps = {"process": [], "host": [], "takeover": []}
    for what in ("process", "host"):
        for _ in range(runs):
            with Stage(pki, pattern="mixed", pages_per_second=3000) as stage:
                stage.protect()
                stage.beats.wait(STOOD_S * 100)
                killed_ms = time.monotonic() * 1e3
                pids = qemu_pids(stage.a.host, stage.guest) if what == "process" else \
                    stage.a.host.namespace.pids()
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda: stage.b.status(stage.guest)["role"] == "ours", "failover", 60)
                stage.beats.wait(20)
                stage.beats.check()
                gaps[what].append(next(beat.arrival_ms for beat in stage.beats.beats
                                       if beat.arrival_ms > killed_ms + 50) - killed_ms)
                [event] = stage.b.events("taken-over")
                gaps["takeover"].append(event["data"]["ms"])
    return gaps


# By default, and as for a guest whose answers matter more than its own work.
REDIS_OPTIONS = {"by default": (), "--sync output --overhead 25%": ("--sync", "output", "--overhead", "25%")}


def measure_redis(pki: Pki, seconds: float, options: tuple) -> dict:
    """Latency of requests at a bounded rate, alone and protected."""
    with Stage(pki, redis=True, pattern="idle") as stage:
        load = stage.guest.redis_load(keys=2000, value_bytes=256, rate=300)
        load.start()
        time.sleep(seconds)
        middle = time.monotonic() * 1e3
        stage.protect(*options)
        begun = time.monotonic() * 1e3
        time.sleep(seconds)
        end = time.monotonic() * 1e3
        requests = load.finish()
        return {name: {share: quantile(requests_between(requests, *window), share)
                       for share in (0.5, 0.99)}
                for name, window in (("alone", (middle - seconds * 1e3, middle)),
                                     ("protected", (begun, end)))}


def measure_redis_throughput(pki: Pki, runs: int) -> dict:
    """Requests a second of 50 connections that each wait for their answers."""
    found = {"alone": [], "protected": []}
    with Stage(pki, redis=True, pattern="idle") as stage:
        def measure() -> float:
            return redis_throughput(stage.lab.client, stage.guest.ip, connections=50,
                                    requests=20000, value_bytes=256)
        for _ in range(runs):
            found["alone"].append(measure())
            stage.protect()
            found["protected"].append(measure())
            stage.unprotect()
    return found


def measure_disk(pki: Pki, mode: str, seconds: float, buffered: bool = True) -> dict:
    with Stage(pki, pattern="idle", disk_mb=64, disk_rate=300, disk_buffered=buffered) as stage:
        stage.protect("--disk-sync", mode)
        before = stage.checkpoints()
        time.sleep(seconds)
        after = stage.checkpoints()
        return {key: after[key] - before[key]
                for key in ("disk_bytes", "disk_found_bytes", "disk_sent_bytes")}


def row(words: str, value: str, target: str = "", met: bool | None = None) -> None:
    verdict = "" if met is None else "ok  " if met else "MISS"
    print(f"  {words:44}{value:>18}   {verdict} {target}", flush=True)


def print_guest(name: str, found: dict, least: float) -> None:
    share = median(found["protected"]) / median(found["alone"])
    print(f"\n{name}: {found['epochs_per_s']:.0f} epochs/s of {found['pages']:.0f} pages")
    row("its work, as a share of that alone", f"{share:.2f}", f"at least {least:.2f}", share >= least)
    floor = found["floor_ms"]
    row("floor: stop, save, cont (three commands)", f"{floor:.1f} ms")
    row("pause, half of them at most", f"{found['pause_p50_ms']:.1f} ms", "at most 1.5 x the floor",
        found["pause_p50_ms"] <= 1.5 * floor)
    row("pause, 99 % of them at most", f"{found['pause_p99_ms']:.1f} ms", "at most 3 x the floor",
        found["pause_p99_ms"] <= 3 * floor)
    row("memory on the wire, of whole pages", f"{found['share']:.3f}",
        "at most 0.2" if name == "mixed" else "", found["share"] <= 0.2 if name == "mixed" else None)
    peer = found["migrate"]
    row("a checkpoint by QEMU's migrate: time, pause",
        f"{peer['ms']:.0f}, {peer['pause_ms']:.0f} ms")
    row("bytes of an epoch, of one by migrate",
        f"{found['share'] * found['pages'] * PAGE / peer['bytes']:.5f}")
    row("until the standby had all of it", f"{median(found['seconds']):.1f} s")


def print_redis(name: str, both: dict) -> None:
    print(f"\nRedis, 300 requests/s, {name}: latency")
    for share, words in ((0.5, "half of them"), (0.99, "99 % of them")):
        more = both["protected"][share] - both["alone"][share]
        row(f"{words}: alone, more when protected", f"{both['alone'][share]:.1f} + {more:.1f} ms",
            "at most 10 ms more" if share == 0.5 else "", more <= 10 if share == 0.5 else None)


def print_disk(found: dict) -> None:
    shares = {name: one["disk_sent_bytes"] / max(1, one["disk_bytes"]) for name, one in found.items()}
    print("\nwrites to a disk: bytes on the wire, of what is written")
    row("buffered, with fsync: copied", f"{shares['copy']:.3f}")
    row("replayed", f"{shares['replay']:.3f}", "at most 0.02 of copied",
        shares["replay"] <= 0.02 * shares["copy"])
    # Nothing keeps what it wrote: what is found depends on when the epoch is cut.
    row("direct, from one buffer again and again", f"{shares['direct']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--only", choices=["guests", "failover", "redis", "disk"])
    arguments = parser.parse_args()
    clean()
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs", file=sys.stderr)
    found = {"started": time.strftime("%F %T"), "load_average": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        pki = Pki(Path(folder), HOSTS)
        if arguments.only in (None, "guests"):
            for name, (options, least) in GUESTS.items():
                found[name] = measure_guest(pki, options, arguments.runs, arguments.seconds)
                print_guest(name, found[name], least)
        if arguments.only in (None, "failover"):
            found["failover"] = gaps = measure_failover(pki, arguments.runs)
            print("\nfailover, from the kill to the first answer")
            row("the guest's process", f"{median(gaps['process']):.0f} ms", "at most 300 ms",
                median(gaps["process"]) <= 300)
            row("its host", f"{median(gaps['host']):.0f} ms", "at most 300 ms",
                median(gaps["host"]) <= 300)
            row("the takeover in it", f"{median(gaps['takeover']):.0f} ms")
        if arguments.only in (None, "redis"):
            found["redis"] = {}
            for name, options in REDIS_OPTIONS.items():
                both = measure_redis(pki, 2 * arguments.seconds, options)
                found["redis"][name] = both
                print_redis(name, both)
            found["redis_throughput"] = rates = measure_redis_throughput(pki, arguments.runs)
            share = median(rates["protected"]) / median(rates["alone"])
            print("\nRedis, 50 connections: requests/s")
            row("alone", f"{median(rates['alone']):.0f}")
            row("protected, as a share of that", f"{share:.2f}", "at least 0.60", share >= 0.6)
        if arguments.only in (None, "disk"):
            found["disk"] = {mode: measure_disk(pki, mode, arguments.seconds)
                             for mode in ("copy", "replay")}
            found["disk"]["direct"] = measure_disk(pki, "replay", arguments.seconds, buffered=False)
            print_disk(found["disk"])
    path = HERE / "results" / time.strftime("protect-%Y%m%d-%H%M%S.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nAll figures: {path}")


if __name__ == "__main__":
    main()
