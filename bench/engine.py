#!/usr/bin/python3
"""How long a host stays hot: the control engine with three hosts and six guests.

Each host has few CPUs: a control group with a limit, where the machine has the controller for that (else it only says so,
and its guests are not slowed).  Three guests of the first host begin to work, which is all that it has.  Measured from its
third hot reading: until the move is ordered, until it has ended, and until no reading is hot any more; all with the engine's
own settings.  Prints a table with targets; bench/results/ gets all figures as JSON.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "lab"), str(HERE.parent / "tests" / "system")]

from engine_scene import Cluster  # noqa: E402
from load import get  # noqa: E402
from vmferry_lab import Engine, Lab, Pki, clean, wait_until  # noqa: E402

HOSTS = {"hostA": "10.66.0.1", "hostB": "10.66.0.2", "hostC": "10.66.0.3"}
PLACES = {"hostA": ("web1", "web2", "web3"), "hostB": ("db1", "db2"), "hostC": ("db3",)}
WORK = {"pattern": "mixed", "pps": 3000}
HOT = 0.85  # as [hot] cpu is by default, and the samples
SAMPLES, OF = 3, 5
ROOM = 3  # times the first host's CPUs; what a guest waits for counts as its need, and on a busy machine all of them wait
GOAL_S = 20
LIMITS = Path("/sys/fs/cgroup/cpu")  # of version 1
PERIOD_US = 100000
PORT = 4753


class LimitedHost:
    """The CPUs of a host of the lab, beside what it says of them (engine_scene.SmallHost)."""

    def __init__(self, lab, name: str, small, agent):
        self.small = small
        self.folder = LIMITS / f"{lab.name}-{name}" if (LIMITS / "cpu.cfs_quota_us").exists() else None
        if not self.folder:
            return
        self.folder.mkdir()
        lab.at_close(self._remove)
        self._adopt(agent.pid)

    def _adopt(self, pid: int) -> None:
        """The agent's threads; what it starts is limited with it."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def set_cpus(self, cpus: float) -> None:
        self.small.set_cpus(cpus)
        if self.folder:
            (self.folder / "cpu.cfs_quota_us").write_text(str(int(cpus * PERIOD_US)))

    def _remove(self) -> None:
        for pid in (self.folder / "cgroup.procs").read_text().split():
            (LIMITS / "cgroup.procs").write_text(pid)
        self.folder.rmdir()


class Readings:
    """What a host's agent says, look by look, as the engine counts it; until close()."""

    def __init__(self, agent):
        self.agent = agent
        self.taken: list[tuple[float, float]] = []  # when it was seen, share of the CPUs in use
        self.cpus = 0.0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        last = 0
        while not self._ends.wait(0.1):
            now = json.loads(get(self.agent, "/v1/load"))
            if now["time_ms"] == last or now["cpu_used"] is None:
                continue
            last = now["time_ms"]
            used = now["cpu_used"] - (now["moves"]["cpu_used"] or 0)
            self.cpus = now["cpus"]  # no more than the machine has
            self.taken.append((time.monotonic(), used / now["cpus"]))

    def close(self) -> None:
        self._ends.set()
        self._thread.join()

    def mean(self, seconds: float) -> float:
        shares = [share for at, share in self.taken if at > time.monotonic() - seconds]
        return sum(shares) / len(shares)

    def hot_since(self) -> float | None:
        """When the third of five readings was hot."""
        for i, (at, share) in enumerate(self.taken):
            newest = self.taken[max(0, i - OF + 1):i + 1]
            if share > HOT and sum(one > HOT for _, one in newest) >= SAMPLES:
                return at
        return None

    def cool_since(self, after: float) -> float | None:
        """The first reading after that, from which on none is hot."""
        hot = [at for at, share in self.taken if share > HOT]
        later = [at for at, _ in self.taken if at > max([after, *hot])]
        return later[0] if later else None


def work(cluster: Cluster, names, **settings) -> None:
    for name in names:
        with cluster.guests[name].control() as control:
            control.set(**settings)


class Work:
    """What guests write, in pages a second, between two moments."""

    def __init__(self, cluster: Cluster, names):
        self.cluster, self.names = cluster, names
        self.before = self._read()
        self.begun = time.monotonic()

    def _read(self) -> dict[str, int]:
        written = {}
        for name in self.names:
            with self.cluster.guests[name].control() as control:
                written[name] = int(control.status()["written"])
        return written

    def per_s(self) -> float:
        after, took = self._read(), time.monotonic() - self.begun
        return sum(after[name] - self.before[name] for name in self.names) / took


