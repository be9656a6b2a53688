"""Debian's packages: built in a clean Debian, installed in others, and used, upgraded and removed there.

VMFERRY_PACKAGES names a folder with packages that `make deb` has made, instead of building them here.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vmferry_lab import REPOSITORY, wait_until
from vmferry_lab.roots import Machine, chroot, root_with

pytestmark = pytest.mark.long

NAMES = ("vmferry", "vmferry-engine", "vmferry-doc")
NEXT = "0.2.1-1"
SHELF = "/srv/packages"  # where the hosts' apt finds them
ON_EVERY_HOST = ["systemd", "systemd-sysv", "dbus", "qemu-system-x86", "qemu-utils"]


# ---- the packages ----

def control_field(text: str, name: str) -> list[str]:
    """What a field of a control file lists."""
    found = re.search(rf"^{name}:((?:.*\n)(?:[ \t].*\n)*)", text, re.M)
    return [word.strip() for word in found[1].split(",") if word.strip()]


def field_of(package: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "--field", package, name], capture_output=True, text=True,
                          check=True).stdout.strip()


def build(folder: Path) -> None:
    """Builds them as `make deb` does, in a Debian that has nothing but what they say that they need."""
    control = (REPOSITORY / "packaging/debian/control").read_text()
    needed = [word for word in control_field(control, "Build-Depends") if not word.startswith("debhelper-compat")]
    lower = root_with(["build-essential", "debhelper", *needed])
    root = folder / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", lower, root], check=True)
    tarball = subprocess.run(["scripts/dist", root / "srv"], cwd=REPOSITORY, capture_output=True, text=True,
                             check=True).stdout.strip()
    subprocess.run(["tar", "-xf", tarball, "-C", root / "srv"], check=True)
    source = Path(tarball.removesuffix(".tar.xz"))
    shutil.copytree(source / "packaging/debian", source / "debian")
    chroot(root, ["sh", "-c", f"cd /srv/{source.name} && dpkg-buildpackage --build=binary --no-sign"], "build")
    for package in (root / "srv").glob("*.deb"):
        shutil.move(package, folder)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> dict[str, Path]:
    """By name."""
    given = os.environ.get("VMFERRY_PACKAGES")
    folder = Path(given) if given else tmp_path_factory.mktemp("packages")
    if not given:
        build(folder)
    found = {path.name.split("_")[0]: path for path in folder.glob("vmferry*.deb") if "dbgsym" not in path.name}
    assert set(found) == set(NAMES)
    return found


def repack(package: Path, folder: Path) -> None:
    """Writes the same package in the next version into *folder*."""
    tree = folder / f"{package.name}.tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    version = field_of(package, "Version")
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(version, NEXT))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, folder / package.name.replace(version, NEXT)],
                   check=True, capture_output=True)
    shutil.rmtree(tree)


class Shelf:
    """A repository for apt: at first with the packages as they are."""

    def __init__(self, folder: Path, packages: dict[str, Path]):
        self.folder = folder
        self.packages = packages
        for package in packages.values():
            shutil.copy(package, folder)
        self._index()

    def add_next(self) -> None:
        for package in self.packages.values():
            repack(package, self.folder)
        self._index()

    def _index(self) -> None:
        text = subprocess.run(["dpkg-scanpackages", "--multiversion", "."], cwd=self.folder, capture_output=True,
                              text=True, check=True).stdout
        (self.folder / "Packages").write_text(text)


@pytest.fixture
def shelf(packages, tmp_path) -> Shelf:
    folder = tmp_path / "shelf"
    folder.mkdir()
    return Shelf(folder, packages)


@pytest.fixture
def machines(lab, packages, shelf):
    """machines(systemd): hostA and hostB as Debian installs them, where apt knows our packages."""
    depends = field_of(packages["vmferry"], "Depends").split(", ")
    root = root_with(ON_EVERY_HOST, fetched=depends)

    def make(systemd: bool) -> list[Machine]:
        made = [Machine(host, root, systemd=systemd, folders={SHELF: shelf.folder}) for host in lab.hosts]
        for machine in made:
            # What apt knows of Debian it keeps; it asks nobody but the shelf, since no lab reaches further.
            machine.sh(f"echo 'deb [trusted=yes] file:{SHELF} ./' >/etc/apt/sources.list.d/vmferry.list").require()
            update(machine)
        return made
    return make


def apt(machine: Machine, command: str) -> str:
    return machine.sh(command, timeout=300).require().stdout


def update(machine: Machine) -> None:
    apt(machine, "apt-get -qq update -o Dir::Etc::sourcelist=/etc/apt/sources.list.d/vmferry.list "
                 "-o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0")


def install(machine: Machine) -> None:
    apt(machine, "apt-get -y --no-install-recommends install vmferry vmferry-engine vmferry-doc")


def certify(a: Machine, b: Machine) -> None:
    a.vmferry("pki", "init").require()
    for machine in (a, b):
        a.vmferry("pki", "issue", machine.name, machine.host.ip).require()
        a.copy_to(f"/etc/vmferry/ca/{machine.name}", machine, "/etc/vmferry/pki")


def run(machine: Machine, guest) -> None:
    machine.vmferry("run", guest.name, "--", *guest.command).require()
    guest.wait_ready()


def move(guest, source: Machine, target: Machine) -> None:
    source.vmferry("migrate", guest.name, target.host.ip, "--verify").require()
    assert names(target) == [guest.name] and names(source) == []


def names(machine: Machine) -> list[str]:
    return machine.vmferry("list", "--names").require().stdout.split()


def pid_of(machine: Machine, guest) -> int:
    return machine.vmferry("status", guest.name, "--json").require().json["pid"]


def version_on(machine: Machine) -> str:
    return machine.sh("dpkg-query -W -f '${Version}' vmferry").require().stdout


def agent_pid(machine: Machine) -> int:
    return machine.vmferry("status", "--json").require().json["pid"]


def looks_after(machine: Machine) -> bool:
    return machine.vmferry("status").exit_code == 0


def purge(machine: Machine) -> str:
    return apt(machine, "apt-get -y purge vmferry vmferry-engine")


# ---- tests ----

def test_lintian(packages):
    done = subprocess.run(["lintian", "--allow-root", "--display-info", "--fail-on", "error,warning,info",
                           *packages.values()], capture_output=True, text=True)
    # Overrides for uPlot are not needed where it was not there.
    said = [line for line in done.stdout.splitlines() if "unused-override spelling-error-in-binary" not in line]
    assert said == []


def test_what_is_in_them(packages):
    listing = {name: subprocess.run(["dpkg-deb", "-c", path], capture_output=True, text=True, check=True).stdout
               for name, path in packages.items()}
    pages = [path.name for path in (REPOSITORY / "man").glob("*.[158]")]
    for page in pages:
        owner = "vmferry-engine" if page.startswith("vmferry-engine") else "vmferry"
        assert f"/{page}.gz" in listing[owner], page
    for path in (REPOSITORY / "docs").glob("*.md"):
        assert f"/{path.name}\n" in listing["vmferry-doc"]
    assert not re.search(r"^\S+ (?!root/root)", "".join(listing.values()), re.M)


def test_tarball_is_the_same_from_two_clones(tmp_path):
    """Whatever the clone's folder, the time, the umask and the time zone."""
    digests = set()
    for name, settings in (("one", "umask 022"), ("two", "umask 077; export TZ=Asia/Tokyo LC_ALL=C")):
        clone = tmp_path / name / "clone"
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", REPOSITORY, clone], check=True)
        path = subprocess.run(["sh", "-c", f"{settings}; scripts/dist"], cwd=clone, capture_output=True,
                              text=True, check=True).stdout.strip()
        told = (clone / f"{path}.sha256").read_text().split()
        assert told[1] == Path(path).name
        subprocess.run(["sha256sum", "--quiet", "--check", f"{told[1]}.sha256"], cwd=(clone / path).parent,
                       check=True)
        digests.add(told[0])
    assert len(digests) == 1


