"""Protected guests, as the tests make them."""

from disks import DISK, LARGE_MB, WRITTEN_MB, drive, run_with
from scene import move_progress
from vmferry_lab import wait_until

# Fault points that only a guest comes by that begins to be protected: whose agent's, and whether it is
# protected in the end where that is killed there.
PROTECT_POINTS = {
    "protect.noted": ("host", False),
    "protect.tracked": ("host", False),
    "protect.held": ("host", False),
    "protect.disks-sent": ("host", False),
    "protect.begun": ("host", False),
    "standby.before-commit": ("standby", False),
}

# All the time, in memory.
BUSY = {"pattern": "mixed", "pages_per_second": 500}


def with_disk(scene, data_mb=LARGE_MB, **options):
    """A guest that writes to a disk that only its host has."""
    DISK.on(scene.b).parent.mkdir()
    DISK.make(scene.a, data_mb=data_mb, size_mb=WRITTEN_MB + data_mb + 8)
    return run_with(scene, drive(DISK.on(scene.a)), **{**BUSY, **options})


def begin(scene, guest, witness, *options):
    """`vmferry protect`, and what came of it."""
    here, there = scene.here(guest), scene.there(guest)
    more = ["--witness", witness.address] if witness else []
    return here.vmferry("protect", guest.name, there.address, "--json", *more, *options,
                        timeout=120)


def protect(scene, guest, witness, *options):
    """Its host has a standby now, with an epoch."""
    done = begin(scene, guest, witness, *options)
    assert done.exit_code == 0, f"{done.stdout}{done.stderr}"
    assert done.json["status"] == "protected"
    assert scene.here(guest).status(guest)["state"] == "protected"
    assert scene.there(guest).status(guest)["state"] == "standby"
    return done.json


def has_gone_on(scene, guest, timeout=60) -> None:
    """Its standby has it, whole and unharmed, as a guest of its own."""
    there = scene.there(guest)
    wait_until(lambda: there.status(guest)["role"] == "ours", "the standby goes on with it",
               timeout)
    scene.has_moved(guest)


def progress(agent, guest) -> dict:
    return move_progress(agent.status(guest)) or {}


def epochs(agent, guest) -> int:
    return progress(agent, guest)["checkpoints"]["epochs"]


def wait_connected(scene, guest, timeout=60) -> None:
    wait_connected_on(scene.here(guest), guest, timeout)


def wait_connected_on(agent, guest, timeout=60) -> None:
    wait_until(lambda: progress(agent, guest).get("standby_connected"),
               "its standby is connected", timeout)


def overlays(agent) -> list:
    return list((agent.host.path("state") / "overlays").glob("*"))
