"""The contenders: each moves a guest from host A to host B once and returns a Sample."""

import functools
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field

from measure import Ruler, Sample
from vmferry_lab import (Agent, LabError, cpu_seconds, peak_memory_bytes, qemu_pids,
                         vmferry_program)
from vmferry_lab.qmp import Qmp, QmpTimeout

INCOMING_PORT = 4444
LIMIT_S = 120.0
LOOK_SECONDS = 0.01  # between two looks at how far a move has come
# A post-copy that is paused goes on on its user's order alone.
ENDED = ("completed", "failed", "cancelled", "postcopy-paused")


@functools.cache
def _migrate_help() -> str:
    return subprocess.run([vmferry_program(), "migrate", "--help"], capture_output=True,
                          text=True, check=True).stdout


def known_options(options) -> list[str]:
    """Those of *options* (--name value …) that this vmferry knows; the others are named."""
    known, keep = [], True
    for word in options:
        if word.startswith("--"):
            keep = _is_known(word.split("=")[0])
        if keep:
            known.append(word)
    return known


@functools.cache
def _is_known(option: str) -> bool:
    known = re.search(rf"{option}\b", _migrate_help()) is not None
    if not known:
        print(f"left out: vmferry migrate knows no {option}", file=sys.stderr)
    return known


def move_with_vmferry(lab, guest, prepare, pki, options=(), limit_s: float = LIMIT_S,
                      begun=lambda: None) -> Sample:
    """*pki* None: plain TCP, as QEMU's.  *prepare(guest)* sets the guest's load and returns a
    heartbeat.  A move that takes longer than *limit_s* is cancelled.  *begun()* is called with the
    order."""
    agents = [Agent(lab, host, pki.folder(host.name) if pki else None).start()
              for host in lab.hosts]
    a, b = agents
    a.run(guest)
    heartbeat = prepare(guest)
    ruler = Ruler(lab, heartbeat, a.guest_pid(guest), [agent.pid for agent in agents])
    ruler.start()
    begun()
    command = a.begin_migrate(guest, b, *known_options(options))
    in_time = _ends_within(command.popen, limit_s)
    if not in_time:
        a.vmferry("cancel", guest.name)
    result = command.finish()
    ruler.stop(qemu_pids(lab.host_b, guest))
    report = result.json
    if "rounds" not in report:
        raise LabError(f"vmferry migrate: {result.stdout}{result.stderr}")
    finished = result.exit_code == 0
    reason = report["reason"] if finished else report["error"] if in_time else "too long"
    return Sample(finished=finished, reason=reason, total_ms=report["total_ms"],
                  downtime_ms=report["downtime_ms"], prestart_cpu_s=0, prestart_ms=0,
                  rounds=len(report["rounds"]), round_reports=report["rounds"],
                  peak_memory_bytes=max(peak_memory_bytes(agent.pid) for agent in agents),
                  copies=report.get("copies"), downtime_parts=report.get("downtime_parts"),
                  postcopy=report.get("postcopy"),
                  **ruler.readings())


def _ends_within(popen: subprocess.Popen, seconds: float) -> bool:
    try:
        popen.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@dataclass(frozen=True)
class Tuning:
    """What QEMU's migration is told, on both sides; nothing: its defaults."""

    capabilities: tuple[str, ...] = ()
    parameters: dict = field(default_factory=dict)
    passes: int | None = None  # of pre-copy before post-copy; None: pre-copy alone

    def apply(self, qmp: Qmp) -> None:
        names = ("events", *self.capabilities)
        qmp.execute("migrate-set-capabilities",
                    capabilities=[{"capability": name, "state": True} for name in names])
        if self.parameters:
            qmp.execute("migrate-set-parameters", **self.parameters)

    def switch(self, qmp: Qmp) -> None:
        """Orders post-copy when its time has come, if the move takes that long."""
        if self.passes is None:
            return
        # A sync stands before each pass, and one behind the last.
        while self.passes:
            facts = qmp.execute("query-migrate")
            if facts.get("status") in ENDED:
                return
            if facts.get("ram", {}).get("dirty-sync-count", 0) > self.passes:
                break
            time.sleep(LOOK_SECONDS)
        qmp.execute("migrate-start-postcopy")


