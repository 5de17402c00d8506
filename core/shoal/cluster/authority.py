"""A cluster's authority on disk: the certificates that nodes trust and the key that signs, and how both are replaced.

A directory with `ca.pem` and `ca-key.pem`: on the operator's machine, or in the directory of a node that is to enrol
others. The key is not encrypted: whoever may read the directory may sign. To replace an authority takes three steps,
between which `ca.pem` is brought to every node, so that at no time a node meets a certificate it does not trust:

    begin    a new authority is trusted beside the old one, which still signs
    switch   the new one signs, the old one is still trusted: every node gets a new certificate
    finish   the old one is trusted no more

Every call blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, NamedTuple

from shoal.cluster.certificates import (
    Authority,
    CertificateError,
    cluster_of,
    make_ca,
    root_of_key,
    roots,
)
from shoal.cluster.durable import move_durably, write_durably
from shoal.cluster.identity import CA_FILE
from shoal.errors import ConfigError

CA_KEY_FILE: Final = "ca-key.pem"
NEXT_CA_KEY_FILE: Final = "next-ca-key.pem"

Step = Literal["begin", "switch", "finish"]


class Authorities(NamedTuple):
    """What a directory holds: who signs, who is trusted (PEM), and which step of a replacement may come now."""

    signing: Authority
    ca_pem: bytes
    next_step: Step

    @property
    def cluster_id(self) -> str:
        """The cluster they sign for."""
        return cluster_of(self.ca_pem)


def create_authority(directory: Path, cluster_id: str) -> Authorities:
    """A new authority in a directory that has none. Raises ConfigError, OSError, CertificateError."""
    if (directory / CA_KEY_FILE).exists() or (directory / CA_FILE).exists():
        raise ConfigError("--ca-dir", f"{directory} holds an authority already: name another directory")
    made = make_ca(cluster_id)
    write_durably(directory / CA_KEY_FILE, made.key)
    write_durably(directory / CA_FILE, made.certificate, mode=0o644)
    return load_authority(directory)


def load_authority(directory: Path) -> Authorities:
    """The authority in `directory`. Raises ConfigError, which says what to do."""
    try:
        ca_pem = (directory / CA_FILE).read_bytes()
        key = (directory / CA_KEY_FILE).read_bytes()
        cluster_of(ca_pem)
        signing = Authority(root_of_key(ca_pem, key), key)
    except FileNotFoundError as error:
        advice = f"{directory} holds no key that signs: make an authority with `shoal ca init`, or name its directory"
        raise ConfigError("--ca-dir", advice) from error
    except (OSError, ValueError) as error:
        raise ConfigError("--ca-dir", f"the authority in {directory} cannot be used: {error}") from error
    return Authorities(signing, ca_pem, _next_step(directory, ca_pem))


def copy_authority(source: Path, target: Path) -> None:
    """Let a node's directory sign too. Raises ConfigError, OSError."""
    found = load_authority(source)
    write_durably(target / CA_FILE, found.ca_pem, mode=0o644)
    write_durably(target / CA_KEY_FILE, found.signing.key)


def rotate(directory: Path, step: Step) -> Authorities:
    """Take one step of replacing the authority. Raises ConfigError when another is due, OSError."""
    found = load_authority(directory)
    if step != found.next_step:
        raise ConfigError("STEP", f"after what was done to {directory}, the next step is {found.next_step!r}")
    if step == "begin":
        made = make_ca(found.cluster_id)
        write_durably(directory / NEXT_CA_KEY_FILE, made.key)
        write_durably(directory / CA_FILE, found.signing.certificate + made.certificate, mode=0o644)
    elif step == "switch":
        move_durably(directory / NEXT_CA_KEY_FILE, directory / CA_KEY_FILE)
    else:
        write_durably(directory / CA_FILE, found.signing.certificate, mode=0o644)
    return load_authority(directory)


def _next_step(directory: Path, ca_pem: bytes) -> Step:
    """Which files are there says what was done, so that a power cut between two of them is a step not taken."""
    if len(roots(ca_pem)) == 1:
        return "begin"
    try:
        root_of_key(ca_pem, (directory / NEXT_CA_KEY_FILE).read_bytes())
    except (FileNotFoundError, CertificateError):
        return "finish"
    return "switch"
