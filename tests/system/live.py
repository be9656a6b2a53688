"""Guests that are changed while they run, as their users do it, and what must hold then."""

import subprocess
from pathlib import Path

from scene import SMALL, Scene
from vmferry_lab import Guest, LabError, digest_of_image, wait_until
from vmferry_lab.qmp import Qmp

DISK_MB = 16


def user_monitor(scene: Scene) -> list[str]:
    """Options for a QMP socket of the user's own; ours is another one."""
    path = scene.lab.host_a.path("user.qmp")  # map rules make it the same on the other host
    return ["-chardev", f"socket,id=user,path={path},server=on,wait=off",
            "-mon", "chardev=user,mode=control"]


def monitor(scene: Scene, guest: Guest) -> Qmp:
    """A connection to it, where the guest is now."""
    return Qmp(scene.here(guest).host.path("user.qmp"))


def make_image(path: Path, image_format="raw", size="16M", backing=None) -> Path:
    options = ["-b", str(backing[0]), "-F", backing[1]] if backing else []
    subprocess.run(["qemu-img", "create", "-q", "-f", image_format, *options, path,
                    *([] if backing else [size])], check=True)
    return path


def run_live(scene: Scene, extra=(), **options) -> Guest:
    """A guest with a disk (vda, drive "disk0") that it writes all the time."""
    settings = {**SMALL, "disk_mb": DISK_MB, "disk_rate": 50, **options}
    return scene.run(**settings, extra=[*user_monitor(scene), *extra])


def power_off(guest: Guest) -> None:
    with guest.control() as control:
        control.power_off()


def finish_job(qmp: Qmp, job: str, *, complete=True) -> None:
    """Waits until a block job is ready, completes it, and waits for its end."""
    if complete:
        qmp.wait_event(lambda event: event["event"] == "BLOCK_JOB_READY"
                       and event["data"]["device"] == job)
        qmp.execute("block-job-complete", device=job)
    qmp.wait_event(lambda event: event["event"] == "BLOCK_JOB_COMPLETED"
                   and event["data"]["device"] == job)


def unplug(qmp: Qmp, device: str) -> None:
    qmp.execute("device_del", id=device)
    qmp.wait_event(lambda event: event["event"] == "DEVICE_DELETED"
                   and event["data"].get("device") == device)


def root_of(qmp: Qmp, drive: str) -> dict:
    """What a drive holds: the "inserted" of query-block, by its name or its device's id."""
    for entry in qmp.execute("query-block"):
        if drive == entry["device"] or drive in entry.get("qdev", "").split("/"):
            return entry.get("inserted") or {}
    raise AssertionError(f"no drive {drive}")


def check_disk(guest: Guest) -> None:
    """All that the guest ever wrote is there, and there is something."""
    with guest.control() as control:
        assert control.check_disk() > 0


def check_same_content(guest: Guest, image: Path, image_format="raw", device="vda") -> None:
    """The guest sees what that image holds, byte for byte."""
    with guest.control() as control:
        control.set(disk_rate=0)
        if device == "vda":
            control.check_disk()  # the last write is through
        seen = control.digest_block_device(device)
        assert seen == digest_of_image(image, image_format)
        control.set(disk_rate=50)


def wait_blocks(guest: Guest, name: str, there=True) -> None:
    """Waits until the guest's kernel has, or does not have, the block device."""
    def look():
        with guest.control() as control:
            return (name in control.machine()["blocks"]) == there
    wait_until(look, f"{name} {'appears' if there else 'goes'} in the guest", 20)


def fill(guest: Guest, name: str, blocks=200, seed=7) -> None:
    """Writes to a block device, also one that was just plugged: its name is in the guest's
    /sys/block a moment before it can be opened."""
    def write():
        try:
            with guest.control() as control:
                control.fill_block_device(name, blocks, seed)
        except LabError as error:
            if "No such device" in str(error):
                return False
            raise
        return True
    wait_until(write, f"{name} can be opened in the guest", 20)
