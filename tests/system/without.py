"""Runs a program on a kernel that lacks something:  without.py FEATURE PROGRAM ...

FEATURE: "userfaultfd" (the call) or "pagemap-scan" (the ioctl), which a seccomp filter makes
fail as they do where the kernel does not know them; "huge-pages" (the transparent ones).
"""

import ctypes
import errno
import os
import sys

PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
PR_SET_THP_DISABLE = 41
SECCOMP_MODE_FILTER = 2
SYS_IOCTL = 16
SYS_USERFAULTFD = 323
PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)

RETURN_ERRNO = 0x00050000
RETURN_ALLOW = 0x7FFF0000
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
OFFSET_NUMBER, OFFSET_ARGUMENT_1 = 0, 24  # in struct seccomp_data; low half of args[1]

FILTERS = {
    "userfaultfd": [
        (LOAD, 0, 0, OFFSET_NUMBER),
        (JUMP_EQUAL, 0, 1, SYS_USERFAULTFD),
        (RETURN, 0, 0, RETURN_ERRNO | errno.ENOSYS),
        (RETURN, 0, 0, RETURN_ALLOW),
    ],
    "pagemap-scan": [
        (LOAD, 0, 0, OFFSET_NUMBER),
        (JUMP_EQUAL, 0, 3, SYS_IOCTL),
        (LOAD, 0, 0, OFFSET_ARGUMENT_1),
        (JUMP_EQUAL, 0, 1, PAGEMAP_SCAN),
        (RETURN, 0, 0, RETURN_ERRNO | errno.ENOTTY),
        (RETURN, 0, 0, RETURN_ALLOW),
    ],
}


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("if_true", ctypes.c_ubyte),
                ("if_false", ctypes.c_ubyte), ("value", ctypes.c_uint)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction))]


def prctl(what: int, *arguments) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(what, *arguments, *[0] * (4 - len(arguments))):
        raise OSError(ctypes.get_errno(), f"prctl {what}")


def install(instructions) -> None:
    table = (Instruction * len(instructions))(*(Instruction(*one) for one in instructions))
    program = Program(len(instructions), table)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program))


if __name__ == "__main__":
    if sys.argv[1] == "huge-pages":
        prctl(PR_SET_THP_DISABLE, 1)
    else:
        install(FILTERS[sys.argv[1]])
    os.execvp(sys.argv[2], sys.argv[2:])
