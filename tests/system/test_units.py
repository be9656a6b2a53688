"""The systemd units and the AppArmor profile in contrib/, without a service manager or a kernel that enforces."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vmferry_lab import REPOSITORY, vmferry_program

CONTRIB = REPOSITORY / "contrib"
# Settings of systemd.exec(5) that make namespaces, or take rights that a guest may have.
NOT_FOR_GUESTS = re.compile(r"(Private\w+|Protect\w+|ReadOnly\w+|ReadWrite\w+|Inaccessible\w+|Bind\w+|RootDirectory|"
                            r"CapabilityBoundingSet|AmbientCapabilities|RestrictNamespaces|RestrictAddressFamilies|"
                            r"MemoryDenyWriteExecute|SystemCallFilter|DevicePolicy|DeviceAllow|NoNewPrivileges|"
                            r"MountFlags|TemporaryFileSystem|NetworkNamespacePath|DynamicUser)$")


def settings(daemon: str) -> dict[str, str]:
    text = (CONTRIB / f"systemd/vmferry-{daemon}.service").read_text()
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.M))


@pytest.mark.parametrize("daemon", ["agent", "engine"])
def test_unit(daemon, tmp_path):
    """systemd knows every setting, and what it starts is there."""
    unit = tmp_path / f"vmferry-{daemon}.service"
    text = (CONTRIB / f"systemd/{unit.name}").read_text()
    unit.write_text(text.replace("@bindir@", str(Path(vmferry_program()).parent)))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert said == []


def test_the_agents_unit_confines_no_guest():
    """Guests are in it, too, and outlive the agent: see the unit's head."""
    found = settings("agent")
    assert found["KillMode"] == "process" and found["RuntimeDirectoryPreserve"] == "yes"
    assert [name for name in found if NOT_FOR_GUESTS.match(name)] == []


@pytest.mark.parametrize("daemon", ["agent", "engine"])
def test_each_setting_of_a_service_is_explained(daemon):
    """By a comment above it, or above the lines that it stands among."""
    text = (CONTRIB / f"systemd/vmferry-{daemon}.service").read_text()
    service = re.search(r"^\[Service\]\n(.*)^\[Install\]", text, re.M | re.S)[1]
    explained = False
    for line in service.splitlines():
        if line.startswith("#"):
            explained = True
        elif not line:
            explained = False
        else:
            assert explained, line


def test_apparmor_profile():
    """AppArmor's own compiler takes it, and the unit names it."""
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin")
    profile = CONTRIB / "apparmor/vmferry-agent"
    done = subprocess.run([parser, "--skip-kernel-load", "--skip-cache", "--names", profile], capture_output=True,
                          text=True)
    assert (done.returncode, done.stdout) == (0, "vmferry-agent\n"), done.stderr
    done = subprocess.run([parser, "-Q", "-T", "-W", profile], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert settings("agent")["AppArmorProfile"] == "-vmferry-agent"
