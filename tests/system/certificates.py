"""Certificates that `vmferry pki` would not make: those that expire at once."""

import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

CONFIG = """
[ca]
default_ca = ours
[ours]
dir = {work}
database = {work}/index
serial = {work}/serial
new_certs_dir = {work}
certificate = {ca}/ca.crt
private_key = {ca}/ca.key
default_md = sha256
policy = any
x509_extensions = host
unique_subject = no
[any]
commonName = supplied
[host]
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:{name}, IP:{address}
"""


def issue_until(ca: Path, name: str, address: str, seconds: float, folder: Path) -> Path:
    """A host's PKI folder whose certificate has been valid and ends *seconds* from now."""
    folder.mkdir()
    work = folder / "work"
    work.mkdir()
    (work / "index").touch()
    (work / "serial").write_text("1000\n")
    config = work / "openssl.cnf"
    config.write_text(CONFIG.format(work=work, ca=ca, name=name, address=address))
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-out", folder / "host.key")
    (folder / "host.key").chmod(0o600)
    _openssl("req", "-new", "-key", folder / "host.key", "-subj", f"/CN={name}",
             "-out", work / "host.csr")
    now = datetime.now(timezone.utc)
    _openssl("ca", "-batch", "-notext", "-config", config, "-in", work / "host.csr",
             "-out", folder / "host.crt", "-startdate", _stamp(now - timedelta(days=10)),
             "-enddate", _stamp(now + timedelta(seconds=seconds)))
    shutil.copy(ca / "ca.crt", folder)
    shutil.rmtree(work)
    return folder


def _stamp(time: datetime) -> str:
    return time.strftime("%Y%m%d%H%M%SZ")


def _openssl(*arguments) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
