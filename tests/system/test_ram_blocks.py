"""Machines whose RAM blocks look alike: each must arrive where it belongs.

The guest itself writes to its cards' memory and reads it after each move: blocks that were mixed
up would be seen there, though they would pass --verify.
"""

import os
import shutil

import pytest

from findings import check_failed
from live import monitor, run_live, unplug
from vmferry_lab import LabError, qemu, wait_until

# A card's command register, and what the firmware has put there for its memory to be seen.
PCI_COMMAND = 4
PCI_COMMAND_MEMORY = 2

PC_AND_Q35 = pytest.mark.parametrize("machine", ["pc", pytest.param("q35", marks=pytest.mark.long)])


class Card:
    """A PCI card of the guest, by its slot, and pieces of its memory."""

    def __init__(self, slot: int, places: list[tuple[int, int]]):
        """*places*: (BAR, offset) where something is written."""
        self.slot = f"{slot:#x}"
        self.folder = f"/sys/bus/pci/devices/0000:00:{slot:02x}.0"
        self.content = {place: os.urandom(64) for place in places}

    def fill(self, control) -> None:
        for (bar, offset), data in self.content.items():
            control.write_bytes(f"{self.folder}/resource{bar}", offset, data)

    def check(self, control) -> None:
        for (bar, offset), data in self.content.items():
            assert control.read(f"{self.folder}/resource{bar}", offset, 64) == data, \
                f"{self.folder} BAR {bar}, {offset:#x}"

    def wait_seen(self, control) -> None:
        """Waits until the guest's kernel has found it."""
        def seen():
            try:
                return control.read(f"{self.folder}/vendor", 0, 6)
            except LabError:
                return None
        wait_until(seen, f"the guest sees {self.folder}")

    def show(self, control, shown: bool) -> None:
        """Without this its BARs are nowhere in the guest's address space."""
        config = f"{self.folder}/config"
        command = int.from_bytes(control.read(config, PCI_COMMAND, 2), "little")
        command = command | PCI_COMMAND_MEMORY if shown else command & ~PCI_COMMAND_MEMORY
        control.write_bytes(config, PCI_COMMAND, command.to_bytes(2, "little"))


def move_there_and_back(scene, guest, cards) -> None:
    """Moved with its cards in sight, and back again as before a driver has enabled them."""
    with guest.control() as control:
        for card in cards:
            card.fill(control)
    scene.move(guest, "--verify")
    with guest.control() as control:
        for card in cards:
            card.check(control)
            card.show(control, False)
    scene.move(guest, "--verify")
    with guest.control() as control:
        for card in cards:
            card.show(control, True)
            card.check(control)


@PC_AND_Q35
def test_two_vga_cards(scene, any_qemu, machine):
    """At 0x18000 begins what no text console writes to."""
    guest = scene.run(qemu=any_qemu, machine=machine, vga=False, extra=[
        "-device", "VGA,addr=0x10", "-device", "secondary-vga,addr=0x11",
        "-device", "secondary-vga,addr=0x12"])
    places = [(0, 0x20000), (0, 0x800000), (0, 0xffffc0)]
    move_there_and_back(scene, guest, [Card(slot, places) for slot in (0x10, 0x11, 0x12)])


@PC_AND_Q35
def test_qxl(scene, any_qemu, machine):
    """Its memory and its video memory are of the same size, 64 MiB."""
    guest = scene.run(qemu=any_qemu, machine=machine, vga=False,
                      extra=["-device", "qxl-vga,addr=0x10", "-device", "qxl,addr=0x11"])
    places = [(0, 0x20000), (0, 0x1000000), (1, 0), (1, 0x1000000)]
    move_there_and_back(scene, guest, [Card(slot, places) for slot in (0x10, 0x11)])


