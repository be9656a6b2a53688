"""Peers whose certificates are wrong: they get no further than the TLS handshake."""

import ssl
import subprocess

import pytest

from certificates import issue_until
from findings import check_failed
from test_handover import move_until, wait_in_doubt
from trouble import Peer
from vmferry_lab import Pki, qemu_pids, wait_until

HOSTS = {"hostA": "10.66.0.1", "hostB": "10.66.0.2"}


@pytest.fixture(scope="module")
def other_pki(tmp_path_factory):
    """Certificates for the same hosts by a CA that nobody else knows."""
    return Pki(tmp_path_factory.mktemp("other-pki"), HOSTS)


def refuse(scene, *words) -> None:
    """The move is refused with these words, and the guest does not notice."""
    before = last_event(scene.there(scene.guest))
    check_failed(scene.migrate(scene.guest), *words)
    scene.check(scene.guest)
    assert last_event(scene.there(scene.guest)) == before  # not even "receiving"


def last_event(agent) -> int:
    return agent.vmferry("status", "--json").require().json["last_event"]


def test_other_ca_there(shared, other_pki):
    there = shared.there(shared.guest)
    with shared.changed(there, settings={"pki": other_pki.folder(there.host.name)}):
        refuse(shared, "certificate", "CA")
    shared.move(shared.guest)


@pytest.mark.long
def test_other_ca_here(shared, other_pki):
    """A stranger with a certificate of its own CA is kept out."""
    here = shared.here(shared.guest)
    with shared.changed(here, settings={"pki": other_pki.folder(here.host.name)}):
        refuse(shared, "certificate", "CA")
    shared.move(shared.guest)


def test_name_that_is_not_in_the_certificate(shared, pki):
    """Host B answers with the certificate of host A."""
    here, there = shared.here(shared.guest), shared.there(shared.guest)
    with shared.changed(there, settings={"pki": pki.folder(here.host.name)}):
        refuse(shared, there.address, "not for")
    shared.move(shared.guest)


def test_expired_there(shared, pki, tmp_path):
    """A certificate that ended long ago, in the hands of somebody who does not care."""
    there = shared.there(shared.guest)
    folder = issue_until(pki.directory / "ca", there.host.name, there.address, -3600,
                         tmp_path / "expired")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "host.crt", folder / "host.key")

    def answer(connection):
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(4096)

    with Peer(there.host, 4748, answer) as peer:
        result = shared.here(shared.guest).migrate(shared.guest, peer.address)
    check_failed(result, "expired", "vmferry pki issue")
    shared.check(shared.guest)
    shared.move(shared.guest)


def is_past(pki_folder) -> bool:
    return subprocess.run(["openssl", "x509", "-checkend", "0", "-noout", "-in",
                           pki_folder / "host.crt"], capture_output=True).returncode != 0


def test_expired_here_while_the_agent_runs(shared, pki, tmp_path):
    here = shared.here(shared.guest)
    folder = issue_until(pki.directory / "ca", here.host.name, here.address, 4, tmp_path / "short")
    with shared.changed(here, settings={"pki": folder}):
        wait_until(lambda: is_past(folder), "the certificate ends", 10)
        refuse(shared, "expired")
    shared.move(shared.guest)


def renew(pki, agent, folder, tmp_path) -> None:
    """The certificate is replaced while the agent runs."""
    fresh = issue_until(pki.directory / "ca", agent.host.name, agent.address, 3600,
                        tmp_path / "fresh")
    for name in ("host.crt", "host.key"):
        (fresh / name).rename(folder / name)


def test_renewed_while_the_agent_runs(shared, pki, tmp_path):
    """It is told in time that it ends; the new one counts without a restart, on both sides."""
    here = shared.here(shared.guest)
    folder = issue_until(pki.directory / "ca", here.host.name, here.address, 6, tmp_path / "short")
    with shared.changed(here, settings={"pki": folder}):
        assert "vmferry pki issue" in here.vmferry("events").require().stdout
        wait_until(lambda: is_past(folder), "the certificate ends", 12)
        refuse(shared, "expired")
        renew(pki, here, folder, tmp_path)
        shared.move(shared.guest)
        shared.move(shared.guest)


@pytest.mark.long
def test_doubt_is_settled_once_the_certificate_is_renewed(shared, pki, tmp_path):
    scene, here = shared, shared.here(shared.guest)
    there = scene.there(scene.guest)
    folder = issue_until(pki.directory / "ca", here.host.name, here.address, 40,
                         tmp_path / "short")
    with shared.changed(here, settings={"pki": folder}):
        move = move_until(scene, here, "source.before-start")
        scene.lab.link.cut()
        here.thaw()
        wait_in_doubt(scene, move)
        wait_until(lambda: not qemu_pids(there.host, scene.guest), "the destination gives up", 15)
        wait_until(lambda: is_past(folder), "the certificate ends", 45)
        scene.lab.link.restore()
        wait_until(lambda: "expired" in here.status(scene.guest)["problem"], "it is told", 40)
        scene.require_silence(scene.guest)
        renew(pki, here, folder, tmp_path)
        wait_until(lambda: not scene.beats[scene.guest.name].is_silent(0.1), "guest goes on", 60)
    scene.check(scene.guest)
    scene.move(scene.guest, "--verify")


def test_agent_does_not_start_with_an_expired_certificate(lab, pki, tmp_path, make_agent):
    folder = issue_until(pki.directory / "ca", "hostA", "10.66.0.1", -60, tmp_path / "expired")
    agent = make_agent(lab.host_a, pki=folder)
    with pytest.raises(Exception, match="expired"):
        agent.start()


def test_agent_does_not_start_without_certificates(lab, tmp_path, make_agent):
    agent = make_agent(lab.host_a, pki=tmp_path / "none")
    with pytest.raises(Exception, match="vmferry pki"):
        agent.start()


def test_agent_does_not_start_with_a_key_that_others_can_read(lab, pki, tmp_path, make_agent):
    folder = issue_until(pki.directory / "ca", "hostA", "10.66.0.1", 3600, tmp_path / "open")
    (folder / "host.key").chmod(0o644)
    agent = make_agent(lab.host_a, pki=folder)
    with pytest.raises(Exception, match="host.key"):
        agent.start()
