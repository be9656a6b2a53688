"""Guests that cannot be had or cannot move, and kernels that cannot track them."""

from pathlib import Path
import pytest

from findings import check_failed, traces_in
from scene import SMALL
from trouble import kernel_without
from vmferry_lab import vmferry_program, wait_until
from vmferry_lab.qmp import Qmp


def run_on_old_kernel(scene, agent) -> None:
    """Restarts the agent where PAGEMAP_SCAN is not known."""
    wrapper = agent.host.path("vmferry-old-kernel")
    words = " ".join(kernel_without("pagemap-scan"))
    wrapper.write_text(f'#!/bin/sh\nexec {words} {agent.program} "$@"\n')
    wrapper.chmod(0o755)
    agent.program = str(wrapper)
    scene.restart(agent)


# ---- adopting ----

def adopt(scene, *arguments):
    return scene.a.vmferry("adopt", "web1", *arguments)


def test_adopt_no_such_pid(scene):
    check_failed(adopt(scene, "--pid", 4194303), "4194303", "no process")
    assert scene.a.guest_names() == []


def test_adopt_pid_that_is_no_qemu(scene):
    sleeper = scene.lab.host_a.start(["sleep", "1000"], "sleeper")
    comm = Path(f"/proc/{sleeper.pid}/comm")
    wait_until(lambda: comm.read_text().strip() == "sleep", "the sleeper", 10)
    check_failed(adopt(scene, "--pid", sleeper.pid), "not QEMU", "sleep")
    assert sleeper.running and scene.a.guest_names() == []


def test_adopt_the_agent_itself(scene):
    check_failed(adopt(scene, "--pid", scene.a.pid), "not QEMU")


def tiny_qemu(scene, *words):
    """A QEMU without a guest."""
    argv = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults", *words]
    return scene.lab.host_a.start_orphan(argv, "tiny")


def test_adopt_without_a_qmp_socket(scene):
    process = tiny_qemu(scene)
    check_failed(adopt(scene, "--pid", process.pid), "QMP socket", "--qmp")
    assert process.running


def test_adopt_while_the_qmp_socket_is_busy(scene):
    path = scene.lab.host_a.path("tiny.qmp")
    process = tiny_qemu(scene, "-qmp", f"unix:{path},server=on,wait=off")
    with Qmp(path) as qmp:
        check_failed(adopt(scene, "--pid", process.pid), "busy", "libvirt")
        assert qmp.execute("query-status")["running"]
    scene.a.vmferry("adopt", "web1", "--pid", process.pid).require()


def test_adopt_with_a_socket_that_is_no_qmp(scene):
    path = scene.lab.host_a.path("tiny.monitor")
    process = tiny_qemu(scene, "-monitor", f"unix:{path},server=on,wait=off")
    wait_until(path.exists, "monitor")
    check_failed(adopt(scene, "--pid", process.pid, "--qmp", path), "not a QMP socket")


def test_adopt_with_the_socket_of_another(scene):
    path = scene.lab.host_a.path("tiny.qmp")
    first = tiny_qemu(scene, "-qmp", f"unix:{path},server=on,wait=off")
    second = tiny_qemu(scene)
    wait_until(path.exists, "QMP socket")
    check_failed(adopt(scene, "--pid", second.pid, "--qmp", path), "another process",
                 str(first.pid))


def test_adopt_twice(shared):
    here = shared.here(shared.guest)
    pid = here.guest_pid(shared.guest)
    check_failed(here.vmferry("adopt", "again", "--pid", pid), "managed already", "web1")
    check_failed(here.vmferry("adopt", "web1", "--pid", pid), "web1")
    shared.check(shared.guest)


# ---- running ----

@pytest.mark.parametrize("command, words", [
    (["qemu-system-none"], ["no program", "qemu-system-none"]),
    (["/bin/sleep", "100"], ["not QEMU"]),
    (["qemu-system-x86_64", "-machine", "quantum"], ["did not start", "unsupported machine"]),
    (["qemu-system-x86_64", "-nodefaults", "-display", "none", "-drive", "file=/none/disk"],
     ["did not start", "/none/disk"]),
], ids=["no-program", "no-qemu", "no-such-machine", "no-such-disk"])
def test_run_refuses(scene, command, words):
    check_failed(scene.a.vmferry("run", "web1", "--", *command), *words)
    assert scene.a.guest_names() == []
    assert list(scene.lab.host_a.path("run").iterdir()) == []


# ---- guests that must not move ----

@pytest.mark.parametrize("extra, words", [
    (["-object", "memory-backend-memfd,id=shm,size=1M,share=on",
      "-device", "ivshmem-plain,memdev=shm"], ["ivshmem"]),
    (["-drive", "driver=null-co,if=none,id=null", "-device", "nvme,drive=null,serial=1"],
     ["cannot move", "nvme"]),
], ids=["foreign-writer", "device-without-state"])
def test_blocked(scene, extra, words):
    """Refused before anything starts: nobody is asked, nothing is tracked."""
    guest = scene.run(extra=extra)
    scene.lab.link.cut()
    check_failed(scene.migrate(guest), *words)
    scene.lab.link.restore()
    scene.check(guest)


def test_guest_that_has_shut_down(scene):
    """QEMU keeps the machine (-no-shutdown), but nothing runs in it that could move."""
    guest = scene.lab.guest("web1", **SMALL, kernel_words="rdinit=/none",
                            extra=["-no-reboot", "-no-shutdown"])
    scene.a.run(guest, wait=False)
    wait_until(lambda: scene.a.status(guest)["state"] == "ended", "the kernel panics", 60)
    check_failed(scene.a.migrate(guest, scene.b), "neither runs", "shutdown")
    assert scene.b.guest_names() == []


def test_not_enough_memory_there(scene):
    """A guest with more memory than any host here has; it touches little of it."""
    guest = scene.run(memory_mb=200_000, kernel_words="mem=128M", extra=[
        "-object", "memory-backend-ram,id=ram0,size=200000M,reserve=off",
        "-machine", "memory-backend=ram0"])
    check_failed(scene.migrate(guest), "not enough memory", "200000 MiB")
    scene.check(guest)


# ---- kernels that cannot track ----

def test_kernel_without_userfaultfd(scene):
    guest = scene.adopt(wrapper=kernel_without("userfaultfd"))
    check_failed(scene.migrate(guest), "track", "userfaultfd", "CONFIG_USERFAULTFD")
    assert traces_in(scene.a.guest_pid(guest)) == []
    scene.check(guest)


def test_kernel_without_pagemap_scan(scene):
    """Before Linux 6.7: the other tracker is taken, and only what was asked for by name fails."""
    guest = scene.run()
    run_on_old_kernel(scene, scene.a)
    check_failed(scene.migrate(guest, "--tracker", "pagemap-scan"), "PAGEMAP_SCAN", "6.7")
    scene.check(guest)
    assert scene.move(guest, "--verify")["tracker"] == "uffd-sync"


def test_check_names_what_the_kernel_lacks(lab):
    checked = lab.host_a.run([*kernel_without("pagemap-scan"), vmferry_program(), "check"])
    assert "PAGEMAP_SCAN" in checked.stdout and "6.7" in checked.stdout, checked
