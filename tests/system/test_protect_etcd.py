"""A protected guest whose witness is etcd, on a host of its own (docs/witness.md)."""

import shutil
import time

import pytest

from findings import check_failed
from live import check_disk
from protection import overlays, progress, protect, wait_connected, with_disk
from test_store import end_everything
from vmferry_lab import Etcd, qemu_pids, wait_until

pytestmark = pytest.mark.skipif(not shutil.which("etcd"), reason="there is no etcd on this machine")

LEASE_S = 2


@pytest.fixture
def etcd(scene):
    server = Etcd(scene.lab.third_host())
    scene.lab.at_close(server.kill)
    return server.start()


def test_its_host_dies(scene, etcd):
    """The standby goes on, by leave of etcd; its agent was restarted meanwhile."""
    guest = with_disk(scene)
    protect(scene, guest, etcd)
    scene.beats[guest.name].wait(50)
    scene.b.kill()
    scene.b.start()
    wait_connected(scene, guest)
    scene.beats[guest.name].wait(50)
    end_everything(scene.a.host)
    wait_until(lambda: scene.b.status(guest)["role"] == "ours", "the standby goes on with it", 60)
    scene.place[guest.name] = scene.b
    scene.beats[guest.name].wait(20)
    scene.beats[guest.name].check()
    assert len(qemu_pids(scene.b.host, guest)) == 1
    guest.check()
    check_disk(guest)
    print(scene.beats[guest.name].largest_gap_ms())


def test_host_is_cut_off(scene, etcd):
    """Of both the others: its copy stands still, and ends later."""
    guest = with_disk(scene)
    protect(scene, guest, etcd)
    scene.beats[guest.name].wait(50)
    scene.lab.link.cut("hostA")
    wait_until(lambda: scene.b.status(guest)["role"] == "ours", "the standby goes on with it", 60)
    scene.beats[guest.name].wait(20)
    assert progress(scene.a, guest)["held"] is True
    scene.lab.link.restore()
    wait_until(lambda: scene.a.events("superseded"), "it hears of that", 40)
    scene.has_moved(guest)
    check_disk(guest)
    assert not overlays(scene.a)
    print(scene.beats[guest.name].largest_gap_ms())


def test_etcd_dies(scene, etcd):
    """The guest runs on by its standby's leases, and alone once etcd is back and its standby is not."""
    guest = with_disk(scene)
    protect(scene, guest, etcd)
    etcd.kill()
    end = time.monotonic() + 2 * LEASE_S
    while time.monotonic() < end:
        scene.beats[guest.name].wait(5)
        assert progress(scene.a, guest)["held"] is False
    assert scene.beats[guest.name].largest_gap_ms() < LEASE_S * 1000
    end_everything(scene.b.host)
    wait_until(lambda: progress(scene.a, guest)["held"], "it stands still", 30)
    etcd.start()
    wait_until(lambda: scene.a.status(guest)["state"] == "running", "it goes on alone", 60)
    assert scene.a.events("alone")
    scene.beats[guest.name].wait(20)
    scene.beats[guest.name].check()
    guest.check()
    check_disk(guest)


def test_refusals(scene, etcd):
    """Nothing has happened to the guest."""
    guest = scene.run()

    def refused(witness, *words):
        done = scene.a.vmferry("protect", guest.name, scene.b.address, "--witness", witness,
                               timeout=60)
        check_failed(done, *words)
        assert scene.a.status(guest)["state"] == "running"
        assert guest.name not in scene.b.guest_names()
    refused(f"{etcd.address}:1", "the witness", "connect")
    refused(f"{etcd.address}/x", "not a valid address")
    etcd.kill()
    refused(f"{etcd.address},127.0.0.1", "the witness")
    check_failed(scene.migrate(guest, "--mode", "postcopy", "--store", etcd.address),
                 "keeps no pages", exit_code=2)
    scene.check(guest)