def test_with_systemd(lab, machines, shelf, guest):
    a, b = machines(systemd=True)
    for machine in (a, b):
        install(machine)
    assert re.match(r"vmferry:x:\d+:$", a.sh("getent group vmferry").stdout)
    for unit in ("vmferry-agent", "vmferry-engine"):
        assert a.sh(f"systemctl is-enabled {unit}").stdout == "disabled\n"
        assert a.sh(f"systemd-analyze verify --man=no {unit}.service").require().stdout == ""
    exposure = a.sh("systemd-analyze security --no-pager vmferry-engine.service").stdout
    assert float(re.search(r"level for .*: ([\d.]+)", exposure)[1]) < 2

    certify(a, b)
    for machine in (a, b):
        machine.sh("systemctl enable --now vmferry-agent").require()
        assert "root vmferry" in machine.sh("ls -l /run/vmferry/agent.sock").stdout
    web1 = guest("web1", pattern="dense", pages_per_second=1000)
    run(a, web1)
    beats = web1.heartbeat(interval_ms=20)
    pid, agent = pid_of(a, web1), agent_pid(a)

    # An upgrade while a move is under way: the move is called off, the guest runs on.
    begun = subprocess.Popen(a.wrap(["vmferry", "migrate", "web1", b.host.ip, "--bandwidth", "8mbit"]),
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: a.vmferry("status", "web1", "--json").require().json["state"] == "migrating",
               "move under way")
    shelf.add_next()
    for machine in (a, b):
        update(machine)
    said = apt(a, "apt-get -y upgrade")
    assert version_on(a) == NEXT and "Setting up vmferry-engine" in said
    a.wait_for(lambda: looks_after(a), "new agent")
    assert agent_pid(a) != agent and begun.wait(60) == 1, begun.stdout.read()
    assert pid_of(a, web1) == pid
    web1.check()

    # The new one follows its memory; then the other host is upgraded with the guest on it.
    move(web1, a, b)
    pid, agent = pid_of(b, web1), agent_pid(b)
    apt(b, "apt-get -y upgrade")
    b.wait_for(lambda: looks_after(b), "new agent")
    assert agent_pid(b) != agent and pid_of(b, web1) == pid
    move(web1, b, a)

    # Removed and purged it runs on; installed again, the agent finds it.
    said = purge(a)
    pid = int(re.search(r"these guests run on:\n  web1 \(process (\d+)\)", said)[1])
    assert "records in /var/lib/vmferry" in said and "/etc/vmferry stay" in said
    assert a.sh("systemctl is-active vmferry-agent").exit_code != 0
    beats.wait(20)
    install(a)
    a.sh("systemctl start vmferry-agent").require()
    assert pid_of(a, web1) == pid
    beats.check()
    web1.check()
    move(web1, a, b)
    assert a.sh("test -e /var/lib/vmferry/agent-id").exit_code == 0
    assert "run on" not in purge(a)
    assert a.sh("ls /etc/vmferry").stdout.split() == ["ca", "pki"]
    assert a.sh("ls -d /var/lib/vmferry /run/vmferry 2>/dev/null").stdout == ""


