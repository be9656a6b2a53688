"""The guests that are moved: what each does, and what vmferry may do to get it over."""

from dataclasses import dataclass, field

MEMORY_MB = 1024


@dataclass(frozen=True)
class Workload:
    does: str
    arena_mb: int                  # memory that the guest's self-check covers
    load: dict = field(default_factory=lambda: {"pattern": "idle"})  # for Control.write()
    content: str = "random"        # what the arena holds at first
    redis: dict | None = None      # for Guest.redis_load()
    options: tuple[str, ...] = ()  # of `vmferry migrate`, declared beforehand

    def guest(self, lab, qemu):
        """Its guest; no memory is checked before the move is over."""
        return lab.guest("bench", memory_mb=MEMORY_MB, qemu=qemu, check=0,
                         arena_mb=self.arena_mb, content=self.content,
                         redis=self.redis is not None)


def _intensive(order: str) -> Workload:
    return Workload(
        f"512 MiB overwritten with random bytes as fast as it goes, {order} order", 512,
        {"pattern": "intensive", "order": order}, options=("--downtime-cap", "5s"))


WORKLOADS = {
    "idle": Workload("nothing but its heartbeat", 16),
    "sparse": Workload("8 bytes a page, 20,000 pages a second over 512 MiB", 512,
                       {"pattern": "sparse", "pages_per_second": 20000}),
    "dense": Workload("60 MB/s of random bytes over 256 MiB", 256,
                      {"pattern": "dense", "mb_per_second": 60}),
    "intensive": _intensive("random"),
    "intensive-sequential": _intensive("sequential"),
    "text": Workload("60 MB/s of text over 256 MiB of text", 256,
                     {"pattern": "text", "mb_per_second": 60}, content="text"),
    "read": Workload("reads 512 MiB all the time, writes nothing", 512, {"pattern": "read"}),
    "touch": Workload("reads a word in each of 2,000 pages a second over 512 MiB", 512,
                      {"pattern": "touch", "pages_per_second": 2000}),
    "application": Workload(
        "Redis with 200 MB in 1,000-byte values, 1,000 requests a second, half SET, half GET", 16,
        redis={"keys": 200_000, "value_bytes": 1000, "rate": 1000}),
}

# What says something about post-copy alone.
POSTCOPY_ONLY = ("touch",)
