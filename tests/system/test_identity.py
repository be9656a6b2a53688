"""Who runs a guest and what confines it is the same after a move; what cannot be is refused."""

import grp
import os
import pwd
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

import postcopy
from findings import check_completed, check_failed
from scene import SMALL, Scene, is_stopped
from trouble import kernel_without
from vmferry_lab import images, qemu, qemu_pids, vmferry_program, wait_gone, wait_until
from vmferry_lab.netns import Namespace

USER = "games"  # not one that the C library makes up where it is missing
GROUP = "games"
NET_ADMIN = f"{1 << 12:016x}"

SETPRIV = ["setpriv", f"--reuid={USER}", f"--regid={GROUP}"]
AMBIENT = [*SETPRIV, "--clear-groups", "--inh-caps=+net_admin", "--ambient-caps=+net_admin"]


# ---- what a process is ----

def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def limit_of(pid: int, name: str) -> list[str]:
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith(name):
            return line[len(name):].split()[:2]
    raise AssertionError(name)


def look(pid: int) -> dict:
    """All of a process that must be the same after a move."""
    status = status_of(pid)
    keys = ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"]
    return {**{key: status[key] for key in keys},
            "files": limit_of(pid, "Max open files"), "core": limit_of(pid, "Max core file size"),
            "oom": Path(f"/proc/{pid}/oom_score_adj").read_text(),
            "nice": os.getpriority(os.PRIO_PROCESS, pid)}


def uid_of(pid: int) -> int:
    return int(status_of(pid)["Uid"].split()[0])


# ---- scenes in which others than root run guests ----

class Confined(Scene):
    """Each host's agent, and each guest that is started without it, has a /dev/net/tun that
    everybody may open, whatever this machine's own is."""

    def __init__(self, lab, pki):
        super().__init__(lab, pki)
        self.tun = lab.directory / "tun"
        os.mknod(self.tun, 0o020666, os.makedev(10, 200))
        self.tun.chmod(0o666)
        for agent in (self.a, self.b):
            self.prepare(agent)

    def prepare(self, agent, *orders: str, enter="", settings=None) -> None:
        """The agent runs again after these orders, in mounts of its own; *enter*: words
        before it."""
        wrapper = agent.host.path("prepared-agent")
        lines = ["#!/bin/sh", "set -e", f"mount --bind {self.tun} /dev/net/tun", *orders,
                 f'exec {enter} {vmferry_program()} "$@"']
        wrapper.write_text("\n".join(lines) + "\n")
        wrapper.chmod(0o755)
        agent.program = str(wrapper)
        agent.settings.update(settings or {})
        self.restart(agent)

    def prepare_rules(self, agent, **rules: str) -> None:
        agent.rules.update(rules)
        self.restart(agent)

    def owned_guest(self, user=USER, group=GROUP, **options):
        """A guest whose files, tap and socket folder belong to *user* on both hosts."""
        guest = self.lab.guest("web1", **{**SMALL, **options})
        owner = pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
        guest.console.touch()
        for path in (guest.console, guest.disk):
            if path:
                os.chown(path, *owner)
        for host in self.lab.hosts:
            host.give_tap(guest.tap, user)
            folder = host.path("own")
            folder.mkdir(exist_ok=True)
            os.chown(folder, *owner)
        guest.qmp_path = lambda host: host.path("own") / "web1.qmp"
        return guest

    def start_by(self, guest, *words, orders=":") -> int:
        """Starts it on host A by *words* (setpriv, …), after *orders* of a shell; its pid."""
        script = f'mount --bind {self.tun} /dev/net/tun && {orders} && exec "$@"'
        process = self.start(guest, ["sh", "-c", script, "sh", *words])
        self.lab.at_close(process.kill)  # the lab looks in its own namespaces only
        return process.pid

    def adopt_by(self, guest, *words, orders=":"):
        pid = self.start_by(guest, *words, orders=orders)
        self.a.vmferry("adopt", guest.name, "--pid", pid).require()
        return self.watch(guest, self.a)

    def pid(self, guest) -> int:
        return self.here(guest).guest_pid(guest)

    def move_there_and_back(self, guest, *options) -> None:
        before = look(self.pid(guest))
        for _ in range(2):
            self.move(guest, "--verify", *options)
            assert look(self.pid(guest)) == before

    def refused(self, guest, *words) -> None:
        check_failed(self.migrate(guest), *words)
        self.check(guest)


