"""What vhost and cards of several queues send is held by the kernel's `sch_plug`, which few kernels have
but Debian's: the unit test of it, under one."""

import os
from pathlib import Path

from vmferry_lab import REPOSITORY
from vmferry_lab.initramfs import run_program

MODULES = ("tun", "ifb", "sch_ingress", "sch_plug", "cls_matchall", "act_mirred")
DEADLINE = 120  # seconds; alone on two cores it takes 10


def program() -> Path:
    vmferry = Path(os.environ.get("VMFERRY") or REPOSITORY / "build/src/cli/vmferry")
    return vmferry.parents[2] / "tests/unit/net/test_net_tap_plug"


def test_output_is_held_by_the_kernel(tmp_path):
    said = run_program(program(), MODULES, tmp_path, DEADLINE, "VMFERRY_NEEDS_PLUG=1")
    print(said)
    assert said.rstrip().endswith("exit code 0")
    assert "[  PASSED  ]" in said and "SKIPPED" not in said and "FAILED" not in said


def test_missing_module_is_named(tmp_path):
    modules = [name for name in MODULES if name != "sch_plug"]
    said = run_program(program(), modules, tmp_path, DEADLINE, "VMFERRY_NEEDS_PLUG=1")
    print(said)
    assert "needs sch_plug, which this kernel does not have" in said
    assert not said.rstrip().endswith("exit code 0")