def measure(cluster: Cluster, hosts, folder: Path, cpus: float) -> dict:
    """One run: from all at rest to a relieved host; everything is where it was afterwards."""
    workers = PLACES["hostA"]
    for name, host in hosts.items():
        host.set_cpus(cpus if name == "hostA" else cpus * ROOM)
    folder.mkdir()
    engine = Engine(folder, cluster.spec, PORT, {"limits": {"memory-reserve": "1%"}}).start()
    readings = Readings(cluster["hostA"])
    try:
        engine.wait_ready()
        wait_until(lambda: all(one["usable"] for one in engine.show("hosts")["hosts"]), "figures", 30, 0.5)
        time.sleep(10)  # readings at rest
        work(cluster, workers, **WORK)
        hot = wait_until(readings.hot_since, "the host is hot", 60, 0.1)
        slowed = Work(cluster, workers)
        move = wait_until(lambda: [one for one in engine.moves() if one["state"] == "completed"],
                          "a move", 60, 0.5)[0]
        slow_per_s = slowed.per_s()
        wall = time.time() - time.monotonic()
        ended = move["ended_at"] - wall
        wait_until(lambda: readings.cool_since(ended) and not engine.host("hostA")["hot"], "relief", 60, 0.5)
        time.sleep(4)  # and it stays so
        relieved = Work(cluster, workers)
        time.sleep(6)
        move = wait_until(lambda: next((one for one in engine.moves()
                                        if one["id"] == move["id"] and one["outcome"]), None),
                          "its outcome", 60, 0.5)
        found = {"cpus": cpus, "guest": move["guest"], "to": move["to"],
                 "ordered_s": move["ordered_at"] - wall - hot, "ended_s": ended - hot,
                 "relief_s": readings.cool_since(ended) - hot, "moves": len(engine.moves()),
                 "pause_ms": move["outcome"]["downtime_ms"], "move_ms": move["outcome"]["total_ms"],
                 "forecast_ms": move["forecast"]["ms"],
                 "gap_ms": {name: beats.largest_gap_ms((move["ordered_at"] - wall) * 1e3, ended * 1e3)
                            for name, beats in cluster.beats.items()},
                 "hot_pages_per_s": slow_per_s, "relieved_pages_per_s": relieved.per_s(),
                 "readings": [round(share, 3) for _, share in readings.taken]}
    finally:
        readings.close()
        print("hostA's CPUs in use: " + " ".join(f"{share:.2f}" for _, share in readings.taken), file=sys.stderr)
        work(cluster, workers, pattern="idle", pps=0)
        engine.stop()
    cluster.check()
    for host in hosts.values():
        host.set_cpus(8)
    cluster[found["to"]].migrate(cluster.guests[found["guest"]], cluster["hostA"]).require()
    return found


def calibrate(cluster: Cluster) -> float:
    """CPUs that the first host uses while its guests work, and nothing limits it."""
    readings = Readings(cluster["hostA"])
    try:
        work(cluster, PLACES["hostA"], **WORK)
        time.sleep(11)
        return readings.mean(7) * readings.cpus
    finally:
        work(cluster, PLACES["hostA"], pattern="idle", pps=0)
        readings.close()


def row(words: str, value: str, target: str = "", met: bool | None = None) -> None:
    verdict = "" if met is None else "ok  " if met else "MISS"
    print(f"  {words:52}{value:>16}   {verdict} {target}", flush=True)


def middle(runs: list[dict], key: str) -> float:
    return median(run[key] for run in runs)


def print_all(runs: list[dict], limited: bool) -> None:
    print(f"\n3 hosts of {middle(runs, 'cpus'):.2f} CPUs ({'limited' if limited else 'as they say, not limited'}), "
          f"6 guests, links of 1 Gbit/s; median of {len(runs)}")
    row("from the third hot reading to the order", f"{middle(runs, 'ordered_s'):.1f} s")
    row("to the end of the move", f"{middle(runs, 'ended_s'):.1f} s")
    relief = middle(runs, "relief_s")
    row("to the first reading that is not hot", f"{relief:.1f} s", f"at most {GOAL_S} s", relief <= GOAL_S)
    row("moves", f"{middle(runs, 'moves'):.0f}")
    row("the move; as expected", f"{middle(runs, 'move_ms'):.0f}; {middle(runs, 'forecast_ms'):.0f} ms")
    row("its guest's pause", f"{middle(runs, 'pause_ms'):.0f} ms")
    row("largest gap of its heartbeat",
        f"{median(run['gap_ms'][run['guest']] for run in runs):.0f} ms")
    row("of the other guests' in that time",
        f"{median(max(gap for name, gap in run['gap_ms'].items() if name != run['guest']) for run in runs):.0f} ms")
    row("the three guests' work while hot, pages/s", f"{middle(runs, 'hot_pages_per_s'):.0f}")
    row("relieved", f"{middle(runs, 'relieved_pages_per_s'):.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    clean()
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs", file=sys.stderr)
    found = {"started": time.strftime("%F %T"), "load_average": os.getloadavg()[0], "runs": []}
    with tempfile.TemporaryDirectory() as folder, Lab() as lab:
        cluster = Cluster(lab, Pki(Path(folder) / "pki", HOSTS))
        lab.link.shape("1gbit")
        hosts = {name: LimitedHost(lab, name, small, cluster[name])
                 for name, small in zip(HOSTS, cluster.sizes)}
        for host in hosts.values():
            host.set_cpus(8)
        for host, names in PLACES.items():
            cluster.run(host, *names)
        found["used"] = calibrate(cluster)
        for number in range(arguments.runs):
            found["runs"].append(measure(cluster, hosts, Path(folder) / f"engine{number}", found["used"]))
            print(json.dumps({key: value for key, value in found["runs"][-1].items() if key != "gap_ms"}),
                  file=sys.stderr, flush=True)
        found["limited"] = hosts["hostA"].folder is not None
    print_all(found["runs"], found["limited"])
    path = HERE / "results" / time.strftime("engine-%Y%m%d-%H%M%S.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nAll figures: {path}")


if __name__ == "__main__":
    main()