@pytest.fixture
def confined(lab, pki):
    return Confined(lab, pki)


# ---- user, groups, capabilities ----

@pytest.mark.parametrize("tracker", [
    "pagemap-scan", pytest.param("uffd-sync", marks=pytest.mark.long)])
def test_guest_of_a_user(confined, tracker):
    guest = confined.adopt_by(confined.owned_guest(disk_mb=16, disk_rate=20),
                              *SETPRIV, "--groups=daemon,audio")
    before = look(confined.pid(guest))
    assert before["Uid"].split() == [str(pwd.getpwnam(USER).pw_uid)] * 4
    assert before["CapEff"] == "0" * 16 and len(before["Groups"].split()) == 2
    confined.move_there_and_back(guest, "--tracker", tracker)


def test_postcopy_of_a_users_guest(confined, any_qemu):
    """The kernel lets such a process have no userfaultfd for the kernel's own faults by itself."""
    guest = confined.adopt_by(confined.owned_guest(qemu=any_qemu, disk_mb=16, disk_rate=300),
                              *SETPRIV, "--clear-groups")
    postcopy.move(confined, guest)
    confined.move(guest, "--verify")


def test_devices_of_a_users_guest_write_while_it_is_tracked(confined):
    """What the kernel writes into guest memory for QEMU faults in the kernel, not in QEMU."""
    guest = confined.adopt_by(confined.owned_guest(disk_mb=16, disk_rate=300), *SETPRIV,
                              "--clear-groups")
    confined.move(guest, "--verify", "--tracker", "uffd-sync", "--bandwidth", "4M")


def test_guest_with_ambient_capabilities(confined, any_qemu):
    """It may open a tap that is not its user's; no_new_privs; a smaller bounding set."""
    guest = confined.owned_guest(qemu=any_qemu)
    for host in confined.lab.hosts:
        host.give_tap(guest.tap, "daemon")
    confined.adopt_by(guest, *AMBIENT, "--bounding-set=-sys_boot,-sys_time", "--no-new-privs")
    before = look(confined.pid(guest))
    assert before["CapAmb"] == before["CapEff"] == NET_ADMIN and before["NoNewPrivs"] == "1"
    confined.move_there_and_back(guest)


def test_user_with_another_number_there(confined):
    """Names count; files on storage that both see are the matter of who set that up."""
    guest = confined.owned_guest()
    there = confined.lab.host_b
    passwd = there.path("passwd")
    passwd.write_text(re.sub(rf"^{USER}:x:\d+", f"{USER}:x:4242", Path("/etc/passwd").read_text(),
                             flags=re.M))
    confined.prepare(confined.b, f"mount --bind {passwd} /etc/passwd")
    confined.adopt_by(guest, *SETPRIV, "--clear-groups")
    there.give_tap(guest.tap, "4242")
    os.chown(there.path("own"), 4242, -1)
    guest.console.chmod(0o666)
    confined.move(guest, "--verify")
    assert uid_of(confined.pid(guest)) == 4242


def test_user_that_is_missing_there(confined):
    guest = confined.owned_guest()
    passwd = confined.lab.host_b.path("passwd")
    passwd.write_text("root:x:0:0:root:/root:/bin/sh\n")
    confined.prepare(confined.b, f"mount --bind {passwd} /etc/passwd")
    confined.adopt_by(guest, *SETPRIV, "--clear-groups")
    confined.refused(guest, f'there is no user "{USER}" on this host', "create it")
    confined.prepare(confined.b, f"mount --bind {passwd} /etc/passwd",
                     settings={"allow-unconfined": "user, capabilities"})
    confined.move(guest, "--verify")
    assert uid_of(confined.pid(guest)) == 0


def test_capability_that_cannot_be_given_there(confined):
    """The destination's agent has a bounding set that lacks it."""
    guest = confined.owned_guest()
    confined.adopt_by(guest, *AMBIENT, "--bounding-set=-sys_boot")
    confined.prepare(confined.b, enter="setpriv --bounding-set=-net_admin --inh-caps=-net_admin")
    confined.refused(guest, "capabilities", "CAP_NET_ADMIN")


def test_runas(confined):
    """QEMU starts as root and drops that by itself, on both hosts."""
    guest = confined.owned_guest(extra=["-runas", USER])
    confined.a.run(guest)
    confined.watch(guest, confined.a)
    assert uid_of(confined.pid(guest)) == pwd.getpwnam(USER).pw_uid
    assert confined.a.status(guest)["process"]["user"]["name"] == USER
    confined.move_there_and_back(guest)


