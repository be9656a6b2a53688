#!/usr/bin/python3
"""Makes the fixtures of test_live_line.c anew: machines as real QEMUs tell them.

Each shape is a command line as some tool or person writes it, of our own making, and what is
done to the machine afterwards.  Written are NAME.words (a word a line), NAME.json (what
qemu_machine_query() asks for, right after the start) and, where something is done,
NAME.changed.json and NAME.changed.words (the line that then makes it; look at it before you
commit it).  Needs the lab's QEMUs and build/tests/unit/vmm/live_line_tool.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
sys.path.insert(0, str(ROOT / "lab"))

from vmferry_lab import qemu  # noqa: E402
from vmferry_lab.qmp import Qmp  # noqa: E402

TOOL = ROOT / "build/tests/unit/vmm/live_line_tool"


def images(*names):
    for name in names:
        kind = "qcow2" if name.endswith("qcow2") else "raw"
        subprocess.run(["qemu-img", "create", "-q", "-f", kind, name, "8M"], check=True)


def wait(qmp, event, **data):
    qmp.wait_event(lambda e: e["event"] == event
                   and all(e["data"].get(key) == value for key, value in data.items()))


def complete(qmp, job):
    wait(qmp, "BLOCK_JOB_READY", device=job)
    qmp.execute("block-job-complete", device=job)
    wait(qmp, "BLOCK_JOB_COMPLETED", device=job)


# ---- the shapes: words, and what is done afterwards ----

PLAIN = ["-m", "256", "-smp", "1,maxcpus=2", "-display", "none", "-hda", "disk.img",
         "-cdrom", "install.iso", "-nic", "user,model=e1000"]


def change_plain(qmp):
    qmp.execute("blockdev-snapshot-sync", device="ide0-hd0", format="qcow2",
                **{"snapshot-file": "snap.qcow2"})
    cdrom = next(entry["qdev"] for entry in qmp.execute("query-block")
                 if entry["device"] == "ide1-cd0")
    qmp.execute("eject", id=cdrom, force=True)


Q35 = ["-M", "q35", "-m", "256", "-display", "none", "-nodefaults",
       "-drive", "file=root.qcow2,if=virtio,cache=none,aio=threads",
       "-drive", "file=data.raw,if=virtio,format=raw,readonly=on",
       "-netdev", "user,id=n0", "-device", "virtio-net,netdev=n0",
       "-device", "pcie-root-port,id=rp0,chassis=1", "-device", "virtio-rng",
       "-device", "virtio-scsi,id=s0", "-cdrom", "install.iso"]


def change_q35(qmp):
    qmp.execute("drive-mirror", device="virtio0", target="moved.raw", sync="full", format="raw",
                **{"job-id": "m"})
    complete(qmp, "m")
    qmp.execute("blockdev-add", driver="raw",
                **{"node-name": "extra", "file": {"driver": "file", "filename": "extra.raw"}})
    qmp.execute("device_add", driver="virtio-blk-pci", id="vdx", drive="extra", bus="rp0")
    qmp.execute("blockdev-add", driver="qcow2",
                **{"node-name": "more", "file": {"driver": "file", "filename": "more.qcow2"}})
    qmp.execute("device_add", driver="scsi-hd", id="sdx", drive="more", bus="s0.0", lun=2)


# As libvirt writes a guest of today.
LIBVIRT = [
    "-name", "guest=web,debug-threads=on", "-S", "-machine",
    "pc-q35-7.2,usb=off,dump-guest-core=off", "-accel", "tcg", "-cpu", "qemu64",
    "-m", "size=262144k,slots=4,maxmem=1048576k",
    "-object", '{"qom-type":"memory-backend-ram","id":"ram-node0","size":268435456}',
    "-overcommit", "mem-lock=off", "-smp", "1,maxcpus=2,sockets=2,cores=1,threads=1",
    "-object", '{"qom-type":"iothread","id":"iothread1"}',
    "-numa", "node,nodeid=0,cpus=0-1,memdev=ram-node0",
    "-uuid", "b1c2a3a4-0000-4000-8000-000000000001", "-display", "none", "-no-user-config",
    "-nodefaults", "-rtc", "base=utc,driftfix=slew", "-global", "kvm-pit.lost_tick_policy=delay",
    "-no-shutdown", "-boot", "strict=on",
    "-device", '{"driver":"pcie-root-port","port":16,"chassis":1,"id":"pci.1","bus":"pcie.0",'
               '"multifunction":true,"addr":"0x2"}',
    "-device", '{"driver":"pcie-root-port","port":17,"chassis":2,"id":"pci.2","bus":"pcie.0",'
               '"addr":"0x2.0x1"}',
    "-device", '{"driver":"pcie-root-port","port":18,"chassis":3,"id":"pci.3","bus":"pcie.0",'
               '"addr":"0x2.0x2"}',
    "-device", '{"driver":"pcie-root-port","port":19,"chassis":4,"id":"pci.4","bus":"pcie.0",'
               '"addr":"0x2.0x3"}',
    "-device", '{"driver":"qemu-xhci","p2":15,"p3":15,"id":"usb","bus":"pci.2","addr":"0x0"}',
    "-device", '{"driver":"virtio-serial-pci","id":"virtio-serial0","bus":"pci.3","addr":"0x0"}',
    "-blockdev", '{"driver":"file","filename":"web.qcow2","node-name":"libvirt-2-storage",'
                 '"cache":{"direct":true,"no-flush":false},"auto-read-only":true,"discard":"unmap"}',
    "-blockdev", '{"node-name":"libvirt-2-format","read-only":false,"discard":"unmap",'
                 '"cache":{"direct":true,"no-flush":false},"driver":"qcow2",'
                 '"file":"libvirt-2-storage","backing":null}',
    "-device", '{"driver":"virtio-blk-pci","bus":"pci.1","addr":"0x0","drive":"libvirt-2-format",'
               '"id":"virtio-disk0","bootindex":1,"write-cache":"on","iothread":"iothread1"}',
    "-device", '{"driver":"ide-cd","bus":"ide.0","id":"sata0-0-0"}',
    "-netdev", '{"type":"user","id":"hostnet0"}',
    "-device", '{"driver":"virtio-net-pci","netdev":"hostnet0","id":"net0",'
               '"mac":"52:54:00:00:00:01","bus":"pci.4","addr":"0x0"}',
    "-chardev", "pty,id=charserial0",
    "-device", '{"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0}',
    "-device", '{"driver":"usb-tablet","id":"input0","bus":"usb.0","port":"1"}',
    "-device", '{"driver":"VGA","id":"video0","vgamem_mb":16,"bus":"pcie.0","addr":"0x1"}',
    "-sandbox", "off", "-msg", "timestamp=on",
]


def change_libvirt(qmp):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "web.qcow2",
                    "web.snap1"], check=True)
    qmp.execute("blockdev-add", driver="file", filename="web.snap1", discard="unmap",
                **{"node-name": "libvirt-3-storage", "auto-read-only": True,
                   "cache": {"direct": True, "no-flush": False}})
    qmp.execute("blockdev-add", driver="qcow2", file="libvirt-3-storage", backing=None,
                discard="unmap", **{"node-name": "libvirt-3-format", "read-only": False,
                                    "cache": {"direct": True, "no-flush": False}})
    qmp.execute("blockdev-snapshot", node="libvirt-2-format", overlay="libvirt-3-format")
    qmp.execute("object-add", **{"qom-type": "memory-backend-ram", "id": "memdimm0",
                                 "size": 128 << 20})
    qmp.execute("device_add", driver="pc-dimm", id="dimm0", memdev="memdimm0", node=0)
    cpu = next(entry for entry in qmp.execute("query-hotpluggable-cpus")
               if "qom-path" not in entry)
    qmp.execute("device_add", driver=cpu["type"], id="vcpu1", **cpu["props"])
    qmp.execute("blockdev-add", driver="file", filename="driver.iso",
                **{"node-name": "libvirt-4-storage", "read-only": True})
    qmp.execute("blockdev-add", driver="raw", file="libvirt-4-storage",
                **{"node-name": "libvirt-4-format", "read-only": True})
    qmp.execute("blockdev-open-tray", id="sata0-0-0", force=True)
    qmp.execute("blockdev-insert-medium", id="sata0-0-0", **{"node-name": "libvirt-4-format"})
    qmp.execute("blockdev-close-tray", id="sata0-0-0")


# As Proxmox VE writes one, whose buses come out of a file.
PROXMOX = [
    "-name", "web,debug-threads=on", "-no-shutdown", "-readconfig", "buses.cfg",
    "-smbios", "type=1,uuid=b1c2a3a4-0000-4000-8000-000000000002", "-smp",
    "1,sockets=1,cores=1,maxcpus=1", "-nodefaults", "-boot", "menu=on,strict=on,reboot-timeout=1000",
    "-display", "none", "-cpu", "qemu64,+aes,enforce", "-m", "256",
    "-object", "iothread,id=iothread-virtioscsi0",
    "-device", "pci-bridge,id=pci.1,chassis_nr=1,bus=pci.0,addr=0x1e",
    "-device", "vmgenid,guid=b1c2a3a4-0000-4000-8000-000000000003",
    "-device", "usb-tablet,id=tablet,bus=uhci.0,port=1", "-device", "VGA,id=vga,bus=pci.0,addr=0x2",
    "-device", "virtio-balloon-pci,id=balloon0,bus=pci.0,addr=0x3,free-page-reporting=on",
    "-iscsi", "initiator-name=iqn.1993-08.org.debian:01:0",
    "-drive", "if=none,id=drive-ide2,media=cdrom,aio=threads",
    "-device", "ide-cd,bus=ide.1,unit=0,drive=drive-ide2,id=ide2,bootindex=101",
    "-device", "virtio-scsi-pci,id=virtioscsi0,bus=pci.0,addr=0x5,iothread=iothread-virtioscsi0",
    "-drive", "file=vm-100.raw,if=none,id=drive-scsi0,cache=none,aio=native,format=raw,"
              "detect-zeroes=on",
    "-device", "scsi-hd,bus=virtioscsi0.0,channel=0,scsi-id=0,lun=0,drive=drive-scsi0,id=scsi0,"
               "bootindex=100",
    "-netdev", "type=user,id=net0",
    "-device", "virtio-net-pci,mac=BC:24:11:00:00:01,netdev=net0,bus=pci.0,addr=0x12,id=net0,"
               "bootindex=102",
]
BUSES = """[device "uhci"]
  driver = "piix3-usb-uhci"
  bus = "pci.0"
  addr = "0x1.0x2"
  multifunction = "on"
