"""Protection, asked for what cannot be: it is refused in clear words, and the guest is as it was."""

import pytest

from disks import DISK, read_graph
from findings import check_failed
from live import check_disk, user_monitor
from protection import BUSY, begin, epochs, protect, wait_connected, with_disk
from scene import wait_progress
from test_store import store  # noqa: F401
from vmferry_lab import qemu, qemu_pids, wait_until


SEVERAL_QUEUES = ["-netdev", "tap,id=wide,queues=2,script=no,downscript=no",
                  "-device", "virtio-net-pci,netdev=wide,mq=on,id=second"]


def has_plug(agent) -> bool:
    findings = agent.vmferry("check", "--json").json["findings"]
    [plug] = [each for each in findings if each["topic"] == "output of vhost"]
    return plug["grade"] == "good"


def refused(agent, *arguments, words):
    """The command fails with all of *words*."""
    return check_failed(agent.vmferry(*arguments, timeout=60), *words)


def runs_unprotected(scene, guest, pid) -> None:
    assert scene.a.status(guest)["state"] == "running"
    assert guest.name not in scene.b.guest_names()
    assert qemu_pids(scene.a.host, guest) == [pid]
    scene.check(guest)


def stays_protected(scene, guest, pid) -> None:
    assert qemu_pids(scene.a.host, guest) == [pid]
    wait_connected(scene, guest, 10)
    before = epochs(scene.a, guest)
    wait_until(lambda: epochs(scene.a, guest) > before + 3, "epochs", 20)
    scene.beats[guest.name].wait(5)
    scene.beats[guest.name].check()


def test_before_it_is_protected(scene, store):  # noqa: F811
    guest = scene.run(**BUSY)
    name, there, witness = guest.name, scene.b.address, ["--witness", store.address]
    [pid] = qemu_pids(scene.a.host, guest)
    refused(scene.a, "protect", "nobody", there, *witness, words=["nobody"])
    refused(scene.a, "protect", name, scene.a.address, *witness, words=["this host", "another"])
    refused(scene.a, "protect", name, store.address, *witness, words=["standby", "third host"])
    refused(scene.a, "protect", name, "no-such-host.invalid", *witness,
            words=["no-such-host.invalid"])
    refused(scene.a, "protect", name, f"{scene.b.host.ip}:1", *witness, words=["refused"])
    refused(scene.a, "protect", name, there, "--witness", "no-such-host.invalid",
            words=["witness", "no-such-host.invalid"])
    refused(scene.a, "protect", name, "10.66.0.1:bad", *witness, words=["10.66.0.1:bad"])
    runs_unprotected(scene, guest, pid)
    for verb in ("unprotect", "failover"):
        refused(scene.a, verb, name, words=["is not protected"])
        refused(scene.b, verb, name, words=[name])
        refused(scene.a, verb, "nobody", words=["nobody"])
    refused(scene.a, "resolve", name, "--keep", "here", words=["not in doubt"])
    runs_unprotected(scene, guest, pid)


def test_output_that_cannot_be_held(scene, store):  # noqa: F811
    """A card with several queues, under a kernel without sch_plug."""
    if has_plug(scene.a):
        pytest.skip("this kernel has sch_plug")
    guest = scene.run(extra=SEVERAL_QUEUES, **BUSY)
    [pid] = qemu_pids(scene.a.host, guest)
    refused(scene.a, "protect", guest.name, scene.b.address, "--witness", store.address,
            words=["second", "multiqueue", "needs sch_plug, which this kernel does not have"])
    runs_unprotected(scene, guest, pid)
    assert [] == [line for line in scene.a.host.run(["ip", "link"]).stdout.splitlines()
                  if "vmferry" in line]


