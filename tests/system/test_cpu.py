"""CPUs that differ: a guest must not lose what its CPU can do (src/vmm/qemu/cpu_features.h)."""

from findings import check_completed, check_failed
from scene import SMALL


def test_missing_features_are_named_before_the_pause(scene):
    """The destination's QEMU is started with a CPU that lacks two features."""
    guest = scene.run(**SMALL, extra=["-cpu", "max"])
    pid = scene.a.guest_pid(guest)
    rule = {"cpu": "max => max,avx2=off,rdrand=off"}
    with scene.changed(scene.b, rules=rule):
        result = scene.migrate(guest)
        text = check_failed(result, "avx2", "rdrand", "--allow-cpu-mismatch")
        assert "erms" not in text and result.json["downtime_ms"] == 0
        scene.check(guest)
        assert scene.a.guest_pid(guest) == pid
    scene.move(guest)


def test_mismatch_is_allowed(scene):
    guest = scene.run(**SMALL, extra=["-cpu", "max"])
    with scene.changed(scene.b, rules={"cpu": "max => max,sha-ni=off,rdseed=off,erms=off"}):
        check_completed(scene.migrate(guest, "--allow-cpu-mismatch"))
        scene.has_moved(guest)


def test_more_features_there_are_no_mismatch(scene):
    guest = scene.run(**SMALL, extra=["-cpu", "max,erms=off"])
    with scene.changed(scene.b, rules={"cpu": "max,erms=off => max"}):
        scene.move(guest)