def test_run_with_user_on_a_newer_qemu(confined):
    guest = confined.owned_guest(qemu=qemu("10.0"), extra=["-run-with", f"user={USER}"])
    confined.adopt_by(guest)
    assert uid_of(confined.pid(guest)) == pwd.getpwnam(USER).pw_uid
    confined.move_there_and_back(guest)


# ---- limits ----

def test_resource_limits(confined):
    guest = confined.owned_guest()
    confined.adopt_by(guest, "prlimit", "--nofile=512:600", "--core=0:0", "nice", "-n", "5",
                      orders="echo 300 >/proc/self/oom_score_adj")
    before = look(confined.pid(guest))
    assert before["files"] == ["512", "600"] and before["core"] == ["0", "0"]
    assert before["oom"].strip() == "300" and before["nice"] == 5
    confined.move_there_and_back(guest)


def test_limits_of_a_newer_qemu(confined):
    """It raises its soft limit of open files by itself."""
    guest = confined.owned_guest(qemu=qemu("10.0"))
    confined.adopt_by(guest, "prlimit", "--nofile=512:600")
    assert look(confined.pid(guest))["files"] == ["600", "600"]
    confined.move_there_and_back(guest)


# ---- namespaces ----

def netns_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


@pytest.fixture
def tenant(confined):
    """A network namespace with a tap for each host, connected to the guests' network."""
    lab = confined.lab
    space = Namespace(f"{lab.name}-tenant")
    lab.at_close(space.remove)
    space.bridge("guests")
    lab.lan.plug("tenant", space, "lan0")
    space.enslave("lan0", "guests")
    confined.prepare_rules(confined.b, tap="ifname=tenantA => ifname=tenantB")
    for tap in ("tenantA", "tenantB"):
        space.tap(tap, "guests", USER)
    return space


def guest_in(confined, tenant):
    """A user's guest in that namespace; adopted, its heartbeat held."""
    guest = confined.owned_guest()
    guest.tap = "tenantA"
    inside = ["ip", "netns", "exec", tenant.name, "sh", "-c",
              f'mount --bind {confined.tun} /dev/net/tun && exec "$@"', "sh"]
    pid = confined.start_by(guest, *inside, *SETPRIV, "--clear-groups")
    confined.a.vmferry("adopt", guest.name, "--pid", pid).require()
    assert netns_of(pid) == os.stat(f"/run/netns/{tenant.name}").st_ino
    return confined.watch(guest, confined.a)


def test_network_namespace_by_name(confined, tenant):
    """Both hosts have one of that name; here it is the same one."""
    guest = guest_in(confined, tenant)
    beats = confined.beats[guest.name]
    wanted = netns_of(confined.pid(guest))
    for _ in range(2):
        before = confined.pid(guest)
        check_completed(confined.migrate(guest, "--verify"), verified=True)
        confined.place[guest.name] = confined.there(guest)
        wait_gone(before)
        assert netns_of(confined.pid(guest)) == wanted
        beats.wait(5)
        beats.check()
    guest.check()


def test_network_namespace_that_is_missing_there(confined, tenant):
    confined.prepare(confined.b, "mount -t tmpfs none /run/netns")
    guest = guest_in(confined, tenant)
    check_failed(confined.migrate(guest), f'no network namespace "{tenant.name}" on this host')
    confined.beats[guest.name].wait(5)
    confined.beats[guest.name].check()


@pytest.mark.parametrize("words, refusal", [
    (["unshare", "--net", "sh", "-c", 'ip tuntap add TAP mode tap && exec "$@"', "sh"],
     ["netns", "has no name", "ip netns attach"]),
    (["unshare", "--pid", "--fork", "--mount-proc"], ["namespaces", "(pid)"]),
    (["unshare", "--uts", "--ipc"], ["namespaces", "(ipc, uts)"]),
], ids=["net", "pid", "uts-ipc"])
def test_namespaces_that_cannot_be_made_there(confined, words, refusal):
    guest = confined.owned_guest()
    pid = confined.start_by(guest, *[word.replace("TAP", guest.tap) for word in words])
    if "--fork" in words:
        pid = wait_until(lambda: qemu_pids(confined.lab.host_a, guest), "QEMU")[-1]
    confined.a.vmferry("adopt", guest.name, "--pid", pid).require()
    check_failed(confined.a.migrate(guest, confined.b), *refusal)
    assert confined.a.status(guest)["state"] == "running"


