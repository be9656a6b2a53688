#!/usr/bin/python3
"""A guest saved into a file and restored from it, by vmferry and by QEMU itself, in turns.

QEMU: `migrate` to a file with mapped-ram, and `snapshot-save`/`snapshot-load` (what savevm and loadvm
do); libvirt 9.0: `virsh save` and `restore`, with QEMU 7.2, since it cannot use 10.0. Each saves the guest twice: once the guest goes on (its pause, the work that it lost), once it is
ended, to be restored; by vmferry it is restored twice, since the second time it is known what is used
first. At the end ten guests are restored from one image, and what memory that takes is held against one.
Prints medians and ratios; bench/results/ gets all samples as JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

from contenders import settle  # noqa: E402
from measure import lost_work_ms, touch_free_memory  # noqa: E402
from vmferry_lab import Agent, Lab, LabError, backports_qemu, wait_until  # noqa: E402
from vmferry_lab.qemu import system_qemu  # noqa: E402
from vmferry_lab.qmp import Qmp  # noqa: E402

CLONES = 10
HEARTBEAT_MS = 10
RUN_IN_S = 2
GUESTS = {
    "idle": {"memory_mb": 1024, "arena_mb": 16, "load": {"pattern": "idle"}},
    "busy": {"memory_mb": 1024, "arena_mb": 512, "load": {"pattern": "dense", "mb_per_second": 40}},
    "redis": {"memory_mb": 1024, "arena_mb": 16, "load": {"pattern": "idle"},
              "redis": {"keys": 200_000, "value_bytes": 1000, "rate": 1000}},
    "sparse": {"memory_mb": 4096, "arena_mb": 64, "load": {"pattern": "idle"}},
}
# What a median of ours may be at most, as a multiple of the best peer's.
TARGETS = {"pause_ms": 0.3, "save_ms": 1.0, "file_mb": 1.0, "answer_ms": 0.25, "whole_ms": 1.1}


@dataclass
class Sample:
    pause_ms: float = 0     # the heartbeat's gap beyond its interval
    lost_ms: float | None = None  # of the guest's own work
    save_ms: float = 0      # until the file is complete
    file_mb: float = 0      # that it takes on the disk
    launch_ms: float = 0    # of a restore: until QEMU waits for its state
    run_ms: float = 0       # until the guest may run
    answer_ms: float = 0    # until it answers
    whole_ms: float = 0     # until all of its memory is there
    faults: float | None = None  # of ours
    again_answer_ms: float | None = None  # the same by a second restore
    again_whole_ms: float | None = None
    again_faults: float | None = None


def allocated_mb(path: Path) -> float:
    return path.stat().st_blocks * 512 / 1e6


class Vmferry:
    label = "vmferry"

    def __init__(self, lab, guest, folder):
        self.agent = Agent(lab, lab.host_a, None).start()
        self.guest, self.file = guest, folder / "guest.image"
        lab.at_close(self.agent.kill)

    def start(self):
        self.agent.run(self.guest)

    def save(self, stop: bool) -> None:
        self.file.unlink(missing_ok=True)
        self.agent.vmferry("save", self.guest.name, self.file, *(["--stop"] if stop else []),
                           "--json", timeout=300).require()

    def restore(self, sample: Sample, begun: float) -> None:
        self.agent.vmferry("restore", self.file, timeout=300).require()

    def await_whole(self, sample: Sample, begun: float) -> None:
        wait_until(lambda: self.agent.events("restored"), "all of its memory", 120)
        facts = self.agent.events("restored")[-1]["data"]
        sample.launch_ms, sample.run_ms = facts["launch_ms"], facts["run_ms"]
        sample.whole_ms, sample.faults = facts["total_ms"], facts["faults"]

    def restore_again(self, sample: Sample, ping) -> None:
        self.stop()
        begun = time.monotonic()
        answers = ping()
        self.agent.vmferry("restore", self.file, timeout=300).require()
        sample.again_answer_ms = answers.wait() - begun * 1e3
        wait_until(lambda: len(self.agent.events("restored")) == 2, "all of its memory", 120)
        facts = self.agent.events("restored")[-1]["data"]
        sample.again_whole_ms, sample.again_faults = facts["total_ms"], facts["faults"]

    def stop(self):
        self.agent.vmferry("stop", self.guest.name)


class Qemu:
    """What its two ways have in common."""

    def __init__(self, lab, guest, folder):
        self.lab, self.guest, self.file = lab, guest, folder / "guest.file"
        self.process = self.qmp = None

    def launch(self, *more):
        argv = [*self.guest.command_with_qmp(self.guest.qmp_path(self.lab.host_a)), *more]
        self.process = self.lab.host_a.start_orphan(argv, "qemu")
        self.qmp = Qmp(self.guest.qmp_path(self.lab.host_a))
        self.lab.at_close(self.stop)

    def start(self):
        self.launch()
        self.guest.wait_ready()

    def stop(self):
        if self.process:
            self.qmp.close()
            self.process.kill()
        self.process = None

    def migrated(self):
        self.qmp.wait_event(lambda event: event["event"] == "MIGRATION" and
                            event["data"]["status"] in ("completed", "failed"), 300)
        status = self.qmp.execute("query-migrate")
        assert status["status"] == "completed", status

    def go_on(self):
        """Behind its last event QEMU still cleans up."""
        def goes_on():
            try:
                self.qmp.execute("cont")
            except LabError as error:
                if "not finalized" not in str(error):
                    raise
                return False
            return True
        wait_until(goes_on, "QEMU has finished", 10)


class MappedRam(Qemu):
    label = "mapped-ram"

    def prepare(self):
        self.qmp.execute("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": True} for name in ("events", "mapped-ram")])

    def save(self, stop: bool) -> None:
        self.file.unlink(missing_ok=True)
        self.prepare()
        self.qmp.execute("migrate", uri=f"file:{self.file}")
        self.migrated()
        if stop:
            self.stop()
        else:
            self.go_on()
        subprocess.run(["sync", self.file], check=True)

    def restore(self, sample: Sample, begun: float) -> None:
        self.launch("-incoming", "defer", "-S")
        sample.launch_ms = (time.monotonic() - begun) * 1e3
        self.prepare()
        self.qmp.execute("migrate-incoming", uri=f"file:{self.file}")
        self.migrated()
        self.qmp.execute("cont")
        sample.run_ms = sample.whole_ms = (time.monotonic() - begun) * 1e3

    def await_whole(self, sample: Sample, begun: float) -> None:
        pass


class Snapshot(Qemu):
    label = "snapshot"

    def __init__(self, lab, guest, folder):
        super().__init__(lab, guest, folder)
        self.file = folder / "state.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.file, "16M"], check=True)
        self.drive = ("-blockdev", json.dumps({
            "driver": "qcow2", "node-name": "state",
            "file": {"driver": "file", "filename": str(self.file)}}))

    def start(self):
        self.launch(*self.drive)
        self.guest.wait_ready()

    def job(self, command: str) -> None:
        self.qmp.execute(command, **{"job-id": command, "tag": "one", "vmstate": "state",
                                     "devices": ["state"]})
        self.qmp.wait_event(lambda event: event["event"] == "JOB_STATUS_CHANGE" and
                            event["data"] == {"id": command, "status": "concluded"}, 300)
        job, = self.qmp.execute("query-jobs")
        assert "error" not in job, job
        self.qmp.execute("job-dismiss", id=command)

    def save(self, stop: bool) -> None:
        if stop:
            self.qmp.execute("stop")
        self.job("snapshot-save")
        if stop:
            self.stop()
        else:
            self.qmp.execute("snapshot-delete", **{"job-id": "delete", "tag": "one",
                                                   "devices": ["state"]})
            self.qmp.wait_event(lambda event: event["event"] == "JOB_STATUS_CHANGE" and
                                event["data"] == {"id": "delete", "status": "concluded"}, 300)
            self.qmp.execute("job-dismiss", id="delete")
        subprocess.run(["sync", self.file], check=True)

    def restore(self, sample: Sample, begun: float) -> None:
        self.launch(*self.drive, "-S")
        sample.launch_ms = (time.monotonic() - begun) * 1e3
        self.job("snapshot-load")
        self.qmp.execute("cont")
        sample.run_ms = sample.whole_ms = (time.monotonic() - begun) * 1e3

    def await_whole(self, sample: Sample, begun: float) -> None:
        pass


DOMAIN = """<domain type="qemu"><name>{name}</name><memory unit="MiB">{memory}</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="pc">hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>
<cmdline>{words}</cmdline></os><features><acpi/></features><devices><emulator>{emulator}</emulator>
<serial type="file"><source path="{console}" append="on"/><target port="0"/></serial>
<interface type="ethernet"><mac address="{mac}"/><target dev="{tap}" managed="no"/><model type="virtio"/></interface>
<controller type="usb" model="none"/><memballoon model="none"/></devices></domain>
"""
# libvirt's driver runs in virsh itself, in a folder of ours: there is no daemon.
LIBVIRT = """user = "root"
group = "root"
security_driver = "none"
namespaces = [ ]
stdio_handler = "file"
remember_owner = 0
cgroup_controllers = [ ]
"""


class Virsh:
    """It always ends the guest that it saves: one that is to go on is restored at once."""
    label = "virsh"

    def __init__(self, lab, guest, folder):
        self.lab, self.guest, self.file = lab, guest, folder / "guest.save"
        self.root = lab.host_a.directory / "libvirt"
        (self.root / "etc").mkdir(parents=True)
        (self.root / "etc" / "qemu.conf").write_text(LIBVIRT)
        self.process = subprocess.Popen(
            lab.host_a.namespace.wrap(["virsh", "-q", "-c", f"qemu:///embed?root={self.root}"]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
        lab.at_close(self.end)

    def end(self):
        self.process.stdin.close()
        self.process.wait()

    def order(self, words: str) -> None:
        self.process.stdin.write(f"{words}\necho the-end\n")
        said = []
        # It shows each order when it comes to it.
        while not (said and said[-1].strip().endswith("echo the-end")):
            said.append(self.process.stdout.readline())
            assert said[-1], "".join(said)
        assert not any("error:" in line for line in said), "".join(said)

    def start(self):
        words = self.guest.command
        domain = self.root / "domain.xml"
        domain.write_text(DOMAIN.format(
            name=self.guest.name, memory=self.guest.memory_mb, kernel=words[words.index("-kernel") + 1],
            initrd=words[words.index("-initrd") + 1], words=escape(words[words.index("-append") + 1]),
            emulator=words[0], console=self.guest.console, mac=self.guest.mac, tap=self.guest.tap))
        self.order(f"create {domain}")
        self.guest.wait_ready()

    def save(self, stop: bool) -> None:
        self.file.unlink(missing_ok=True)
        self.order(f"save {self.guest.name} {self.file}")
        if not stop:
            self.order(f"restore {self.file}")
        subprocess.run(["sync", self.file], check=True)

    def restore(self, sample: Sample, begun: float) -> None:
        self.order(f"restore {self.file}")
        sample.run_ms = sample.whole_ms = (time.monotonic() - begun) * 1e3

    def await_whole(self, sample: Sample, begun: float) -> None:
        pass

    def stop(self):
        self.order(f"destroy {self.guest.name}")


CONTENDERS = {contender.label: contender for contender in (Vmferry, MappedRam, Snapshot, Virsh)}


PING = """
import socket, sys, time
icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
icmp.settimeout(0.01)
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        icmp.sendto(bytes([8, 0, 0xf7, 0xff, 0, 0, 0, 0]), (sys.argv[1], 0))
        if icmp.recv(256)[20] == 0:
            sys.exit(0)
    except OSError:
        pass
