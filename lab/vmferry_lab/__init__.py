"""The lab: hosts, links, guests and clients on one machine; see lab/README.md."""

from .agent import Agent, Command, Pki, Result, qemu_pids, run_pids, vmferry_program
from .cache import REPOSITORY, cache_dir
from .control import Control, Timing
from .digest import digest_of_image
from .engine import Engine
from .etcd import Etcd
from .guest import MACHINES, Guest
from .heartbeat import Beat, Heartbeat
from .lab import Host, Lab, clean
from .libvirt import Libvirt, client_environment, has_libvirt
from .process import (GuestHarmed, LabError, Process, cpu_seconds, is_alive, peak_memory_bytes,
                      wait_gone, wait_until)
from .qemu import Qemu, backports_qemu, has_kvm, qemu, system_qemu
from .redis import RedisLoad, Request, quantile, redis_throughput, requests_between
from .slow_image import SlowImage, has_fuse
from .wan import Wan, WanLink

__all__ = ["Agent", "Beat", "Command", "Control", "Engine", "Etcd", "Guest", "GuestHarmed", "Heartbeat",
           "Host", "Lab", "LabError", "Libvirt", "MACHINES", "Pki", "Process", "Qemu", "REPOSITORY",
           "RedisLoad", "Request", "Result", "SlowImage", "Timing", "Wan", "WanLink",
           "backports_qemu", "cache_dir",
           "clean", "client_environment", "cpu_seconds", "digest_of_image", "has_fuse", "has_kvm", "has_libvirt", "is_alive",
           "peak_memory_bytes", "qemu", "qemu_pids", "quantile", "redis_throughput",
           "requests_between", "run_pids", "system_qemu", "vmferry_program", "wait_gone", "wait_until"]