def test_the_engine_with_systemd(lab, machines):
    """Its unit leaves it all that it needs."""
    a, b = machines(systemd=True)
    for machine in (a, b):
        install(machine)
    certify(a, b)
    for machine in (a, b):
        machine.sh("printf '[agent]\\napi = 0.0.0.0:4748\\n[api]\\noperate = hostA\\n' >/etc/vmferry/agent.conf; "
                   "systemctl start vmferry-agent").require()
    a.sh("printf '[engine]\\nhosts = hostA=%s, hostB=%s\\n' " + f"{a.host.ip} {b.host.ip}"
         " >/etc/vmferry/engine.conf; systemctl start vmferry-engine").require()

    def usable():
        hosts = a.vmferry("cluster", "hosts", "--json")
        return hosts.exit_code == 0 and [host.get("usable") for host in hosts.json["hosts"]] == [True, True]
    a.wait_for(usable, "both hosts are seen")
    assert a.sh("ls -l /var/lib/vmferry/engine.db").stdout.startswith("-rw-------")
    a.sh("systemctl stop vmferry-engine").require()
    purge(a)
    assert a.sh("test -e /var/lib/vmferry").exit_code == 1


UNIT = """[Service]
ExecStart={command}
Restart=always
RestartSec=0
{more}
"""


