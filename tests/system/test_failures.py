"""What bad input gets, before anything is moved: the table of refusals.

Each row is a test: it makes one kind of trouble, tries to move the guest, and looks at the
error.  Whatever the row, the guest must run on where it was with nothing left on either side,
and a move without the trouble must work right after.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import pytest

from findings import check_failed, error_text
from trouble import FRAME_HELLO, Peer, full_disk, listening, read_frame, send_frame


@dataclass
class Row:
    name: str
    words: list[str]            # all of them are in the error
    trouble: object = None      # context manager of (scene); yields the destination, or None
    guest: str = "web1"
    options: list[str] = field(default_factory=list)
    exit_code: int = 1
    clean_there: bool = True    # nothing of the trouble itself looks like a copy of the guest


def trouble(function):
    return contextmanager(function)


def other(scene):
    return scene.there(scene.guest)


def at(address: str):
    """No trouble but the destination's address; THERE in it is the other host's."""
    return lambda scene: nullcontext(address.replace("THERE", other(scene).address))


@trouble
def cut_link(scene):
    scene.lab.link.cut()
    try:
        yield
    finally:
        scene.lab.link.restore()


def settings_there(**settings):
    return lambda scene: scene.changed(
        other(scene), settings={key.replace("_", "-"): value for key, value in settings.items()})


def rule_there(make):
    """A map rule at the destination, "FROM => TO" by make(scene)."""
    return lambda scene: scene.changed(other(scene), rules={"problem": make(scene)})


@trouble
def insecure_there(scene):
    with scene.changed(other(scene), settings={"pki": None, "insecure": "true"}):
        yield


@trouble
def insecure_here(scene):
    with scene.changed(scene.here(scene.guest), settings={"pki": None, "insecure": "true"}):
        yield


@trouble
def other_version_there(scene):
    def answer(connection):
        read_frame(connection)
        send_frame(connection, FRAME_HELLO,
                   b'{"version_min": 7, "version_max": 9, "features": [], "host": "future",'
                   b' "software": "vmferry 99.0", "purpose": ""}')
        while connection.recv(4096):
            pass

    with insecure_here(scene), Peer(other(scene).host, 4748, answer) as peer:
        yield peer.address


@trouble
def no_vmferry_there(scene):
    def answer(connection):
        connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
        connection.recv(4096)

    with Peer(other(scene).host, 4748, answer) as peer:
        yield peer.address


@trouble
def silent_there(scene):
    with Peer(other(scene).host, 4748, lambda connection: connection.recv(1 << 20) and
              connection.recv(1 << 20)) as peer:
        yield peer.address


@trouble
def name_taken_there(scene):
    there = other(scene)
    there.vmferry("run", scene.guest.name, "--", "qemu-system-x86_64", "-machine", "none",
                  "-display", "none", "-nodefaults").require()
    try:
        yield
    finally:
        there.vmferry("stop", scene.guest.name).require()


@trouble
def disk_full_here(scene):
    yield from _disk_full(scene.here(scene.guest))


@trouble
def disk_full_there(scene):
    yield from _disk_full(other(scene))


def _disk_full(agent):
    with full_disk(agent, agent.host.path("state")) as fill:
        fill()
        yield


ROWS = [
    Row("unknown-guest", ["nobody"], guest="nobody"),
    Row("bad-guest-name", ["no/body", "name"], guest="no/body", exit_code=2),
    Row("no-such-mode", ["split", "not a valid choice"], options=["--mode", "split"], exit_code=2),
    Row("bad-bandwidth", ["--bandwidth", "fast"], options=["--bandwidth", "fast"], exit_code=2),
    Row("bad-address", [":x"], at("THERE:x")),
    Row("unresolvable-host", ["nowhere.invalid"], at("nowhere.invalid")),
    Row("no-such-host", ["cannot reach", "10.66.0.77"], at("10.66.0.77")),
    Row("host-that-does-not-answer", ["cannot reach", "no answer"], cut_link),
    Row("host-that-refuses", ["refused", "vmferry agent"], at("THERE:4799")),
    Row("no-vmferry-there", ["does not speak TLS"], no_vmferry_there),
    Row("silent-there", ["10.66.0", "in time"], silent_there),
    Row("insecure-there", ["TLS", "--insecure"], insecure_there),
    Row("insecure-here", ["TLS", "--insecure"], insecure_here),
    Row("other-version-there", ["versions 7 to 9", "update"], other_version_there),
    Row("not-on-the-allow-list", ["allow list", "agent.conf"],
        settings_there(allow="somebody-else")),
    Row("name-taken-there", ["web1", "already"], name_taken_there, clean_there=False),
    Row("no-qemu-there", ["qemu-system-none", "install"], rule_there(
        lambda scene: f"{scene.guest.qemu.program} => /usr/bin/qemu-system-none")),
    Row("other-machine-there", ["pc-i440fx-7.2", "pc-q35-7.2"],
        rule_there(lambda scene: "pc-i440fx-7.2 => pc-q35-7.2")),
    Row("unknown-machine-there", ["QEMU did not start", "unsupported machine type"],
        rule_there(lambda scene: "pc-i440fx-7.2 => pc-i440fx-99")),
    Row("folder-of-disk-missing-there", ["/nowhere/web1.disk cannot be made", "No such file"],
        rule_there(lambda scene: f"{scene.guest.disk} => /nowhere/web1.disk")),
    Row("no-tap-there", ["tap99"],
        rule_there(lambda scene: f"ifname={scene.guest.tap} => ifname=tap99,vhost=x")),
    Row("other-video-memory-there", ["VGA", "vgamem_mb"],
        rule_there(lambda scene: "VGA => VGA,vgamem_mb=8")),
    Row("disk-full-here", ["No space", "written down"], disk_full_here),
    Row("disk-full-there", ["No space"], disk_full_there),
]


# Much like another row, and as long.
LONG = ("silent-there", "no-such-host", "insecure-here")


@pytest.mark.parametrize("row", [
    pytest.param(row, id=row.name, marks=[pytest.mark.long] if row.name in LONG else [])
    for row in ROWS])
def test_refused(shared, row):
    guest = shared.guest
    here = shared.here(guest)
    pid = here.guest_pid(guest)
    with (row.trouble or at("THERE"))(shared) as destination:
        result = here.migrate(row_guest(row), destination or shared.there(guest), *row.options)
        if row.clean_there:
            shared.check(guest)
    check_failed(result, *row.words, exit_code=row.exit_code)
    assert here.guest_pid(guest) == pid
    shared.move(guest)


def row_guest(row):
    """As much of a guest as Agent.migrate() needs."""
    return type("Named", (), {"name": row.guest})


def test_socket_of_the_command_line_in_use_there(scene):
    path = scene.lab.host_a.path("monitor")
    guest = scene.run(extra=["-chardev", f"socket,id=mon,path={path},server=on,wait=off",
                             "-mon", "chardev=mon,mode=readline"])
    with listening(scene.lab.host_b.path("monitor")):
        check_failed(scene.migrate(guest), "monitor", "in use", "map rule")
    scene.check(guest)
    scene.move(guest)


def test_error_for_people(shared):
    result = shared.here(shared.guest).vmferry("migrate", "nobody", "10.66.0.2")
    assert result.exit_code == 1
    assert result.stdout == "" and "nobody" in error_text(result)