def test_while_it_is_protected(scene, store):  # noqa: F811
    guest = scene.run(**BUSY)
    name, there, witness = guest.name, scene.b.address, ["--witness", store.address]
    [pid] = qemu_pids(scene.a.host, guest)
    protect(scene, guest, store)
    refused(scene.a, "protect", name, there, *witness, words=["is protected", "unprotect"])
    refused(scene.a, "migrate", name, there, words=["is protected", "unprotect"])
    refused(scene.b, "protect", name, scene.a.address, *witness, words=["runs on", "stands by"])
    refused(scene.b, "migrate", name, scene.a.address, words=["runs on", "stands by"])
    for verb in ("unprotect", "failover"):
        refused(scene.b, verb, name, words=["runs on", "stands by", "there"])
    refused(scene.b, "stop", name, words=["runs on", "stands by"])
    refused(scene.b, "resolve", name, "--keep", "here", words=["answers"])
    refused(scene.a, "resolve", name, "--keep", "here", words=["answers"])
    stays_protected(scene, guest, pid)
    scene.a.vmferry("unprotect", name).require()
    refused(scene.a, "unprotect", name, words=["is not protected"])
    runs_unprotected(scene, guest, pid)


@pytest.mark.long
def test_while_it_moves(scene, store):  # noqa: F811
    """One thing at a time, whichever was first."""
    guest = scene.run(**BUSY)
    scene.lab.link.shape("10mbit")
    move = scene.here(guest).begin_migrate(guest, scene.b)
    wait_progress(scene.a, guest, "precopy")
    check_failed(begin(scene, guest, store), guest.name, "migrating")
    scene.a.vmferry("cancel", guest.name).require()
    move.finish()
    begun = scene.a.begin("protect", guest.name, scene.b.address, "--witness", store.address)
    wait_until(lambda: scene.a.status(guest)["state"] == "protecting", "it begins", 20)
    check_failed(scene.migrate(guest), guest.name, "protecting")
    check_failed(begin(scene, guest, store), guest.name, "protecting")
    scene.lab.link.shape(None)
    assert begun.finish().exit_code == 0
    scene.a.vmferry("unprotect", guest.name).require()
    scene.check(guest)


@pytest.mark.long
def test_stopped_while_protected(scene, store):  # noqa: F811
    """It ends, at its standby, too; all that it wrote is in its images."""
    guest = with_disk(scene)
    protect(scene, guest, store)
    scene.beats[guest.name].wait(20)
    scene.a.vmferry("stop", guest.name).require()
    wait_until(lambda: guest.name not in scene.b.guest_names(), "its standby ends", 20)
    assert not list((scene.a.host.path("state") / "overlays").glob("*"))
    scene.forget(guest)


# ---- a standby with another QEMU ----

def refused_for_its_machine(scene, guest, witness, machine, programs):
    """*programs*: of QEMU, here and there."""
    [pid] = qemu_pids(scene.a.host, guest)
    before = read_graph(scene, guest)
    with scene.changed(scene.b, rules={"qemu": "{} => {}".format(*programs)}):
        refused(scene.a, "protect", guest.name, scene.b.address, "--witness", witness.address,
                words=["machine type", machine])
        assert read_graph(scene, guest) == before
        runs_unprotected(scene, guest, pid)


@pytest.mark.long
def test_standby_has_an_older_qemu(scene, store):  # noqa: F811
    """Nothing of its disk stays there."""
    new, old = qemu("10.0"), qemu("7.2")
    guest = with_disk(scene, qemu=new)
    refused_for_its_machine(scene, guest, store, "pc-i440fx-10.0", [new.program, old.program])
    assert not DISK.on(scene.b).exists()
    check_disk(guest)


@pytest.mark.long
def test_standby_has_no_such_machine_any_more(scene, store):  # noqa: F811
    old, new = qemu("7.2"), qemu("10.0")
    guest = scene.run(machine="pc-i440fx-1.7", extra=user_monitor(scene), **BUSY)
    refused_for_its_machine(scene, guest, store, "pc-i440fx-1.7", [old.program, new.program])