def test_agent_in_namespaces_of_its_own(confined):
    """As a service manager gives it; the guest is in init's."""
    for agent in (confined.a, confined.b):
        confined.prepare(agent, enter="unshare --uts --ipc")
    guest = confined.adopt_by(confined.owned_guest(), *SETPRIV, "--clear-groups")
    confined.move_there_and_back(guest)


def test_namespaces_are_left_out_where_that_is_allowed(confined):
    confined.prepare(confined.b, settings={"allow-unconfined": "namespaces"})
    guest = confined.adopt_by(confined.owned_guest(), "unshare", "--uts", "--ipc")
    confined.move(guest, "--verify")


# ---- control groups ----

@pytest.fixture
def groups(confined):
    """A group of version 2 of our own: guests' groups are to be below it.  Host B sees another
    one under the same path, by a namespace."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    roots = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    if not roots or not os.access(roots[0], os.W_OK):
        pytest.skip("no control groups of version 2 that can be written here")
    here, there = (roots[0] / f"{confined.lab.name}-{side}" for side in "ab")
    inner = there / here.name
    made = [here, here / "web1", there, inner, inner / "web1"]
    confined.lab.at_close(lambda: _remove_groups(confined, made))
    for folder in made[:-1]:
        folder.mkdir()
    mount = "mount -t cgroup2 none /sys/fs/cgroup"
    confined.prepare(confined.a, mount)
    confined.prepare(confined.b, mount, f"echo $$ >/sys/fs/cgroup/{there.name}/cgroup.procs",
                     "umount /sys/fs/cgroup",
                     enter=f"unshare --cgroup sh -c '{mount} && exec \"$@\"' sh")
    return here / "web1", inner / "web1"


def _remove_groups(scene, folders) -> None:
    for agent in (scene.a, scene.b):
        agent.process.kill()
    for pid in [pid for folder in folders for pid in _members(folder)]:
        os.kill(pid, 9)
        wait_gone(pid)
    for folder in reversed(folders):
        wait_until(lambda folder=folder: _remove(folder), f"{folder} is empty")


def _members(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()] \
        if folder.exists() else []


def _remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def enter(group: Path) -> str:
    """The orders of a shell on a host, whose /sys shows no control groups."""
    return (f"mount -t cgroup2 none /sys/fs/cgroup && "
            f"echo $$ >/sys/fs/cgroup/{group.parent.name}/{group.name}/cgroup.procs")


def test_control_group(confined, groups):
    """It is made where it is missing, and goes with the guest."""
    here, there = groups
    guest = confined.adopt_by(confined.owned_guest(), *SETPRIV, "--clear-groups",
                              orders=enter(here))
    assert _members(here) == [confined.pid(guest)]
    confined.move(guest, "--verify")
    assert _members(there) == [confined.pid(guest)] and _members(here) == []
    confined.move(guest, "--verify")
    assert _members(here) == [confined.pid(guest)]
    assert not there.exists()


def test_control_group_whose_parent_is_missing_there(confined, groups):
    here, there = groups
    there.parent.rmdir()
    guest = confined.adopt_by(confined.owned_guest(), orders=enter(here))
    confined.refused(guest, "cgroup", "the one above it must be there")
    there.parent.mkdir()


# ---- filters ----

def test_filter_from_outside(confined):
    guest = confined.adopt_by(confined.owned_guest(), *kernel_without("pagemap-scan"))
    assert status_of(confined.pid(guest))["Seccomp"] == "2"
    confined.refused(guest, "seccomp", "put on the guest's process from outside")
    confined.prepare(confined.b, settings={"allow-unconfined": "seccomp"})
    confined.move(guest, "--verify")
    status = status_of(confined.pid(guest))
    assert status["Seccomp"] == "0" and status["NoNewPrivs"] == "1"


def test_filter_of_qemu_itself(confined):
    guest = confined.adopt_by(confined.owned_guest(extra=["-sandbox", "on"]), *SETPRIV,
                              "--clear-groups")
    assert status_of(confined.pid(guest))["Seccomp"] == "2"
    confined.move(guest, "--verify", "--tracker", "uffd-sync")
    assert status_of(confined.pid(guest))["Seccomp"] == "2"


# ---- folders and files ----

@pytest.fixture
def folder(scene):
    """A working folder with a disk image in it."""
    folder = scene.lab.directory / "work"
    folder.mkdir()
    images.disk_image(folder / "data.img", 1)
    return folder


RELATIVE = ["-drive", "file=data.img,format=raw,if=none,id=d1,cache=none",
            "-device", "virtio-blk-pci,drive=d1"]


def adopt_in(scene, folder: Path):
    return scene.adopt(wrapper=["sh", "-c", f'cd {folder} && exec "$@"', "sh"], extra=RELATIVE)


def cwd_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/cwd")


def test_relative_image_path(scene, folder):
    guest = adopt_in(scene, folder)
    for _ in range(2):
        scene.move(guest, "--verify")
        assert cwd_of(scene.here(guest).guest_pid(guest)) == str(folder)


def test_working_folder_by_a_rule(scene, folder):
    other = scene.lab.directory / "elsewhere"
    other.mkdir()
    os.link(folder / "data.img", other / "data.img")
    with scene.changed(scene.b, rules={"work": f"{folder} => {other}"}):
        guest = adopt_in(scene, folder)
        scene.move(guest, "--verify")
        assert cwd_of(scene.b.guest_pid(guest)) == str(other)
        scene.move(guest, "--verify")
        assert cwd_of(scene.a.guest_pid(guest)) == str(folder)


def test_working_folder_that_is_missing_there(scene, folder):
    hide(scene.b, folder)
    guest = adopt_in(scene, folder)
    check_failed(scene.migrate(guest), f"working folder {folder} does not exist here", "create it",
                 "map rule")
    scene.check(guest)


def test_working_folder_of_run(scene, folder):
    """`run` keeps the folder of its user for all hosts, also where QEMU leaves it."""
    guest = scene.lab.guest("web1", **SMALL, extra=[*RELATIVE, "-daemonize"])
    words = ["sh", "-c", f'cd {folder} && exec "$@"', "sh", scene.a.program, "run", guest.name,
             "--", *guest.command]
    done = scene.lab.host_a.run(words, env={**os.environ, "VMFERRY_SOCKET": str(scene.a.socket)})
    assert done.returncode == 0, done
    guest.wait_ready()
    scene.watch(guest, scene.a)
    assert scene.a.status(guest)["working_directory"] == str(folder)
    scene.move(guest, "--verify")
    assert cwd_of(scene.b.guest_pid(guest)) == str(folder)


def hide(agent, folder: Path) -> None:
    """For the agent, the folder is not there."""
    subprocess.run(["nsenter", f"--mount=/proc/{agent.pid}/ns/mnt", "sh", "-c",
                    f"mkdir -p {agent.host.directory}/none && cd {folder.parent} && "
                    f"for path in *; do [ $path = {folder.name} ] || "
                    f"keep=\"$keep $path\"; done; "
                    f"mount -t tmpfs none {agent.host.directory}/none && cd {agent.host.directory} "
                    f"&& for path in $keep; do mkdir none/$path && "
                    f"mount --rbind {folder.parent}/$path none/$path; done; "
                    f"mount --move none {folder.parent}"], check=True)


def pidfile_guest(scene):
    path = scene.lab.host_a.path("web1.pid")
    return scene.adopt(extra=["-pidfile", str(path)]), path


def test_pidfile_there_and_back(scene):
    """It is written anew on each host, by the rules there."""
    guest, path = pidfile_guest(scene)
    there = scene.lab.host_b.path("web1.pid")
    assert int(path.read_text()) == scene.a.guest_pid(guest)
    scene.move(guest)
    assert int(there.read_text()) == scene.b.guest_pid(guest)
    assert not path.exists()
    scene.move(guest)
    assert int(path.read_text()) == scene.a.guest_pid(guest)
    assert not there.exists()


def test_pidfile_that_is_locked_there(scene):
    there = scene.lab.host_b.path("web1.pid")
    other = scene.lab.host_b.start_orphan(
        ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-pidfile",
         there], "other")
    wait_until(lambda: there.exists() and there.read_text().strip(), "pidfile")
    guest, _ = pidfile_guest(scene)
    check_failed(scene.migrate(guest), str(there), f"process {other.pid}", "map rule")
    other.kill()
    scene.check(guest)


# ---- roots ----

def jail_of(host, shared: Path) -> tuple[Path, str]:
    """A root for QEMU on a host, and the orders that make the guests' disks visible in it."""
    jail = host.path("jail")
    inside = jail / shared.relative_to("/")
    inside.mkdir(parents=True)
    return jail, f"mount --bind {shared} {inside}"


