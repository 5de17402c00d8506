"""Request bodies: read within a size, a time and a memory budget, then decoded and checked.

Large ones are decoded beside the loop, one at a time: as Python values they are several times as large.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import msgspec
from aiohttp import web

from shoal.errors import BodyTooLarge, InvalidRequest, TooBusy, UnsupportedMediaType
from shoal.http import params
from shoal.http.negotiation import body_type
from shoal.http.problems import SlowBody
from shoal.model.payload import check_json, decode_cbor
from shoal.types import CBOR, Limits

T = TypeVar("T")
P = ParamSpec("P")

LARGE_BYTES: Final = 256 * 1024
"""A body beyond this keeps the loop for longer than others should wait: milliseconds."""

_BUDGET_BODIES: Final = 4
"""Bodies of the largest size that may be in memory at once, half-read ones included."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyReader:
    """Reads bodies for one server; together they never hold more than the budget."""

    def __init__(self, limits: Limits, timeout_s: float) -> None:
        self._limit = limits.body_bytes
        self._timeout_s = timeout_s
        self._budget = max(_BUDGET_BODIES * limits.body_bytes, 1)
        self._decoding = asyncio.Lock()

    async def beside(
        self, work: Callable[Concatenate[bytes, P], T], raw: bytes, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`work` on a large body, in a thread. Raises TooBusy when too many of them wait for it."""
        if len(raw) > self._budget:
            raise TooBusy("too many large bodies are being read at once, send this one again")
        self._budget -= len(raw)
        try:
            async with self._decoding:
                return await asyncio.to_thread(work, raw, *args, **kwargs)
        finally:
            self._budget += len(raw)

    async def read(self, request: web.BaseRequest) -> bytes:
        """The whole body. Raises BodyTooLarge, SlowBody, TooBusy, UnsupportedMediaType, InvalidRequest."""
        headers = request.headers
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("send the body without Content-Encoding", pointer="Content-Encoding")
        length = request.content_length
        if length is not None and length > self._limit:
            raise self._too_large(length)
        content = request.content
        if content.is_eof():
            body = content.read_nowait()
            if len(body) > self._limit:
                raise self._too_large(len(body))
            return body
        if headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(_CONTINUE)
            request.writer.output_size = 0  # the answer itself has not begun
        return await self._arriving(request)

    async def _arriving(self, request: web.BaseRequest) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                while chunk := await request.content.readany():
                    size += len(chunk)
                    self._budget -= len(chunk)
                    if size > self._limit:
                        raise self._too_large(size)
                    if self._budget < 0:
                        raise TooBusy("too many large bodies are arriving at once, send this one again")
                    chunks.append(chunk)
        except TimeoutError as error:
            raise SlowBody(f"the body did not arrive within {self._timeout_s:g} s") from error
        except RuntimeError as error:  # aiohttp's word for a client that left before the body was asked for
            raise ConnectionResetError("the client left before its body had arrived") from error
        except web.RequestPayloadError as error:
            raise InvalidRequest(f"the body is not valid HTTP: {error}") from error
        finally:
            self._budget += size
        return b"".join(chunks)

    def _too_large(self, size: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body has {size} bytes or more, {self._limit} are allowed", limit=self._limit
        )


def deeper(limits: Limits, levels: int) -> Limits:
    """Limits for a body that holds payloads `levels` deep."""
    return msgspec.structs.replace(limits, depth=limits.depth + levels)


def decode(raw: bytes, content_type: str | None, shape: type[T], limits: Limits) -> T:
    """A body as `shape`, from JSON or CBOR. Raises InvalidRequest with a pointer, UnsupportedMediaType."""
    if body_type(content_type) == CBOR:
        return convert(decode_cbor(raw, limits), shape)
    check_json(raw, limits)
    return decode_checked(raw, shape)


def decode_checked(raw: bytes, shape: type[T]) -> T:
    """JSON that `check_json` let through, as `shape`. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(raw, type=shape)
    except msgspec.ValidationError as error:
        raise params.refusal(error, shape) from error


def convert(value: Any, shape: type[T]) -> T:
    """A decoded value as `shape`. Raises InvalidRequest."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise params.refusal(error, shape) from error
