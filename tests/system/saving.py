"""What tests of images share."""

# Fault points of a save, of who keeps its image, and of a restore; test_save.py hits each.
SAVE_POINTS = ["save.accepted", "save.resumed", "save.sent", "image.begun", "image.before-commit"]
IMAGE_POINTS = ["image.disks-complete", "image.committed"]
RESTORE_POINTS = ["restore.launched", "restore.loaded"]
ALL_POINTS = [*SAVE_POINTS, *IMAGE_POINTS, *RESTORE_POINTS, "restore.on-record"]