def test_chroot(confined):
    """QEMU binds its sockets and opens its disk before it changes root, and drops its user."""
    lab = confined.lab
    (jail, orders), (there, orders_there) = (jail_of(host, lab.shared) for host in lab.hosts)
    confined.prepare(confined.a, orders)
    confined.prepare(confined.b, orders_there)
    guest = confined.owned_guest(disk_mb=16, disk_rate=20,
                                 extra=["-chroot", str(jail), "-runas", USER])
    confined.adopt_by(guest, orders=orders)
    assert os.readlink(f"/proc/{confined.pid(guest)}/root") == str(jail)
    confined.move(guest, "--verify")
    assert os.readlink(f"/proc/{confined.pid(guest)}/root") == str(there)
    assert uid_of(confined.pid(guest)) == pwd.getpwnam(USER).pw_uid
    confined.move(guest, "--verify")


def test_chroot_that_hides_the_disk(confined):
    """QEMU could not release it; told before anything is touched."""
    jail = confined.lab.host_a.path("jail")
    jail.mkdir()
    guest = confined.owned_guest(disk_mb=16, extra=["-chroot", str(jail)])
    confined.adopt_by(guest)
    confined.refused(guest, "check", str(guest.disk), str(jail), "mount --bind")


def test_container(confined):
    """Files of its own: its socket is found in there; its root cannot be made elsewhere."""
    box = confined.lab.directory / "box"
    box.mkdir()
    guest = confined.owned_guest()
    guest.qmp_path = lambda host: Path("/run/in-the-box.qmp")
    lab = confined.lab.directory
    orders = (f"mount -t tmpfs none {box} && mkdir {box}/up {box}/work {box}/root && "
              f"mount -t overlay overlay -o lowerdir=/,upperdir={box}/up,workdir={box}/work "
              f"{box}/root && for path in /dev /proc {lab}; do "
              f"mount --rbind $path {box}/root$path; done")
    pid = confined.start_by(guest, "unshare", "--mount", "chroot", str(box / "root"),
                            orders=orders)
    confined.a.vmferry("adopt", guest.name, "--pid", pid).require()
    assert confined.a.status(guest)["qmp_path"] == f"/proc/{pid}/root/run/in-the-box.qmp"
    check_failed(confined.a.migrate(guest, confined.b), "namespaces", "(mnt)")
    assert confined.a.status(guest)["state"] == "running"


