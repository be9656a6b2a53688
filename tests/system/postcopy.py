"""Post-copy moves, as the tests make them."""

from findings import check_completed
from scene import move_progress
from vmferry_lab import qemu_pids, wait_until

# Fault points that only a post-copy comes by: the side, and where the guest is in the end.
POSTCOPY_POINTS = {
    "source.fault-channel": ("source", "stays"),
    "source.split": ("source", "moves"),
    "source.pushed": ("source", "moves"),
    "destination.discard": ("destination", "stays"),
    "destination.all-pages": ("destination", "moves"),
    "destination.complete-sent": ("destination", "moves"),
}

# Only a guest that is protected comes by these: the side, and where the guest is in the end.  The
# source comes by those of a takeover when the destination's QEMU has died.
FULL_POINTS = {
    "source.given-up": ("source", "moves"),
    "destination.held": ("destination", "stays"),
    "destination.ended": ("destination", "moves"),
    "checkpoint.cut": ("destination", "moves"),
    "checkpoint.send": ("destination", "moves"),
    "checkpoint.seal": ("destination", "moves"),
    "checkpoint.commit": ("source", "moves"),
    "checkpoint.committed": ("source", "moves"),
    "checkpoint.release": ("destination", "moves"),
}
TAKEOVER_POINTS = ["takeover.begun", "takeover.place-left", "takeover.image-open",
                   "takeover.disks-written", "takeover.launched", "takeover.loaded", "takeover.become"]

# Those that only a move with a store comes by (test_store.py, test_postcopy_witness.py).
STORE_POINTS = ["source.register", "source.store-fill", "source.store-rest", "destination.fetch",
                "store.seal"]

# Writes more than the link of a slow move carries.
WRITER = {"pattern": "dense", "pages_per_second": 3000}


def move(scene, guest, *options, mode="postcopy") -> dict:
    """Moves it so, and checks everything; the report."""
    report = check_completed(scene.migrate(guest, "--mode", mode, *options), mode=mode)
    scene.has_moved(guest)
    return report


def begin_split(scene, *options, rate="4M"):
    """A post-copy whose guest runs at its destination, and that takes some seconds from there on."""
    guest = scene.guest
    begun = scene.here(guest).begin_migrate(guest, scene.there(guest), "--mode", "postcopy",
                                            "--bandwidth", rate, *options)
    wait_split(scene)
    return begun


def is_split(scene) -> bool:
    status = scene.there(scene.guest).vmferry("status", scene.guest.name, "--json")
    return status.exit_code == 0 and status.json["role"] == "postcopy"


def wait_split(scene) -> None:
    wait_until(lambda: is_split(scene), "the guest runs there", 30)


def outstanding_bytes(scene) -> int:
    progress = move_progress(scene.there(scene.guest).status(scene.guest))
    return progress["outstanding_bytes"] if progress else 0


def wait_whole(scene, timeout=60) -> None:
    """The guest has all of its memory, and the copy at its source has ended."""
    guest = scene.guest
    wait_until(lambda: scene.there(guest).vmferry("status", guest.name, "--json")
               .json.get("role") == "ours", "all memory is there", timeout)
    wait_until(lambda: not qemu_pids(scene.here(guest).host, guest), "end of the old copy", 15)