sys.exit(1)
"""


REDIS_PING = """
import socket, sys, time
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        with socket.create_connection((sys.argv[1], 6379), 0.02) as redis:
            redis.settimeout(2)
            redis.sendall(b"GET key:1\\r\\n")
            if redis.recv(64)[:1] == b"$":
                sys.exit(0)
    except OSError:
        time.sleep(0.005)
sys.exit(1)
"""


class Ping:
    """Until the guest answers one echo request of a hundred a second: what a held connection does
    after a silence is the business of TCP's timers."""

    def __init__(self, lab, guest, program=PING):
        argv = lab.client.wrap([sys.executable, "-c", program, guest.ip])
        self.process = subprocess.Popen(argv)

    def wait(self) -> float:
        """When it did, ms."""
        assert self.process.wait() == 0
        return time.monotonic() * 1e3


def run(contender: str, kind: str, folder: Path) -> Sample:
    settings = GUESTS[kind]
    touch_free_memory()
    with Lab() as lab:
        guest = lab.guest("bench", memory_mb=settings["memory_mb"], check=0,
                          qemu=system_qemu() if contender == Virsh.label else backports_qemu(),
                          arena_mb=settings["arena_mb"], redis="redis" in settings)
        subject = CONTENDERS[contender](lab, guest, folder)
        subject.start()
        heartbeat = settle(guest, settings["load"], HEARTBEAT_MS)
        load = guest.redis_load(**settings["redis"]) if "redis" in settings else None
        if load:
            load.start()
        time.sleep(RUN_IN_S)
        sample = Sample()
        before = list(heartbeat.beats)[-int(RUN_IN_S * 900 / HEARTBEAT_MS):]
        begun = time.monotonic()
        subject.save(stop=False)
        sample.save_ms = (time.monotonic() - begun) * 1e3
        heartbeat.wait(5, 60)
        since = begun * 1e3 - HEARTBEAT_MS
        sample.pause_ms = heartbeat.downtime_ms(since)
        sample.lost_ms = lost_work_ms(before, [beat for beat in heartbeat.beats
                                               if beat.arrival_ms >= since])
        if load:
            load.close()
        subject.save(stop=True)
        sample.file_mb = allocated_mb(subject.file)
        time.sleep(0.5)  # what was on its way has come
        begun = time.monotonic()
        def make_ping():
            return Ping(lab, guest, REDIS_PING if load else PING)
        ping = make_ping()
        waiter = threading.Thread(
            target=lambda: setattr(sample, "answer_ms", ping.wait() - begun * 1e3))
        waiter.start()
        subject.restore(sample, begun)
        waiter.join()
        subject.await_whole(sample, begun)
        guest.check()
        heartbeat.check()
        if isinstance(subject, Vmferry):
            subject.restore_again(sample, make_ping)
            guest.check()
        subject.stop()
    return sample