def start_unit(machine: Machine, guest, more: str) -> int:
    """A unit of its user's with the guest in it, which is started again whenever it ends; its process."""
    command = " ".join(f'"{word}"' for word in guest.command_with_qmp(Path(f"/run/{guest.name}.qmp")))
    place = machine.host.path(f"{guest.name}.service")
    place.write_text(UNIT.format(command=command, more=more))
    machine.sh(f"cp {place} /etc/systemd/system/; systemctl daemon-reload; systemctl start {guest.name}").require()
    guest.wait_ready()
    return int(unit_property(machine, guest, "MainPID"))


def unit_property(machine: Machine, guest, name: str) -> str:
    return machine.sh(f"systemctl show --value -p {name} {guest.name}").require().stdout.strip()


def test_guests_in_units_of_systemd(lab, machines, guest):
    """What systemd does with a unit whose guest has moved."""
    a, b = machines(systemd=True)
    for machine in (a, b):
        install(machine)
    certify(a, b)
    for machine in (a, b):
        machine.sh("systemctl start vmferry-agent").require()
    # One that systemd would start again must be told of first.
    web1, web2 = guest("web1"), guest("web2")
    pid = start_unit(a, web1, "")
    refused = a.vmferry("adopt", "web1", "--pid", pid, "--qmp", "/run/web1.qmp")
    assert refused.exit_code == 1 and "web1.service" in refused.stderr and "--allow-supervisor" in refused.stderr
    a.sh("systemctl stop web1").require()
    # One that it would not, moves: the unit fails with the exit status that was agreed, and that is all.
    pid = start_unit(a, web2, "RestartPreventExitStatus=109 0 SIGKILL")
    a.vmferry("adopt", "web2", "--pid", pid, "--qmp", "/run/web2.qmp").require()
    beats = web2.heartbeat(interval_ms=20)
    beats.wait(5)
    move(web2, a, b)
    a.wait_for(lambda: unit_property(a, web2, "ActiveState") == "failed", "the unit ends")
    assert unit_property(a, web2, "ExecMainStatus") == "109"
    assert unit_property(a, web2, "NRestarts") == "0"
    assert unit_property(a, web2, "MainPID") == "0"
    beats.wait(20)
    beats.check()
    web2.check()


def test_without_systemd(lab, machines, shelf, guest):
    """Agents are started by hand; nothing restarts or ends them."""
    a, b = machines(systemd=False)
    for machine in (a, b):
        install(machine)
    certify(a, b)
    agents = {machine: machine.start("vmferry agent") for machine in (a, b)}
    for machine in (a, b):
        machine.wait_for(lambda: looks_after(machine), "agent")
    assert "Guests can be moved" in a.vmferry("check").require().stdout
    web1 = guest("web1")
    run(a, web1)
    beats = web1.heartbeat(interval_ms=20)
    move(web1, a, b)
    shelf.add_next()
    update(b)
    said = apt(b, "apt-get -y upgrade")
    assert version_on(b) == NEXT and "goes on with the old version until it is restarted" in said
    assert names(b) == ["web1"] and agents[b].poll() is None
    # By hand: the old one ends, the new one finds the guest.
    b.sh(f"kill {agent_pid(b)}").require()
    agents[b].wait(60)
    b.start("vmferry agent")
    b.wait_for(lambda: looks_after(b), "agent")
    move(web1, b, a)
    said = purge(a)
    assert "web1 (process" in said and "an agent that was started by hand runs on" in said
    beats.wait(20)
    beats.check()
    web1.check()