# ---- where QMP is ----

def tiny_qemu(scene, *words, wrapper=()):
    """A QEMU without a guest."""
    argv = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults", *words]
    return scene.lab.host_a.start_orphan([*wrapper, *argv], "tiny")


def adopt_fails(scene, process, *words, options=()) -> None:
    """It says so soon, and leaves the process alone."""
    begin = time.monotonic()
    check_failed(scene.a.vmferry("adopt", "web1", "--pid", process.pid, *options), *words)
    assert time.monotonic() - begin < 8  # QMP that hangs would take 30 s
    assert process.running and scene.a.guest_names() == []


def test_qmp_that_cannot_be_connected_to(scene):
    fifo = scene.lab.host_a.path("fifo")
    for words, told in [
        (["-qmp", "stdio"], ["stdio", "-qmp unix:"]),
        (["-chardev", "pty,id=m", "-mon", "chardev=m,mode=control"], ["pty", "--qmp PATH"]),
    ]:
        process = tiny_qemu(scene, *words)
        adopt_fails(scene, process, *told)
        process.kill()
    os.mkfifo(fifo)
    process = tiny_qemu(scene)
    adopt_fails(scene, process, "is not a socket", options=["--qmp", fifo])


def test_qmp_on_an_inherited_descriptor(scene):
    listener = socket.socket(socket.AF_UNIX)
    path = scene.lab.host_a.path("inherited.qmp")
    listener.bind(str(path))
    listener.listen()
    number = listener.fileno()
    os.set_inheritable(number, True)
    argv = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults",
            "-chardev", f"socket,id=m,fd={number},server=on,wait=off", "-mon",
            "chardev=m,mode=control"]
    started = subprocess.run(["sh", "-c", '"$@" >/dev/null 2>&1 & echo $!', "sh", *argv],
                             pass_fds=[number], capture_output=True, text=True, check=True)
    pid = int(started.stdout)
    try:
        check_failed(scene.a.vmferry("adopt", "web1", "--pid", pid), f"fd={number}", "libvirt",
                     "--qmp PATH")
        scene.a.vmferry("adopt", "web1", "--pid", pid, "--qmp", path).require()
    finally:
        os.kill(pid, 9)


