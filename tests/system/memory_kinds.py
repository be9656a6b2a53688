"""Kinds of guest RAM, as options of QEMU."""

from pathlib import Path

HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
HUGE_PAGE_MB = 2


def memory_backend(kind: str, memory_mb: int) -> list[str]:
    return ["-object", f"{kind},id=ram0,size={memory_mb}M", "-machine", "memory-backend=ram0"]


def huge_memory(memory_mb: int) -> list[str]:
    """Of hugetlbfs; needs the fixture huge_pages."""
    return memory_backend(f"memory-backend-memfd,hugetlb=on,hugetlbsize={HUGE_PAGE_MB}M,share=on", memory_mb)