"""


def change_proxmox(qmp):
    # Its own way to plug: a drive by the human monitor, then a device.
    qmp.execute("human-monitor-command", **{
        "command-line": "drive_add auto file=vm-100-1.raw,if=none,id=drive-scsi1,format=raw,"
                        "cache=none,aio=native,detect-zeroes=on"})
    qmp.execute("device_add", driver="scsi-hd", id="scsi1", drive="drive-scsi1", lun=1,
                bus="virtioscsi0.0", channel=0, **{"scsi-id": 0})
    qmp.execute("device_del", id="tablet")
    wait(qmp, "DEVICE_DELETED", device="tablet")
    qmp.execute("block_set_io_throttle", device="drive-scsi0", bps=0, bps_rd=0, bps_wr=0,
                iops=0, iops_rd=500, iops_wr=500)


# As Incus starts one: much out of a file, disks by QMP before the guest runs.
INCUS = ["-S", "-name", "v1", "-uuid", "b1c2a3a4-0000-4000-8000-000000000004", "-cpu", "qemu64",
         "-nographic", "-serial", "null", "-monitor", "none", "-nodefaults", "-no-user-config",
         "-readconfig", "incus.conf", "-m", "256", "-smp", "1,maxcpus=2"]
INCUS_CONF = """[machine]
  type = "q35"
