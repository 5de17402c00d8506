"""One-time tokens with which a board without a certificate asks for one.

A token is the fingerprint of the authority, by which the board knows the cluster before it says anything, and a secret,
by which the cluster knows the board. Only the secret's SHA-256 is kept, in `join-tokens.json` beside the key that
signs; it has 128 random bits, so there is nothing to guess.

Boards have no clock. A token's time is the running time of what answers for it: each minute is taken from its life
before it begins, so no restart adds any. Where the clock is known to be right it counts too; the first to end it does.

One-time means for one key of one node: the same board may ask again when an answer was lost, no other ever.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from shoal.cluster.durable import write_durably
from shoal.errors import ConfigError, EnrolmentRefused, NotFound

TOKENS_FILE: Final = "join-tokens.json"
TOKENS_MAX: Final = 64
LIFETIME_S: Final = 3600
LIFETIME_S_MAX: Final = 7 * 86_400
SECRET_BYTES: Final = 16
TEXT_CHARS_MAX: Final = 256

_PREFIX: Final = "shoaljoin-1-"
_FINGERPRINT_BYTES: Final = 32
_CHECK_BYTES: Final = 3
_FORMAT: Final = 1


class JoinToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token as kept. `node_id` is whom it is for, empty for any; the `used_` fields, who has used it."""

    id: str
    sha256: str
    node_id: str
    lifetime_s: int
    left_s: int
    created_us: int
    used_node_id: str = ""
    used_key_hash: str = ""

    def lives(self, wall_us: int | None) -> bool:
        """Whether it can be used; `wall_us` is the time where it is known."""
        return self.left_s > 0 and (
            wall_us is None or wall_us < self.created_us + self.lifetime_s * 1_000_000
        )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    tokens: tuple[JoinToken, ...]


class TokenText(NamedTuple):
    """What a token says."""

    fingerprint: bytes
    secret: bytes

    def __repr__(self) -> str:
        """Without the secret, for logs."""
        return f"TokenText({self.fingerprint.hex()}, ***)"


def write_token(text: TokenText) -> str:
    """A token as a person passes it on: one word of letters, digits, `-` and `_`."""
    content = text.fingerprint + text.secret
    return _PREFIX + base64.urlsafe_b64encode(content + _check(content)).decode()


def read_token(text: str) -> TokenText:
    """Inverse of `write_token`. Raises ConfigError, which never shows the text."""
    text = text.strip()
    try:
        if len(text) > TEXT_CHARS_MAX or not text.startswith(_PREFIX):
            raise ValueError
        raw = base64.b64decode(text.removeprefix(_PREFIX).encode("ascii"), altchars=b"-_", validate=True)
    except ValueError:
        raise ConfigError("token", "it is no join token; write it as `shoal ca token` printed it") from None
    content, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if len(content) != _FINGERPRINT_BYTES + SECRET_BYTES or check != _check(content):
        raise ConfigError("token", "it is cut short or mistyped; write it as `shoal ca token` printed it")
    return TokenText(content[:_FINGERPRINT_BYTES], content[_FINGERPRINT_BYTES:])


class JoinTokens:
    """`join-tokens.json` of a directory. Every call blocks, and raises ConfigError for a file that cannot be used."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / TOKENS_FILE

    def tokens(self) -> tuple[JoinToken, ...]:
        """All tokens, also those that are used."""
        try:
            content = msgspec.json.decode(self.path.read_bytes(), type=_File)
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._unusable(str(error)) from error
        if content.format != _FORMAT:
            raise self._unusable(f"it has format {content.format}, this release reads {_FORMAT}")
        return content.tokens

    def add(
        self,
        node_id: str = "",
        *,
        lifetime_s: int = LIFETIME_S,
        created_us: int,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> tuple[bytes, JoinToken]:
        """Make a token: its secret, which is not kept, and what is. Raises ConfigError when there are too many."""
        secret = random_bytes(SECRET_BYTES)
        digest = _digest(secret)
        made = JoinToken(digest[:12], digest, node_id, lifetime_s, lifetime_s, created_us)
        with self._changing() as tokens:
            if len(tokens) >= TOKENS_MAX:
                raise ConfigError(
                    "token", f"there are {len(tokens)} join tokens: revoke some, or let them expire"
                )
            tokens.append(made)
        return secret, made

    def revoke(self, token_id: str) -> JoinToken:
        """Take a token away. Raises NotFound."""
        with self._changing() as tokens:
            for token in tokens:
                if token.id == token_id:
                    tokens.remove(token)
                    return token
        raise NotFound(f"no join token has the id {token_id!r}", token=token_id)

    def age(self, seconds: int, wall_us: int | None) -> None:
        """Take time from each, and drop those whose time is over."""
        if not self.tokens():
            return  # nothing is written while there are none
        with self._changing() as tokens:
            tokens[:] = [
                msgspec.structs.replace(token, left_s=token.left_s - seconds)
                for token in tokens
                if token.lives(wall_us)
            ]

    def find(self, secret: bytes, wall_us: int | None) -> JoinToken:
        """The token of that secret. Raises EnrolmentRefused. All are compared in full, so that time tells nothing."""
        digest, found = _digest(secret), None
        for token in self.tokens():
            if hmac.compare_digest(token.sha256, digest) and token.lives(wall_us):
                found = token
        if found is None:
            raise EnrolmentRefused(_UNKNOWN, reason="unknown-token")
        return found

    def redeem(self, secret: bytes, node_id: str, key_hash: bytes, wall_us: int | None) -> JoinToken:
        """Use a token for this key of this node: durably, before anything is signed. Raises EnrolmentRefused."""
        key = key_hash.hex()
        with self._changing() as tokens:
            token = self.find(secret, wall_us)
            if token.node_id not in {"", node_id}:
                raise EnrolmentRefused(_OTHER_NODE.format(token.node_id, node_id), reason="other-node")
            if token.used_key_hash and (token.used_node_id, token.used_key_hash) != (node_id, key):
                raise EnrolmentRefused(_USED.format(token.id, token.used_node_id), reason="used-token")
            used = msgspec.structs.replace(token, used_node_id=node_id, used_key_hash=key)
            tokens[tokens.index(token)] = used
        return used

    @contextmanager
    def _changing(self) -> Iterator[list[JoinToken]]:
        """The tokens, to be changed; written if they were and nothing was raised. No other process is between."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unusable(str(error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            before = self.tokens()
            tokens = list(before)
            yield tokens
            if tuple(tokens) != before:
                content = msgspec.json.encode(_File(_FORMAT, tuple(tokens)))
                write_durably(self.path, msgspec.json.format(content, indent=2) + b"\n")
        except OSError as error:
            raise self._unusable(str(error)) from error
        finally:
            os.close(descriptor)

    def _unusable(self, detail: str) -> ConfigError:
        return ConfigError(TOKENS_FILE, f"{self.path} cannot be used, repair or remove it: {detail}")


_UNKNOWN: Final = (
    "the join token is not known here: it expired, was revoked, or was made elsewhere; "
    "make one with `shoal ca token`"
)
_OTHER_NODE: Final = (
    "the join token is for node {!r}, not for {!r}: use that node id, or make a token for this one"
)
_USED: Final = "join token {} was used by node {!r} with another key: make a new one with `shoal ca token`"


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _check(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_CHECK_BYTES]
