"""Access tokens: who may read, append or administer, kept as SHA-256 hashes in `data_dir/tokens.json`.

The text of a token is shown once, when it is made, and is nowhere afterwards. A token has 256 random
bits, so a plain SHA-256 is enough: there is nothing to guess. The server reads the file again when it
changes, so that `shoal tokens` needs no running server and no restart.

Each role includes the ones before it: `read` < `append` < `admin`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from shoal.errors import ConfigError, NotFound

Role = Literal["read", "append", "admin"]

TOKENS_FILE: Final = "tokens.json"
ROLES: Final[tuple[Role, ...]] = ("read", "append", "admin")
_PREFIX: Final = "shoal_"
_RANDOM_BYTES: Final = 32
_FORMAT: Final = 1


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token as kept: everything but its text.

    `streams` are wildcards on stream ids (`*` any run, `?` one character); empty means every stream.
    """

    id: str
    sha256: str
    role: Role
    name: str = ""
    streams: tuple[str, ...] = ()
    created_us: int = 0

    def grants(self, role: Role) -> bool:
        """Whether its role includes `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    tokens: list[Token]


def make_token(
    role: Role,
    *,
    name: str = "",
    streams: Sequence[str] = (),
    created_us: int = 0,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> tuple[str, Token]:
    """A new token: its text, to be shown once, and what is kept of it."""
    text = _PREFIX + random_bytes(_RANDOM_BYTES).hex()
    digest = _digest(text)
    return text, Token(digest[:12], digest, role, name, tuple(streams), created_us)


def check_sendable(text: str) -> None:
    """Raises ConfigError for a text that no HTTP header can carry, so that it can be no token."""
    if not (text.isascii() and text.isprintable()):
        raise ConfigError(
            "token", "it holds a character that cannot be sent; write it as `shoal tokens create` printed it"
        )


def find(tokens: Sequence[Token], text: str) -> Token | None:
    """The token of that text. Every digest is compared in full, so that time tells nothing."""
    digest = _digest(text)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.sha256, digest):
            found = token
    return found


class TokenFile:
    """`tokens.json` of a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / TOKENS_FILE
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def tokens(self) -> tuple[Token, ...]:
        """All tokens, read again if the file changed. Raises ConfigError when it cannot be used.

        A file that went bad while the server runs must not open the door: the error is for every caller.
        """
        seen = self._stamp()
        if seen != self._seen:
            self._tokens = self._read() if seen is not None else ()
            self._seen = seen
        return self._tokens

    def add(self, role: Role, *, name: str = "", streams: Sequence[str] = (), created_us: int = 0) -> str:
        """Make a token and keep its hash; the result is its text, which is not kept."""
        text, token = make_token(role, name=name, streams=streams, created_us=created_us)
        self._write((*self.tokens(), token))
        return text

    def remove(self, token_id: str) -> Token:
        """Take a token away. Raises NotFound."""
        tokens = self.tokens()
        for token in tokens:
            if token.id == token_id:
                self._write(tuple(kept for kept in tokens if kept is not token))
                return token
        raise NotFound(f"no token has the id {token_id!r}", token=token_id)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(str(error)) from error
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[Token, ...]:
        try:
            content = msgspec.json.decode(self.path.read_bytes(), type=_File)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._unusable(str(error)) from error
        if content.format != _FORMAT:
            raise self._unusable(f"it has format {content.format}, this release reads {_FORMAT}")
        return tuple(content.tokens)

    def _write(self, tokens: tuple[Token, ...]) -> None:
        """Replace the file in one step, readable by its owner alone."""
        content = msgspec.json.format(msgspec.json.encode(_File(_FORMAT, list(tokens))), indent=2)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{TOKENS_FILE}.{secrets.token_hex(4)}.new")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content + b"\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _unusable(self, detail: str) -> ConfigError:
        return ConfigError(TOKENS_FILE, f"{self.path} cannot be used, repair or remove it: {detail}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
