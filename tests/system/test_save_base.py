"""Increments: images that have what differs from an earlier one."""

from disks import LocalImage, drive, run_with
from live import check_disk
from test_save import await_whole, restore, save, stop, watch_anew


def test_three(scene, tmp_path):
    image = LocalImage("disk.qcow2", "qcow2").make(scene.a)
    guest = run_with(scene, drive(image.on(scene.a), "qcow2"))
    files = [tmp_path / f"web1-{number}.image" for number in range(3)]
    reports = [save(scene, guest, files[0])]
    for number in (1, 2):
        scene.check(guest)
        reports.append(save(scene, guest, files[number], "--base", files[number - 1].name))
        print(reports[-1]["image"], reports[-1]["copies"], reports[-1]["downtime_ms"], reports[-1]["total_ms"])
    print([file.stat().st_size for file in files])
    stop(scene, guest)
    restore(scene, scene.a, files[2], "--full", "--disks-in", scene.a.host.path("."))
    watch_anew(scene, guest, scene.a)
    scene.check(guest)
    check_disk(guest)
