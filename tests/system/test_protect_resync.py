"""A standby that has most of the guest's disk already, as after a fail-over: only what differs is sent."""

import hashlib

from disks import DISK, WRITTEN_MB
from live import check_disk
from protection import has_gone_on, protect, wait_connected, with_disk
from test_store import store  # noqa: F401
from vmferry_lab import qemu_pids, wait_until

KEPT_MB = 64


def digest_of_kept(agent) -> str:
    """Of what nobody writes to."""
    with DISK.on(agent).open("rb") as image:
        image.seek(WRITTEN_MB << 20)
        return hashlib.sha256(image.read(KEPT_MB << 20)).hexdigest()


def kill_where_it_runs(scene, guest) -> None:
    host = scene.here(guest).host
    [pid] = qemu_pids(host, guest)
    host.run(["kill", "-9", str(pid)])


def check_mostly_same(report) -> None:
    print(report)
    assert report["disk_same_bytes"] >= KEPT_MB << 20
    assert report["disk_wire_bytes"] < (KEPT_MB << 20) / 4


def test_back_to_where_it_was(scene, store):  # noqa: F811
    """It is protected back by itself, by an old image; that host goes on with it again."""
    scene.b.settings["protect-again"] = "1"
    scene.restart(scene.b)
    guest = with_disk(scene, data_mb=KEPT_MB, disk_rate=20)
    kept = digest_of_kept(scene.a)
    first = protect(scene, guest, store)
    assert first["disk_same_bytes"] == 0 and first["disk_wire_bytes"] >= KEPT_MB << 20
    assert digest_of_kept(scene.b) == kept
    scene.beats[guest.name].wait(50)
    kill_where_it_runs(scene, guest)
    wait_until(lambda: scene.b.events("protected"), "it is protected back", 60)
    scene.place[guest.name] = scene.b
    [event] = scene.b.events("protected")
    check_mostly_same(event["data"])
    assert digest_of_kept(scene.a) == kept
    wait_connected(scene, guest)
    scene.beats[guest.name].wait(50)
    kill_where_it_runs(scene, guest)
    has_gone_on(scene, guest)
    check_disk(guest)
    assert digest_of_kept(scene.a) == digest_of_kept(scene.b) == kept
    assert not list(DISK.on(scene.a).parent.glob("*.replaced-*"))
