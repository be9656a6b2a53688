"""Debian's qemu-guest-agent in the guest's image."""

from pathlib import Path

from .packages import fetch_program, install_program

PACKAGE = "qemu-guest-agent"
PROGRAM = "usr/sbin/qemu-ga"
PORT = "org.qemu.guest_agent.0"


def install_agent(tree: Path) -> None:
    """Puts it where the guest's init starts it from.  Lock held."""
    install_program(tree, fetch_program("guest-agent", PACKAGE), PROGRAM, "qemu-ga")
    # What it sets the RTC with.
    (tree / "sbin").mkdir(exist_ok=True)
    (tree / "sbin/hwclock").symlink_to("/bin/busybox")


def agent_options(socket: Path) -> list[str]:
    """QEMU's options for its port, served on *socket*."""
    return ["-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={socket},server=on,wait=off",
            "-device", f"virtserialport,chardev=agent,name={PORT}"]
