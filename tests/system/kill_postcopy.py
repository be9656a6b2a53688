"""Carries an injection (kill_plan.py) out on a post-copy or hybrid move.

Before the guest's memory is split, and when it is whole, all is as for a pre-copy.  In between the
death of a QEMU is not survived, and an operator has to say so: then nothing may run but what he has
decided for.
"""

from __future__ import annotations

import time

from kill_campaign import Injector
from kill_plan import DESTINATION_QEMU, ENDED, KILL, MOVED, REVERTED, SOURCE_QEMU
from postcopy import outstanding_bytes
from vmferry_lab import Agent, qemu_pids, wait_until

STUCK_S = 3  # so long no page has come to a guest whose source has died


class PostcopyInjector(Injector):
    """One injection into one post-copy or hybrid move of `scene.guest`."""

    RECOVERY_S = 90
    NEXT_MOVE = ("--verify",)

    def __init__(self, scene, injection):
        super().__init__(scene, injection)
        self._drained = False   # the source's QEMU has died with pages that were needed
        self._kept_here = False

    # ---- what came of it ----

    def _look(self, pid: int) -> str | None:
        if self._lacks_pages_for_good():
            self._end_drained()
            return ENDED
        if self._kept_here:
            return REVERTED if self._state(self.here).get("state") == "running" else None
        outcome = super()._look(pid)
        return outcome if outcome != MOVED or self._role(self.there) == "ours" else None

    def _state(self, agent: Agent) -> dict:
        """Empty where the agent does not have the guest."""
        status = agent.vmferry("status", self.guest.name, "--json")
        return status.json if status.exit_code == 0 else {}

    def _role(self, agent: Agent) -> str | None:
        return self._state(agent).get("role")

    def _has_hit(self, target: str) -> bool:
        return any((fault.kind, fault.target) == (KILL, target) for fault in self.hit)

    # ---- the destination's QEMU has died ----

    def _decide_as_operator(self) -> None:
        state = self._state(self.here)
        if not self._has_hit(DESTINATION_QEMU) or "--keep here" not in (state.get("problem") or ""):
            super()._decide_as_operator()
            return
        assert state["role"] == "postcopy-source", state
        assert not qemu_pids(self.there.host, self.guest), "its process was said to be dead"
        self.scene.require_silence(self.guest)
        keep = "there" if self.injection.seed % 2 else "here"
        self.here.vmferry("resolve", self.guest.name, "--keep", keep).require()
        self._kept_here = keep == "here"

    def _check_reverted(self) -> None:
        """Its memory is that of the switchover, its disk and its connections are not: it is looked
        at, moved once, and ended."""
        pid = self.here.guest_pid(self.guest)
        assert self._copies() == [pid]
        self.scene.check_clean(pid)
        self._check_memory()
        self.here.migrate(self.guest, self.there, *self.NEXT_MOVE).require()
        self._check_memory()
        self._stop(self.there)
        self._replace()

    def _check_memory(self) -> None:
        with self.guest.control() as control:
            control.check()

    # ---- the source's QEMU has died ----

    def _lacks_pages_for_good(self) -> bool:
        if (not self._has_hit(SOURCE_QEMU) or self._state(self.here)
                or self._role(self.there) not in ("postcopy", "incoming")):
            return False
        before = outstanding_bytes(self.scene)
        time.sleep(STUCK_S)
        return self._role(self.there) == "postcopy" and outstanding_bytes(self.scene) == before > 0

    def _end_drained(self) -> None:
        assert "ended" in self._events(self.here), "the source does not say that it has died"
        self._drained = True
        self._stop(self.there)

    def _stop(self, agent: Agent) -> None:
        agent.vmferry("stop", self.guest.name).require()
        wait_until(lambda: not qemu_pids(agent.host, self.guest), "end of the guest", 15)

    # ---- the checks ----

    def _recovery_s(self, outcome: str, repaired_ms: float) -> float:
        return 0.0 if outcome == REVERTED else super()._recovery_s(outcome, repaired_ms)

    def _check_outcome(self, outcome: str, result) -> bool:
        if outcome == REVERTED:
            self._check_reverted()
            return False
        return super()._check_outcome(outcome, result)

    def _check_ended(self, result) -> None:
        if not self._drained:
            super()._check_ended(result)
            return
        wait_until(lambda: not any(self.guest.name in agent.guest_names()
                                   for agent in (self.here, self.there)), "it has ended", 15)
        self._replace()
