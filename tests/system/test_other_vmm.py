"""A running Linux moves live from QEMU to a stock Bochs, and back."""

import shutil

import pytest

from other_vmm import PC, Journey

pytestmark = pytest.mark.skipif(not shutil.which("bochs-bin"), reason="there is no bochs-bin")


@pytest.fixture
def journey(agents, lab):
    """A guest of QEMU on host A that Bochs can be."""
    def make(**options):
        return Journey(*agents, lab.guest("web1", **{**PC, **options}))
    return make


def test_there_and_back(journey):
    trip = journey().begin()
    report = trip.move("bochs", "--verify")
    assert report["verified"] is True and report["neutral"]["vmm"] == "bochs"
    assert trip.status()["vmm"] == "bochs"
    before = trip.hear(2)[-1]
    report = trip.move("qemu", "--verify")
    assert report["verified"] is True
    after = trip.hear(3)[-1]
    assert after.disk > before.disk and after.written > before.written
    assert trip.complaints() == []