def test_abstract_qmp_socket(scene):
    name = f"{scene.lab.name}-qmp"
    guest = scene.lab.guest("web1", **SMALL)
    guest.command_with_qmp = lambda path: [*guest.command, "-qmp",
                                           f"unix:{name},abstract=on,server=on,wait=off"]
    process = scene.start(guest)
    scene.a.adopt(guest, process)
    scene.watch(guest, scene.a)
    scene.move(guest, "--verify")
    scene.move(guest, "--verify")


def test_abstract_qmp_socket_in_another_network_namespace(scene):
    other = scene.lab.host_b.namespace.name
    process = tiny_qemu(scene, "-chardev",
                        "socket,id=m,path=tiny,abstract=on,tight=off,server=on,wait=off",
                        "-mon", "chardev=m,mode=control", wrapper=["ip", "netns", "exec", other])
    wait_until(lambda: b"qemu" in Path(f"/proc/{process.pid}/cmdline").read_bytes()[:20], "QEMU")
    wait_until(lambda: scene.a.vmferry("adopt", "web1", "--pid", process.pid).exit_code == 0,
               "adopted", 10)
    assert scene.a.status(_named("web1"))["qmp_path"] == f"/proc/{process.pid}/ns/net#tiny"


def test_relative_qmp_path_of_a_daemon(scene):
    """It left the folder that the path is relative to; what it was given tells the folder."""
    where = scene.lab.host_a.directory
    started = subprocess.run(
        ["sh", "-c", f"cd {where} && export PWD && exec qemu-system-x86_64 -machine none "
         "-display none -nodefaults -daemonize -pidfile d.pid -qmp unix:d.qmp,server=on,wait=off"],
        check=True, timeout=30)
    assert started.returncode == 0
    pid = int((where / "d.pid").read_text())
    try:
        scene.a.vmferry("adopt", "web1", "--pid", pid).require()
        assert scene.a.status(_named("web1"))["qmp_path"] == str(where / "d.qmp")
    finally:
        os.kill(pid, 9)


class _named:
    def __init__(self, name):
        self.name = name


class Relay:
    """What `socat UNIX-LISTEN:PATH,fork TCP:PORT` does: bytes only, no descriptors."""

    def __init__(self, host, path: Path, port: int):
        self._host, self._port = host, port
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client = self._listener.accept()[0]
            server = self._host.namespace.socket()
            server.connect(("127.0.0.1", self._port))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source, sink) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@pytest.mark.parametrize("user", [
    pytest.param(None, id="root", marks=pytest.mark.long), pytest.param(USER, id="user")])
def test_qmp_over_tcp(confined, user):
    """Told how to be mended; through a relay the guest is adopted and moves."""
    guest = confined.owned_guest()
    guest.command_with_qmp = lambda path: [*guest.command, "-qmp",
                                           "tcp:127.0.0.1:4700,server=on,wait=off"]
    pid = confined.start_by(guest, *([*SETPRIV, "--clear-groups"] if user else []))
    check_failed(confined.a.vmferry("adopt", guest.name, "--pid", pid), "TCP 127.0.0.1:4700",
                 f"socat UNIX-LISTEN:/run/qmp-{pid}.sock,fork TCP:127.0.0.1:4700", "--qmp")
    path = confined.lab.host_a.path("relayed.qmp")
    Relay(confined.lab.host_a, path, 4700)
    confined.a.vmferry("adopt", guest.name, "--pid", pid, "--qmp", path).require()
    confined.watch(guest, confined.a)
    confined.move(guest, "--verify")
    confined.move(guest, "--verify")


# ---- who starts it again ----

LOOP = 'while :; do "$@"; code=$?; echo $code >>CODES; [ $code = 109 ] && exit; done'