def move_with_qemu(lab, guest, prepare, tuning: Tuning = Tuning(), limit_s: float = LIMIT_S,
                   begun=lambda: None) -> Sample:
    """QEMU's own pre-copy, or post-copy, over plain TCP."""
    uri = f"tcp:{lab.host_b.ip}:{INCOMING_PORT}"
    source = guest.start(lab.host_a)
    incoming = [*guest.command_with_qmp(guest.qmp_path(lab.host_b)), "-incoming", "defer"]
    begin = time.monotonic()
    destination = lab.host_b.start(incoming, f"{guest.name}.incoming")
    with Qmp(guest.qmp_path(lab.host_b)) as there, Qmp(guest.qmp_path(lab.host_a)) as here:
        prestart_ms = (time.monotonic() - begin) * 1e3
        for side in (there, here):
            tuning.apply(side)
        there.execute("migrate-incoming", uri=uri)
        heartbeat = prepare(guest)
        prestart = cpu_seconds(destination.pid)
        ruler = Ruler(lab, heartbeat, source.pid, [destination.pid])
        ruler.start()
        begun()
        here.execute("migrate", uri=uri)
        tuning.switch(here)
        finished = _finish_or_cancel(here, limit_s)
        if finished:
            there.wait_event(lambda event: event["event"] == "RESUME")
        if finished and tuning.passes is not None:
            there.wait_event(_is_last)
        ruler.stop([])
        facts = here.execute("query-migrate")
    reason = "" if finished else facts.get("error-desc", "too long")
    return Sample(finished=finished, reason=reason,
                  total_ms=facts.get("total-time", 0), downtime_ms=facts.get("downtime", 0),
                  prestart_cpu_s=prestart, rounds=facts.get("ram", {}).get("dirty-sync-count", 0),
                  round_reports=[], peak_memory_bytes=0, prestart_ms=prestart_ms,
                  postcopy=_postcopy_of(facts.get("ram", {})), **ruler.readings())


def _postcopy_of(ram: dict) -> dict | None:
    """None where all had gone before it."""
    if not ram.get("postcopy-bytes"):
        return None
    return {"bytes": ram["postcopy-bytes"], "requests": ram["postcopy-requests"]}


def _finish_or_cancel(qmp: Qmp, limit_s: float) -> bool:
    try:
        return qmp.wait_event(_is_last, limit_s)["data"]["status"] == "completed"
    except QmpTimeout:
        qmp.execute("migrate_cancel")
        return qmp.wait_event(_is_last)["data"]["status"] == "completed"


def _is_last(event: dict) -> bool:
    return (event["event"] == "MIGRATION"
            and event["data"]["status"] in ENDED)


def settle(guest, load: dict | None, interval_ms: int):
    """Gives the guest its load and lets it run in; a heartbeat."""
    heartbeat = guest.heartbeat(interval_ms)
    with guest.control() as control:
        control.write(**(load or {"pattern": "idle"}))
    time.sleep(1)
    heartbeat.wait(10)
    return heartbeat


def start_store(lab) -> str:
    """An agent on a third host; its address."""
    return Agent(lab, lab.third_host(), None).start().address


@dataclass(frozen=True)
class Contender:
    label: str
    tuning: Tuning | None = None  # None: vmferry
    tls: bool = False
    mode: str | None = None       # of vmferry, in place of a workload's options
    safety: str | None = None     # of a post-copy
    store: bool = False           # of a post-copy, on a third host

    def move(self, lab, guest, prepare, pki, options, limit_s: float,
             begun=lambda: None) -> Sample:
        if self.tuning is not None:
            return move_with_qemu(lab, guest, prepare, self.tuning, limit_s, begun)
        if self.mode:
            options = ("--mode", self.mode)
        if self.safety:
            options += ("--safety", self.safety)
        if self.store:
            options += ("--store", start_store(lab))
        return move_with_vmferry(lab, guest, prepare, pki if self.tls else None, options, limit_s,
                                 begun)


HALF_OF_MEMORY = 512 << 20  # of the guests in workloads.py

CONTENDERS = {
    "vmferry": Contender("vmferry"),
    "qemu": Contender("QEMU, defaults", Tuning()),
    "xbzrle": Contender("QEMU, xbzrle", Tuning(("xbzrle",))),
    "xbzrle-half": Contender("QEMU, xbzrle, large cache",
                             Tuning(("xbzrle",), {"xbzrle-cache-size": HALF_OF_MEMORY})),
    "multifd": Contender("QEMU, multifd with zstd",
                         Tuning(("multifd",), {"multifd-compression": "zstd"})),
    "auto-converge": Contender("QEMU, auto-converge", Tuning(("auto-converge",))),
    "relaxed": Contender("QEMU, 5 s of downtime allowed", Tuning((), {"downtime-limit": 5000})),
    "vmferry-tls": Contender("vmferry over TLS 1.3", tls=True),
}
