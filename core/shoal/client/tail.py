"""Following a store: server-sent events, resumed where they broke off."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from msgspec import structs

from shoal.client import wire
from shoal.client.boards import Board
from shoal.client.selections import filter_params, fits_parameters, stream_path
from shoal.client.sse import Message, Parser
from shoal.client.transport import Transport
from shoal.errors import ShoalError, Unreachable
from shoal.model.query import Matches, compile_filter
from shoal.types import CaughtUp, Event, EventFilter


class Tail:
    """One tail. It lasts until its consumer stops, or an error that trying again does not mend."""

    def __init__(
        self,
        transport: Transport,
        head: Callable[[], Awaitable[int]],
        selection: EventFilter,
        stream_id: str | None,
    ) -> None:
        self._transport = transport
        self._head = head
        self._path = "/events" if stream_id is None else stream_path(stream_id)
        self._params = _params(selection) if stream_id is None else {}
        self._matches = _matches(selection, stream_id)
        self._position = 0
        self._caught_up = False
        self._lost = False

    async def run(self, after: int | None) -> AsyncIterator[Event | CaughtUp]:
        """Events after position `after` (None: from now on), and CaughtUp once."""
        self._position = await self._head() if after is None else after
        options = self._transport.options
        connected, failures = False, 0
        while True:
            board = self._transport.boards.pick(options.clock.monotonic_ms())
            try:
                async with self._transport.listen(
                    board, self._path, self._params, str(self._position)
                ) as chunks:
                    connected = True
                    self._tell(None)
                    async for message in _messages(chunks):
                        failures = 0
                        item = self._take(message)
                        if item is not None:
                            yield item
                broken: ShoalError = Unreachable(f"{board.url} ended the stream")
            except ShoalError as error:
                if not error.retryable or (not connected and failures + 1 >= options.retry.attempts):
                    raise
                broken = error
            failures += 1
            if connected:
                self._tell(broken)
            await self._pause(board, failures)

    def _tell(self, broken: ShoalError | None) -> None:
        """Once when the board is lost, once when there is one again, however many tries lie between."""
        if self._lost is (broken is None):
            self._lost = broken is not None
            self._transport.options.on_tail(broken)

    async def _pause(self, board: Board, failures: int) -> None:
        """Leave the board alone for a while; another that is awake is asked at once."""
        options = self._transport.options
        now_ms = options.clock.monotonic_ms()
        self._transport.boards.failed(board, now_ms)
        if not self._transport.boards.fresh(now_ms, ()):
            await options.sleep(options.retry.pause_ms(failures, options.random) / 1000)

    def _take(self, message: Message) -> Event | CaughtUp | None:
        """What a message brings; None for one that brings nothing new."""
        if message.event == "caught-up":
            position = wire.decode(message.data, wire.CaughtUpAnswer).position
            self._position = max(self._position, position)
            if self._caught_up:
                return None
            self._caught_up = True
            return CaughtUp(position)
        if message.event != "message":
            return None
        event = wire.decode(message.data, wire.ReadEvent).event()
        if event.position <= self._position:
            return None
        self._position = event.position
        self._transport.saw(event.position)
        return (
            event
            if self._matches is None or self._matches(event.stream_id, event.event_type, event.tags)
            else None
        )


async def _messages(chunks: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    parser = Parser()
    async for chunk in chunks:
        for message in parser.feed(chunk):
            yield message


def _params(selection: EventFilter) -> dict[str, str]:
    """What the board can select; the rest is selected here."""
    if fits_parameters(selection):
        return filter_params(selection)
    return filter_params(EventFilter(stream_pattern=selection.stream_pattern, system=selection.system))


def _matches(selection: EventFilter, stream_id: str | None) -> Matches | None:
    """What is left to select here; None when all that comes is wanted."""
    if stream_id is None:
        return None if fits_parameters(selection) else compile_filter(selection)
    within = structs.replace(selection, system=True)
    return None if within == EventFilter(system=True) else compile_filter(within)
