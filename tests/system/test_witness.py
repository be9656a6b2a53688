"""The witness: three agents, of which two ask the third who may go on (docs/witness.md)."""

import json
import os
import secrets
import select
import subprocess
import time

import pytest

from vmferry_lab import REPOSITORY, LabError

LEASE_MS = 1000
# What the witness counts it as: 1 % and 50 ms more.
COUNTED_MS = 1060
TRANSACTION = secrets.token_hex(16)
ANSWER_S = 30


class Side:
    """Asks the witness as the agent of a host does, by its certificate and id."""

    def __init__(self, host, pki, agent_id, witness):
        tool = os.environ.get("VMFERRY_WITNESS_TOOL",
                              REPOSITORY / "build/tests/system/witness_tool")
        self.popen = subprocess.Popen(
            host.namespace.wrap([str(tool), witness, str(pki.folder(host.name)), agent_id]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, *words):
        print(words[0], TRANSACTION, *words[1:], file=self.popen.stdin)
        if not select.select([self.popen.stdout], [], [], ANSWER_S)[0]:
            raise LabError(f"no answer to {words}")
        return json.loads(self.popen.stdout.readline())

    def do(self, *words):
        answer = self.ask(*words)
        assert "code" not in answer, answer
        return answer

    def refused(self, code, *words):
        answer = self.ask(*words)
        assert answer.get("code") == code and answer["answered"], answer
        return answer

    def close(self):
        self.popen.kill()
        self.popen.wait()


@pytest.fixture
def trio(lab, make_agent, pki):
    """The witness's agent, and how the other two hosts ask it."""
    agents = [make_agent(host).start() for host in (lab.host_a, lab.host_b, lab.third_host())]
    ids = [agent.host.path("state/agent-id").read_text().strip() for agent in agents]
    sides = []

    def side(host, agent_id):
        sides.append(Side(host, pki, agent_id, agents[2].address))
        return sides[-1]
    yield agents, ids, side
    for one in sides:
        one.close()


def crash(agent):
    agent.kill()
    agent.start()


def claim_when_told(source):
    """The wait is what it was told to be: not granted before, and then granted."""
    begun = time.monotonic()
    waits = []
    while (answer := source.ask("claim")).get("code") == "busy":
        assert 0 < answer["wait_ms"] <= COUNTED_MS
        waits.append(answer["wait_ms"])
        time.sleep(answer["wait_ms"] / 1000)
    assert "code" not in answer and answer["state"] == "source-may-take-over", answer
    assert waits and (time.monotonic() - begun) * 1000 >= waits[0]


def test_the_rules_hold_across_crashes(lab, trio):
    (_, _, witness), ids, side = trio
    source, destination = side(lab.host_a, ids[0]), side(lab.host_b, ids[1])
    source.do("register", ids[1], "hostB", LEASE_MS)

    # It does not know what it had granted.
    assert destination.do("renew")["lease"]
    crash(witness)
    assert destination.ask("ask")["state"] == "undecided"
    source.refused("busy", "claim")
    destination.do("renew")

    # The destination is cut off: its lease ends, and only then the source is told that it may.
    lab.link.cut("hostB")
    claim_when_told(source)
    lab.link.restore()
    assert not destination.refused("refused", "renew")["lease"]
    destination.refused("refused", "claim")

    # That holds, and is taken back by the source only.
    crash(witness)
    assert destination.refused("refused", "renew")["state"] == "source-may-take-over"
    destination.refused("refused", "give-back")
    source.do("give-back")
    assert destination.do("renew")["lease"]

    # The other way round: for good.
    destination.do("claim")
    crash(witness)
    assert source.refused("refused", "claim")["state"] == "destination-alone"
    destination.do("forget")
    source.refused("not-found", "claim")


@pytest.mark.long
def test_who_may_speak(lab, trio, pki):
    _, ids, side = trio
    source, destination = side(lab.host_a, ids[0]), side(lab.host_b, ids[1])
    source.refused("refused", "register", ids[2], "hostC", LEASE_MS)  # the witness itself
    source.do("register", ids[1], "hostB", LEASE_MS)
    side(lab.host_b, ids[2]).refused("not-found", "claim")
    # Its id is no secret, its certificate is.
    answer = side(lab.host_a, ids[1]).refused("refused", "claim")
    assert "certificate" in answer["message"]
    assert destination.do("renew")["lease"]


@pytest.mark.long
def test_a_witness_that_hangs(lab, trio):
    """Its silence is no consent."""
    (_, _, witness), ids, side = trio
    source, destination = side(lab.host_a, ids[0]), side(lab.host_b, ids[1])
    source.do("register", ids[1], "hostB", LEASE_MS)
    destination.do("renew")
    witness.freeze()
    for who, words in ((source, "give-back"), (source, "claim"), (destination, "claim")):
        answer = who.ask(words)
        assert not answer["answered"] and answer["code"] in ("timeout", "disconnected"), answer
    witness.thaw()
    # One that was not answered may be on record all the same: asked again, it is answered.
    assert destination.do("claim")["state"] == "destination-alone"
    source.refused("refused", "claim")