def test_cards_that_were_unplugged_and_plugged_again(scene):
    """What QEMU 7.2 has left of them in its memory must not be taken for those that are there."""
    guest = run_live(scene, qemu=qemu("7.2"))
    cards = {name: Card(slot, [(0, 0x20000), (0, 0x800000)])
             for name, slot in (("left", 0x10), ("right", 0x11))}
    orders = [["left", "right"], ["right", "left"], ["right", "left"], ["left", "right"]]
    with monitor(scene, guest) as qmp, guest.control() as control:
        for order in orders:
            for name in order:
                qmp.execute("device_add", driver="secondary-vga", id=name, addr=cards[name].slot)
                cards[name].wait_seen(control)
            if order is not orders[-1]:
                for name in order:
                    unplug(qmp, name)
        for card in cards.values():
            card.show(control, True)
    move_there_and_back(scene, guest, cards.values())


def measurements(control) -> list[str]:
    """What the firmware has told the TPM: gone with the TPM's memory, and only there."""
    return [control.read(f"/sys/class/tpm/tpm0/pcr-sha256/{i}", 0, 64).decode() for i in range(8)]


@pytest.mark.parametrize("model, machine", [
    ("tpm-tis", "pc"), ("tpm-crb", "q35"),
    pytest.param("tpm-tis", "q35", marks=pytest.mark.long),
    pytest.param("tpm-crb", "pc", marks=pytest.mark.long)])
def test_tpm(scene, any_qemu, model, machine):
    guest = scene.run(qemu=any_qemu, machine=machine, tpm=model)
    with guest.control() as control:
        before = measurements(control)
    assert not any(set(value) == {"0"} for value in before)
    for _ in range(2):
        guest.tpm.wait_ready(scene.there(guest).host)
        scene.move(guest, "--verify")
        with guest.control() as control:
            assert measurements(control) == before


@pytest.mark.parametrize("machine, card", [
    ("pc", "virtio-net-pci"), pytest.param("q35", "e1000e", marks=pytest.mark.long)])
def test_many_network_cards(scene, any_qemu, machine, card):
    """Option ROMs of one model are the same; another model's is of the same length."""
    guest = scene.run(qemu=any_qemu, machine=machine,
                      extra=["-device", card] * 3 + ["-device", "e1000"] * 2)
    scene.move(guest, "--verify")
    scene.move(guest, "--verify")


# ---- other machines there ----

def with_tables(scene, sizes):
    """A guest whose ACPI tables are of another length on each host, by a file there."""
    for host, size in zip(scene.lab.hosts, sizes):
        host.path("table").write_bytes(b"x" * size)
    # Together with QEMU's own the longer ones are more than 128 KiB.
    return scene.run(extra=["-acpitable", f"data={scene.lab.host_a.path('table')}"] * 3)


@pytest.mark.parametrize("sizes", [(100, 60000), pytest.param((60000, 100), marks=pytest.mark.long)])
def test_tables_of_another_length(scene, sizes):
    """QEMU resizes them, to what the source has (where its user says that they may differ)."""
    guest = with_tables(scene, sizes)
    check_failed(scene.migrate(guest), "are not the same file", "--trust-images")
    scene.check(guest)  # nothing of it is left there
    lengths = [scene.move(guest, "--verify", "--trust-images")["ram_bytes"] for _ in range(3)]
    assert len(set(lengths)) == 1


def test_another_firmware_there(scene):
    """A block that QEMU does not resize: refused by its name, before QEMU is told anything."""
    bios = scene.lab.host_a.path("bios")
    shutil.copy("/usr/share/seabios/bios-256k.bin", bios)
    shutil.copy("/usr/share/seabios/bios.bin", scene.lab.host_b.path("bios"))
    guest = scene.run(extra=["-bios", bios])
    check_failed(scene.migrate(guest), "RAM block pc.bios has 262144 bytes there and 131072 here")
    scene.check(guest)
    shutil.copy(bios, scene.lab.host_b.path("bios"))
    scene.move(guest, "--verify")