def used_mb() -> float:
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return (int(facts["MemTotal"].split()[0]) - int(facts["MemAvailable"].split()[0])) / 1e3


def measure_clones(folder: Path, count: int) -> dict:
    """Memory of one restored guest and of *count* that share, in MB, QEMU's own included; the second
    figure of each is of the guests' RAM alone."""
    with Lab() as lab:
        agent = Agent(lab, lab.host_a, None).start()
        lab.at_close(agent.kill)
        guest = lab.guest("bench", memory_mb=1024, arena_mb=512, check=0, qemu=backports_qemu())
        file = folder / "clones.image"
        agent.run(guest)
        agent.vmferry("save", guest.name, file, "--stop", "--json", timeout=300).require()
        before, found, pids = used_mb(), {}, []
        for number in range(count):
            lab.host_a.add_tap(f"clone{number}")
            pids.append(agent.vmferry("restore", file, "--name", f"clone{number}", "--share-memory", "--full",
                                      "--map", f"{guest.tap}=clone{number}", "--json",
                                      timeout=300).require().json["pid"])
            if number + 1 in (1, count):
                time.sleep(2)
                found[str(number + 1)] = [used_mb() - before, ram_mb(pids)]
        for number in range(count):
            agent.vmferry("stop", f"clone{number}").require()
    return found


