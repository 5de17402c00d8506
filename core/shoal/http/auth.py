"""Who may do what: bearer tokens, roles, stream patterns."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, Protocol

import msgspec

from shoal.errors import Forbidden, InvalidRequest, ShoalError, Unauthorized
from shoal.tokens import Role, Token, find
from shoal.wildcard import compile_wildcard

_log = logging.getLogger(__name__)

ACCESS: Final = "Shoal-Access"
"""The header in which a member says what the caller of a request that it passes on may touch."""
WATCH_S: Final = 1.0
"""How often an open tail looks whether its token is still there."""
FRESH_S: Final = 0.25
"""How long a look at the tokens counts: a revoked one is refused that much later at most."""
NEW_S: Final = 0.02
"""How long one counts for a token that it did not find: it may have been made since."""


class Tokens(Protocol):
    """Where the tokens are."""

    def tokens(self) -> Sequence[Token]:
        """All tokens, as they stand now."""


class Access:
    """What one call may touch: all streams, or those that a token's patterns match."""

    __slots__ = ("passed", "patterns", "token_id")

    def __init__(
        self, patterns: tuple[str, ...] = (), token_id: str | None = None, *, passed: bool = False
    ) -> None:
        self.patterns = patterns
        self.token_id = token_id
        self.passed = passed
        """Another member let the caller in, and watches over its token."""

    def allows(self, stream_id: str) -> bool:
        """Whether the token is for this stream."""
        return not self.patterns or any(matches(stream_id) for matches in _predicates(self.patterns))

    def check(self, stream_id: str) -> None:
        """Raises Forbidden when the token is not for this stream."""
        if not self.allows(stream_id):
            raise Forbidden(
                f"the token is for the streams {', '.join(self.patterns)}, not for {stream_id!r}",
                stream_id=stream_id,
            )

    def check_unlimited(self, what: str) -> None:
        """Raises Forbidden when the token is for some streams only."""
        if self.patterns:
            raise Forbidden(
                f"{what} needs a token for all streams, this one is for {', '.join(self.patterns)}"
            )

    def confine(self, pattern: str | None, parameter: str = "stream_pattern") -> str | None:
        """The stream pattern for a read over all streams: within one of the token's own.

        Without `pattern`, the token's pattern that covers all its others. Raises Forbidden, saying which
        `parameter` to send.
        """
        if not self.patterns:
            return pattern
        wanted = self.patterns if pattern is None else (pattern,)
        for own in self.patterns:
            if all(_within(each, own) for each in wanted):
                return own if pattern is None else pattern
        raise Forbidden(
            f"the token reads across streams within one of its patterns at a time: send {parameter}= with one of "
            f"{', '.join(self.patterns)}, or with a narrower pattern"
        )

    def covering(self, prefix: str) -> str | None:
        """The token's pattern within which every stream lies whose id begins with `prefix`, if there is one."""
        return next((own for own in self.patterns if _within(f"{prefix}*", own)), None)


EVERYTHING: Final = Access()


class Door:
    """Lets calls in. Without any token everybody may do everything, unless the board `needs_tokens`: then nobody.

    A board that others reach needs them, also when the last one is revoked while it runs. The file is looked
    at again when a call comes and the last look is older than `FRESH_S`: an idle board sleeps.
    """

    def __init__(
        self, tokens: Tokens, now_s: Callable[[], float] = time.monotonic, *, needs_tokens: bool = False
    ) -> None:
        self._source = tokens
        self._needs_tokens = needs_tokens
        self._now_s = now_s
        self._looked_at = float("-inf")
        self._tokens: Sequence[Token] = ()
        self._looked = False
        self._looking: asyncio.Future[None] | None = None
        self._closed: ShoalError | None = None

    async def enter(self, role: Role, authorization: str | None) -> Access:
        """As `admit`, by the tokens that there are now."""
        if self.stale:
            await self.look()
        try:
            return self.admit(role, authorization)
        except Unauthorized:
            if authorization is None or self._now_s() - self._looked_at <= NEW_S:
                raise
        await self.look()
        return self.admit(role, authorization)

    def admit(self, role: Role, authorization: str | None) -> Access:
        """What the bearer may touch, by the last look. Raises Unauthorized, Forbidden; ConfigError for a bad file."""
        if self._closed is not None:
            raise self._closed
        if self._open:
            return EVERYTHING
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise Unauthorized("send a token: `Authorization: Bearer ...` (`shoal tokens create` makes one)")
        token = find(self._tokens, text.strip())
        if token is None:
            raise Unauthorized("the token is not known here, or was revoked")
        if not token.grants(role):
            raise Forbidden(f"this needs the role {role}, the token has {token.role}")
        return Access(token.streams, token.id)

    @property
    def _open(self) -> bool:
        return not self._tokens and not self._needs_tokens

    @property
    def stale(self) -> bool:
        """Whether there was no look yet, or the last one is too old."""
        return not self._looked or self._now_s() - self._looked_at > FRESH_S

    async def look(self) -> None:
        """See which tokens there are now: once for all who ask meanwhile, and none is judged by those of before."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        began_at = self._now_s()
        try:
            self._tokens = await asyncio.to_thread(self._source.tokens)
            self._closed = None
        except ShoalError as error:
            if self._closed is None:
                _log.error("%s; until then nobody gets in", error)
            self._closed = error
        finally:
            self._looking = None
        self._looked, self._looked_at = True, began_at

    async def revoked(self, access: Access) -> None:
        """Until what an earlier `admit` gave holds no more."""
        while await self.still_open(access):  # noqa: ASYNC110 - a file tells nobody that it changed
            await asyncio.sleep(WATCH_S)

    async def still_open(self, access: Access) -> bool:
        """Whether what an earlier `admit` gave still holds; what another member gave is that member's to end."""
        if access.passed:
            return True
        if self.stale:
            await self.look()
        if self._closed is not None:
            return False
        if access.token_id is None:
            return self._open
        return any(token.id == access.token_id for token in self._tokens)


def _within(pattern: str, own: str) -> bool:
    """Whether `own` surely matches every stream that `pattern` matches.

    Read as a text, `pattern` has its wildcards where `own` has them too: a `*` of `own` takes any run, wildcards
    included, and its other characters take only themselves. A `?` of `own` could take a `*`, which stands for more.
    """
    if "?" in own and "*" in pattern:
        return pattern == own
    return compile_wildcard(own)(pattern)


@lru_cache(maxsize=64)
def _predicates(patterns: tuple[str, ...]) -> tuple[Callable[[str], bool], ...]:
    return tuple(compile_wildcard(pattern) for pattern in patterns)


class _Passed(msgspec.Struct, frozen=True, array_like=True):
    patterns: tuple[str, ...]


def encode_access(access: Access) -> str:
    """What a caller may touch, as a header's value."""
    return base64.b64encode(msgspec.json.encode(_Passed(access.patterns))).decode()


def decode_access(text: str) -> Access:
    """The inverse; the token itself stays where it came in, which watches over it. Raises InvalidRequest."""
    try:
        sent = msgspec.json.decode(base64.b64decode(text, validate=True), type=_Passed)
    except ValueError as error:
        raise InvalidRequest(f"{ACCESS} is not what a member sends", pointer=ACCESS) from error
    return Access(sent.patterns, passed=True)
