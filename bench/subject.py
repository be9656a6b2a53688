"""A workload's guest in a lab, from its load before a move to its checks after it."""

import time

from contenders import settle
from measure import Sample
from vmferry_lab import backports_qemu, quantile, requests_between
from workloads import Workload

HEARTBEAT_MS = 10
HOSTS = {"hostA": "10.66.0.1", "hostB": "10.66.0.2"}
LIMIT_S = {"1gbit": 60, "100mbit": 180}  # a move that takes longer did not finish
# The application is watched for as long whoever moves it, so that a shorter
# move does not look worse for having fewer requests around its downtime.
WATCH_S = {"1gbit": 15, "100mbit": 60}
LATE_MS = 20  # a request that takes longer is counted as late


class Subject:
    """A workload's guest, from its load before a move to its checks after it."""

    def __init__(self, workload: Workload, link: str, lab):
        self.workload = workload
        self.link = link
        self.guest = workload.guest(lab, backports_qemu())
        self._load = None

    def prepare(self, guest):
        """As the contenders want it: sets the load, returns a heartbeat."""
        if self.workload.redis:
            self._load = guest.redis_load(**self.workload.redis)
            self._load.start()
        self._heartbeat = settle(guest, self.workload.load, HEARTBEAT_MS)
        return self._heartbeat

    def finish(self, sample: Sample) -> None:
        """Checks all its memory and data; adds the latency of its requests and touches."""
        if self._load:
            until_ms = sample.started_ms + max(sample.wall_ms, WATCH_S[self.link] * 1e3)
            time.sleep(max(0, until_ms / 1e3 - time.monotonic()))
            requests = self._load.finish()
            moved_ms = sample.started_ms + sample.wall_ms
            sample.latency = _latency(requests, sample.started_ms, until_ms)
            sample.latency["while_moving"] = _latency(requests, sample.started_ms, moved_ms)
        if self.workload.load["pattern"] == "touch":
            sample.touches = self._touches(sample)
        self.guest.check()

    def _touches(self, sample: Sample) -> dict:
        """Those that took long, by the guest's clock, which stands still in a pause."""
        since = self._heartbeat.guest_ms(sample.started_ms)
        until = self._heartbeat.guest_ms(sample.started_ms + sample.wall_ms)
        with self.guest.control() as control:
            values = [one.took_ms for one in control.long_touches()
                      if since <= one.end_ms <= until]
        quantiles = {f"p{share}_ms": quantile(values, share / 100) for share in (10, 50, 90, 99)}
        return {"count": len(values), **quantiles, "max_ms": max(values, default=0.0)}


def _latency(requests, since_ms: float, until_ms: float) -> dict:
    values = requests_between(requests, since_ms, until_ms)
    return {"requests": len(values), "p50_ms": quantile(values, 0.5),
            "p99_ms": quantile(values, 0.99), "max_ms": max(values, default=0.0),
            "late": sum(value > LATE_MS for value in values)}
