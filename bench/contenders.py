"""The contenders: each moves a guest from host A to host B once and returns a Sample."""

import time

from measure import Ruler, Sample
from vmferry_lab import Agent, cpu_seconds, peak_memory_bytes, qemu_pids
from vmferry_lab.qmp import Qmp

INCOMING_PORT = 4444


def move_with_vmferry(lab, guest, prepare, pki, options=()) -> Sample:
    """*pki* None: plain TCP, as QEMU's.  *prepare(guest)* sets the guest's load and returns a heartbeat."""
    agents = [Agent(lab, host, pki.folder(host.name) if pki else None).start()
              for host in lab.hosts]
    a, b = agents
    a.run(guest)
    heartbeat = prepare(guest)
    ruler = Ruler(lab, heartbeat, a.guest_pid(guest), [agent.pid for agent in agents])
    ruler.start()
    result = a.migrate(guest, b, *options)
    ruler.stop(qemu_pids(lab.host_b, guest))
    report = result.require().json
    return Sample(total_ms=report["total_ms"], wall_ms=ruler.wall_ms,
                  downtime_ms=report["downtime_ms"], gap_ms=ruler.gap_ms(),
                  wire_bytes=ruler.wire_bytes, cpu_s=ruler.cpu_s, prestart_cpu_s=0,
                  rounds=len(report["rounds"]),
                  peak_memory_bytes=max(peak_memory_bytes(agent.pid) for agent in agents))


def move_with_qemu(lab, guest, prepare) -> Sample:
    """QEMU's own pre-copy over plain TCP, its parameters as they are by default."""
    source = guest.start(lab.host_a)
    incoming = [*guest.command_with_qmp(guest.qmp_path(lab.host_b)),
                "-incoming", f"tcp:{lab.host_b.ip}:{INCOMING_PORT}"]
    destination = lab.host_b.start(incoming, f"{guest.name}.incoming")
    with Qmp(guest.qmp_path(lab.host_b)) as there, Qmp(guest.qmp_path(lab.host_a)) as here:
        assert there.execute("query-status")["status"] == "inmigrate"
        here.execute("migrate-set-capabilities",
                     capabilities=[{"capability": "events", "state": True}])
        heartbeat = prepare(guest)
        prestart = cpu_seconds(destination.pid)
        ruler = Ruler(lab, heartbeat, source.pid, [destination.pid])
        ruler.start()
        here.execute("migrate", uri=f"tcp:{lab.host_b.ip}:{INCOMING_PORT}")
        here.wait_event(_is_last, timeout=120)
        there.wait_event(lambda event: event["event"] == "RESUME")
        ruler.stop([])
        facts = here.execute("query-migrate")
    if facts["status"] != "completed":
        raise RuntimeError(f"QEMU's migrate {facts['status']}: {facts.get('error-desc')}")
    return Sample(total_ms=facts["total-time"], wall_ms=ruler.wall_ms,
                  downtime_ms=facts["downtime"], gap_ms=ruler.gap_ms(),
                  wire_bytes=ruler.wire_bytes, cpu_s=ruler.cpu_s, prestart_cpu_s=prestart,
                  rounds=facts["ram"]["dirty-sync-count"], peak_memory_bytes=0)


def _is_last(event: dict) -> bool:
    return (event["event"] == "MIGRATION"
            and event["data"]["status"] in ("completed", "failed", "cancelled"))


def settle(guest, load: dict | None, interval_ms: int):
    """Gives the guest its load and lets it run in; a heartbeat."""
    heartbeat = guest.heartbeat(interval_ms)
    with guest.control() as control:
        control.write(**(load or {"pattern": "idle"}))
    time.sleep(1)
    heartbeat.wait(10)
    return heartbeat