[device "qemu_pcie0"]
  driver = "pcie-root-port"
  bus = "pcie.0"
  addr = "1.0"
  chassis = "0"
  multifunction = "on"
[device "qemu_scsi"]
  driver = "virtio-scsi-pci"
  bus = "qemu_pcie0"
  addr = "00.0"
[device "qemu_pcie1"]
  driver = "pcie-root-port"
  bus = "pcie.0"
  addr = "1.1"
  chassis = "1"
"""


def change_incus(qmp):
    qmp.execute("blockdev-add", driver="file", filename="root.img",
                discard="unmap", **{"node-name": "incus_root", "cache": {"direct": True},
                                    "read-only": False, "locking": "off"})
    qmp.execute("device_add", driver="scsi-hd", id="dev-incus_root", drive="incus_root",
                bus="qemu_scsi.0", channel=0, lun=1, serial="incus_root",
                **{"scsi-id": 0, "share-rw": True})


# As quickemu writes one.
QUICKEMU = [
    "-name", "debian,process=debian", "-machine", "q35,smm=off,vmport=off", "-global",
    "kvm-pit.lost_tick_policy=discard", "-cpu", "qemu64", "-smp", "cores=1,threads=1,sockets=1",
    "-m", "256M", "-device", "virtio-balloon", "-display", "none", "-device", "VGA,xres=1280,yres=800",
    "-rtc", "base=utc,clock=host", "-device", "virtio-rng-pci,rng=rng0",
    "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "qemu-xhci,id=spicepass",
    "-device", "pci-ohci,id=smartpass", "-device", "usb-ehci,id=input",
    "-device", "usb-kbd,bus=input.0", "-k", "en-us", "-device", "usb-tablet,bus=input.0",
    "-device", "virtio-net,netdev=nic", "-netdev", "user,hostname=debian,id=nic",
    "-global", "driver=cfi.pflash01,property=secure,value=off",
    "-drive", "media=cdrom,index=0,file=install.iso",
    "-device", "virtio-blk-pci,drive=SystemDisk",
    "-drive", "id=SystemDisk,if=none,format=qcow2,file=disk.qcow2",
    "-monitor", "none", "-serial", "null",
]


def change_quickemu(qmp):
    qmp.execute("eject", device="ide0-cd0", force=True)


MICROVM = ["-M", "microvm", "-m", "128", "-display", "none", "-nodefaults", "-no-user-config",
           "-drive", "id=root,file=root.img,format=raw,if=none",
           "-device", "virtio-blk-device,drive=root", "-netdev", "user,id=n0",
           "-device", "virtio-net-device,netdev=n0"]


def change_microvm(qmp):
    qmp.execute("blockdev-snapshot-sync", device="root", format="qcow2",
                **{"snapshot-file": "root.snap"})


SHAPES = {
    "plain": (PLAIN, change_plain, ["disk.img", "install.iso"], {}),
    "q35": (Q35, change_q35, ["root.qcow2", "data.raw", "install.iso", "extra.raw", "more.qcow2"], {}),
    "libvirt": (LIBVIRT, change_libvirt, ["web.qcow2", "driver.iso"], {}),
    "proxmox": (PROXMOX, change_proxmox, ["vm-100.raw", "vm-100-1.raw"], {"buses.cfg": BUSES}),
    "incus": (INCUS, change_incus, ["root.img"], {"incus.conf": INCUS_CONF}),
    "quickemu": (QUICKEMU, change_quickemu, ["install.iso", "disk.qcow2"], {}),
    "microvm": (MICROVM, change_microvm, ["root.img"], {}),
}


def ask(pid, socket, output):
    """What the tool says: the machine into *output*, the words."""
    said = subprocess.run([TOOL, str(pid), str(socket), output], capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(f"{output}: {said.stderr}")
    sys.stderr.write(said.stderr)
    return json.loads(said.stdout)


def without_qmp(words):
    at = words.index("-qmp")
    return words[:at] + words[at + 2:]


def make(name, version):
    words, change, files, texts = SHAPES[name]
    program = qemu(version)
    target = HERE / f"{name}-{version}"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        images(*files)
        for file, text in texts.items():
            Path(file).write_text(text)
        socket = Path(folder) / "qmp"
        process = subprocess.Popen([*program.command, *words, "-qmp",
                                    f"unix:{socket},server=on,wait=off"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            Qmp(socket).close()
            started = without_qmp(ask(process.pid, socket, f"{target}.json"))
            if started[len(program.command):] != [word for word in words if word != "-S"]:
                print(f"{target.name}: the line is not the same right after the start: {started}")
            with Qmp(socket) as qmp:
                change(qmp)
            changed = without_qmp(ask(process.pid, socket, f"{target}.changed.json"))
        finally:
            process.kill()
            process.wait()
    skip = len(program.command)
    Path(f"{target}.words").write_text("".join(f"{word}\n" for word in ["qemu", *words]))
    Path(f"{target}.changed.words").write_text(
        "".join(f"{word}\n" for word in ["qemu", *changed[skip:]]))
    print(target.name, "made")


if __name__ == "__main__":
    wanted = sys.argv[1:] or [f"{name}-{version}" for name in SHAPES for version in ("7.2", "10.0")]
    for entry in wanted:
        make(*entry.rsplit("-", 1))