def test_shell_loop_that_starts_it_again(scene):
    guest = scene.lab.guest("web1", **SMALL)
    codes = scene.lab.host_a.path("codes")
    shell = scene.start(guest, ["sh", "-c", LOOP.replace("CODES", str(codes)), "sh"])
    pid = next(pid for pid in qemu_pids(scene.lab.host_a, guest) if pid != shell.pid)
    check_failed(scene.a.vmferry("adopt", guest.name, "--pid", pid), "in a loop",
                 "may start it again", "--allow-supervisor")
    assert scene.a.guest_names() == []
    answer = scene.a.vmferry("adopt", guest.name, "--pid", pid, "--allow-supervisor", "--json")
    assert "in a loop" in answer.require().json["supervisor"]
    assert "in a loop" in scene.a.events("adopted")[-1]["data"]["supervisor"]
    scene.watch(guest, scene.a)
    scene.move(guest, "--verify")
    wait_gone(shell.pid)
    assert codes.read_text() == "109\n"


def run_by_loop(scene):
    """Starts it again unless it ends with 109; how it ended each time is written down."""
    guest = scene.lab.guest("web1", **SMALL)
    codes = scene.lab.host_a.path("codes")
    shell = scene.start(guest, ["sh", "-c", LOOP.replace("CODES", str(codes)), "sh"])
    pid = next(pid for pid in qemu_pids(scene.lab.host_a, guest) if pid != shell.pid)
    scene.a.vmferry("adopt", guest.name, "--pid", pid, "--allow-supervisor").require()
    scene.watch(guest, scene.a)
    return guest, shell, pid, codes


@pytest.mark.parametrize("where", ["source.start-sent", "source.after-started"])
def test_agent_dies_and_the_loop_starts_no_second_copy(scene, where):
    """The restarted agent ends the old process, with the same code as ever."""
    guest, shell, _, codes = run_by_loop(scene)
    scene.restart(scene.a, {"VMFERRY_FAULT": f"{where}=kill"})
    move = scene.a.begin_migrate(guest, scene.b)
    scene.a.process.wait(30)
    scene.restart(scene.a, finds_guests=False)
    move.finish()
    scene.has_moved(guest)
    wait_gone(shell.pid)
    assert codes.read_text() == "109\n"


def test_qemu_does_not_answer_at_its_end_and_the_loop_starts_no_second_copy(scene):
    guest, shell, pid, codes = run_by_loop(scene)
    scene.restart(scene.a, {"VMFERRY_FAULT": "source.after-started=stop@1"})
    move = scene.a.begin_migrate(guest, scene.b)
    wait_until(lambda: is_stopped(scene.a.pid), "the switchover", 60)
    os.kill(pid, signal.SIGSTOP)
    scene.a.thaw()
    assert move.finish().exit_code == 0
    scene.has_moved(guest)
    wait_gone(shell.pid)
    assert codes.read_text() == "109\n"


def test_unknown_parent_may_start_it_again(scene):
    """This test is one."""
    process = scene.lab.host_a.start(
        ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults",
         "-qmp", f"unix:{scene.lab.host_a.path('tiny.qmp')},server=on,wait=off"], "tiny")
    wait_until(scene.lab.host_a.path("tiny.qmp").exists, "QMP socket")
    check_failed(scene.a.vmferry("adopt", "web1", "--pid", process.pid),
                 "a program that waits for it, may start it again", f"process {os.getpid()}")
    told = scene.a.vmferry("adopt", "web1", "--pid", process.pid, "--allow-supervisor").require()
    assert "Mind that process" in told.stdout


def test_no_systemd_claims_nothing(scene):
    """There is none on this machine, or it has no unit for this guest."""
    guest = scene.adopt()
    assert scene.a.status(guest)["supervisor"] is None


# ---- the old process says how it ended ----

def test_old_process_ends_with_a_code_of_its_own(scene, any_qemu):
    guest = scene.lab.guest("web1", **SMALL, qemu=any_qemu)
    code = scene.lab.host_a.path("code")
    process = scene.start(guest, ["sh", "-c", f'"$@"; echo $? >{code}', "sh"])
    pid = next(pid for pid in qemu_pids(scene.lab.host_a, guest) if pid != process.pid)
    scene.a.vmferry("adopt", guest.name, "--pid", pid).require()
    check_completed(scene.a.migrate(guest, scene.b))
    wait_gone(process.pid)
    assert code.read_text() == "109\n"
    assert "web1 moved to 10.66.0.2 by vmferry" in process.output()
