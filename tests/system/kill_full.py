"""Carries an injection (kill_plan.py) out on a move at safety level `full`.

The death of the destination's QEMU while the guest's memory is split is survived: the source goes on
from the last epoch, and nobody outside hears of anything that it does not know.
"""

from __future__ import annotations

import threading
import time

from kill_campaign import Injector, _stands
from kill_plan import (DESTINATION_QEMU, ENDED, KILL, MOVED, SOURCE_QEMU, STAYED, TAKEN, Fault)
from kill_postcopy import PostcopyInjector
from vmferry_lab import Agent, LabError, qemu_pids, wait_until

ANSWER_S = 150    # the longest that a client waits for the guest
TAKEOVER_S = 60   # until a takeover comes by a fault point


class Talker:
    """A client that asks the guest how far it is, over and over on one connection: it never goes
    behind what it has said."""

    GROWS = ("written", "passes", "guest_ms", "disk_sequence")

    def __init__(self, guest):
        self._control = guest.control(ANSWER_S)
        self._last: dict[str, int] = {}
        self._answers = 0
        self._error: Exception | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _talk(self) -> None:
        try:
            while not self._done.wait(0.02):
                self._ask()
        except (OSError, LabError, ValueError) as error:
            self._error = error

    def _ask(self) -> None:
        word = f"echo {self._answers}"
        if (said := self._control.ask(word)) != word:
            raise LabError(f"the guest answers {said!r} to {word!r}")
        status = self._control.status()
        now = {key: int(status[key]) for key in self.GROWS}
        for key, before in self._last.items():
            if now[key] < before:
                raise LabError(f"the guest has gone back: {key} from {before} to {now[key]}")
        if int(status["errors"]) or int(status["disk_errors"]):
            raise LabError(f"the guest has found errors: {status}")
        self._last = now
        self._answers += 1

    def require(self) -> None:
        """LabError where the conversation does not go on."""
        before = self._answers
        wait_until(lambda: self._answers > before or self._error, "the guest answers", 30)
        self._raise()

    def finish(self) -> None:
        """LabError where the conversation has not gone on to the end."""
        self.require()
        self.close()
        self._raise()

    def _raise(self) -> None:
        if self._error:
            raise LabError(f"conversation with the guest: {self._error}")

    def close(self) -> None:
        self._done.set()
        self._thread.join(1)
        if self._thread.is_alive():  # the guest is no more
            self._control.interrupt()
            self._thread.join()
        self._control.close()


class FullInjector(PostcopyInjector):
    """One injection into one protected move of `scene.guest`."""

    RECOVERY_S = 90

    def _perform(self, record) -> None:
        self._talker = Talker(self.guest)
        try:
            super()._perform(record)
        finally:
            self._talker.close()

    # ---- the faults ----

    def _inject(self) -> None:
        moment = self.injection.moment
        if moment.behind is None:
            super()._inject()
            return
        if not self._await_split():
            return
        time.sleep(moment.behind)
        death = Fault(KILL, DESTINATION_QEMU, 0, 0)
        if not self._kill(death):
            return
        self.hit.append(death)
        super()._inject()

    def _await_point(self, agent: Agent) -> bool:
        if self.injection.moment.behind is None:
            return super()._await_point(agent)
        try:
            wait_until(lambda: _stands(agent.pid) or self._is_over(), "takeover", TAKEOVER_S)
        except LabError:
            pass  # it had all of its memory, which nobody could say any more
        return _stands(agent.pid)

    def _is_over(self) -> bool:
        """The guest had all of its memory before its QEMU died.  (Of the source's agent, which may
        stand still at any moment, nothing is asked.)"""
        return "whole" in self._events(self.there) and not self._copies()

    # ---- what came of it ----

    def _look(self, pid: int) -> str | None:
        if self._lacks_pages_for_good():
            self._end_drained()
            return ENDED
        copies = self._copies()
        if len(copies) == 1 and not self.scene.beats[self.guest.name].is_silent(0.2):
            return self._where(copies[0], pid)
        if not copies and self._may_have_ended():
            return ENDED
        return None

    def _where(self, found: int, pid: int) -> str | None:
        here = found in qemu_pids(self.here.host, self.guest)
        if self._role(self.here if here else self.there) != "ours":
            return None
        return MOVED if not here else STAYED if found == pid else TAKEN

    def _has_ended_whole(self) -> bool:
        return "whole" in self._events(self.there) or "moved" in self._events(self.here)

    def _check_outcome(self, outcome: str, result) -> bool:
        if outcome == ENDED and not self._drained and self._has_hit(DESTINATION_QEMU):
            assert self._has_ended_whole(), "LOST: its source has not taken over"
        if outcome == TAKEN:
            assert self._has_hit(DESTINATION_QEMU), "taken over from a destination that lives"
        if outcome != ENDED:
            self._talker.finish()
        return super()._check_outcome(outcome, result)

    def _check_ended(self, result) -> None:
        if self._has_hit(DESTINATION_QEMU):
            for agent in (self.here, self.there):
                wait_until(lambda agent=agent: self.guest.name not in agent.guest_names(),
                           f"{agent.host.name} knows that it has ended", 15)
            self._check_only_kept_left()
            self._replace()
            return
        super()._check_ended(result)
        self._check_only_kept_left()

    def _check_runs(self, outcome: str) -> None:
        if outcome == MOVED:
            self.scene.place[self.guest.name] = self.there
        self.scene.check(self.guest)
        self._check_nothing_left()
        super()._check_runs(outcome)

    def _check_only_kept_left(self) -> None:
        """Writes that were not part of the images yet stay, in files that an event names."""
        if "writes-kept" in self._events(self.there):
            told = next(event["text"] for event in reversed(self.there.events())
                        if event["type"] == "writes-kept")
            for file in (self.there.host.path("state") / "overlays").iterdir():
                assert str(file) in told, f"{file.name} is not told of: {told}"
                file.unlink()
        self._check_nothing_left()

    def _check_nothing_left(self) -> None:
        for agent in (self.here, self.there):
            try:
                wait_until(lambda agent=agent: not left_of_epochs(agent), "no file is left", 10)
            except LabError:
                raise AssertionError(f"left on {agent.host.name}: {left_of_epochs(agent)}") from None


def left_of_epochs(agent: Agent) -> list[str]:
    """Files in folders of the agent's state, but for what it notes of guests and transactions."""
    state = agent.host.path("state")
    return [str(path.relative_to(state)) for path in state.rglob("*")
            if path.parent != state and not path.is_dir() and path.suffix != ".json"]