def ram_mb(pids: list[int]) -> float:
    """The file that they share, and what each has of its own in its place."""
    own, file = 0, 0
    for pid in pids:
        shared = False
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if line[0] in "0123456789abcdef":
                shared = "/memfd:vmferry-shared" in line
                where = line.split()[0]
                if shared:
                    file = Path(f"/proc/{pid}/map_files/{where}").stat().st_blocks * 512
            elif shared and line.startswith("Anonymous:"):
                own += int(line.split()[1]) * 1024
    return (own + file) / 1e6


def medians(samples: list[Sample]) -> dict:
    rows = [asdict(sample) for sample in samples]
    return {key: statistics.median(row[key] for row in rows) if
            all(row[key] is not None for row in rows) else None for key in rows[0]}


def show(kind: str, figures: dict) -> None:
    keys = list(next(iter(figures.values())))
    print(f"\n{kind}, medians\n" + "".join(f"{key:>12}" for key in ["", *keys]))
    for label, row in figures.items():
        print(f"{label:>12}" + "".join(f"{'-' if row[key] is None else round(row[key], 1):>12}"
                                       for key in keys))
    ours, peers = figures.get("vmferry"), [row for name, row in figures.items() if name != "vmferry"]
    for key, most in TARGETS.items() if ours and peers else ():
        ratio = ours[key] / max(min(row[key] for row in peers), 1e-9)
        print(f"  {key}: {ratio:.2f} of the best peer's; wanted at most {most}"
              f" {'' if ratio <= most else '(missed)'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--guests", nargs="+", choices=GUESTS, default=list(GUESTS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--clones", type=int, default=CLONES, help="0: none")
    parser.add_argument("--folder", type=Path, default=HERE / "results" / "images")
    arguments = parser.parse_args()
    results: dict = {}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for kind in arguments.guests:
        samples: dict = {name: [] for name in arguments.contenders}
        for _ in range(arguments.runs):
            for name in arguments.contenders:
                samples[name].append(run(name, kind, arguments.folder))
                for path in arguments.folder.iterdir():
                    path.unlink()
        show(kind, {name: medians(list_) for name, list_ in samples.items()})
        results[kind] = {name: [asdict(one) for one in list_] for name, list_ in samples.items()}
    if arguments.clones:
        results["clones"] = found = measure_clones(arguments.folder, arguments.clones)
        for path in arguments.folder.iterdir():
            path.unlink()
        one, all_ = found["1"], found[str(arguments.clones)]
        print(f"\n{arguments.clones} guests of one image, MB: {all_[0]:.0f}, of one {one[0]:.0f} "
              f"({all_[0] / one[0]:.2f} ×); their RAM {all_[1]:.0f}, of one {one[1]:.0f} ({all_[1] / one[1]:.2f} ×)")
    arguments.folder.rmdir()
    (HERE / "results" / "save.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
