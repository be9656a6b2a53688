"""What tests of images share."""

# Fault points of a save, of who keeps its image, and of a restore; test_save.py hits each.
SAVE_POINTS = ["save.accepted", "save.resumed", "save.sent", "image.begun", "image.before-commit"]
IMAGE_POINTS = ["image.disks-complete", "image.committed"]
RESTORE_POINTS = ["restore.launched", "restore.loaded"]
ALL_POINTS = [*SAVE_POINTS, *IMAGE_POINTS, *RESTORE_POINTS, "restore.on-record"]


def save(scene, guest, file, *options):
    """`vmferry save`; its report."""
    result = scene.here(guest).vmferry("save", guest.name, file, *options, "--json", timeout=120)
    assert result.exit_code == 0, result.stderr
    assert result.json["status"] == "completed"
    return result.json


def restore(scene, agent, file, *options):
    result = agent.vmferry("restore", file, *options, "--json", timeout=120)
    assert result.exit_code == 0, result.stderr
    return result.json


def disk_copy(file):
    """The copy of the first disk that the image there has."""
    copy, = file.parent.glob(f"{file.name}.????????.disk0")
    return copy
