"""Enrolment over real TLS on loopback: a board without a certificate gets one, and who must get none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from enrolment_kit import Asker, Desk, desk, make_token
from peer_kit import Reef, until

from shoal.cluster import enroller as enroller_module
from shoal.cluster.certificates import CertificateError, make_ca, make_key, make_request, subject_of
from shoal.cluster.enroller import AGE_S
from shoal.cluster.enrolment import enrol, enrol_at_first_start
from shoal.cluster.enrolment_words import TURN_S, WORD_BYTES_MAX, Denied, Enrolled, Join, Offer, hear, say
from shoal.cluster.frames import Word, encode, pack
from shoal.cluster.identity import CERTIFICATE_FILE, KEY_FILE, joining_context, load_identity, node_key
from shoal.cluster.join_tokens import JoinTokens, TokenText, read_token, write_token
from shoal.errors import ConfigError, EnrolmentRefused, Unreachable


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(tmp_path / "desk") as made:
        yield made


async def token_of(issuer: Desk, *arguments: Any, **options: Any) -> str:
    return await asyncio.to_thread(issuer.token, *arguments, **options)


async def refusal(issuer: Desk, token: str, directory: Path, node_id: str = "board") -> EnrolmentRefused:
    with pytest.raises(EnrolmentRefused) as caught:
        await enrol([issuer.address], token, directory, node_id)
    assert not (directory / CERTIFICATE_FILE).exists()
    return caught.value


# -- who gets a certificate ----------------------------------------------------------------------


async def test_a_board_with_a_token_gets_its_identity_and_can_talk_as_a_member(
    issuer: Desk, tmp_path: Path
) -> None:
    token = await token_of(issuer)
    subject = await enrol([issuer.address], token, tmp_path / "new", "board")
    identity = await asyncio.to_thread(load_identity, tmp_path / "new")
    assert (
        (subject.cluster_id, subject.node_id) == (identity.cluster_id, identity.node_id) == ("reef", "board")
    )
    assert (tmp_path / "new" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    reef = Reef(tmp_path / "reef")
    board = await reef.node("board", identity)
    try:
        board.admit(issuer.node)
        issuer.node.admit(board)
        board.dial(issuer.node)
        await until(lambda: board.transport.connected("desk"))
    finally:
        await reef.close()


async def test_an_enrolled_board_is_no_member_yet(issuer: Desk, tmp_path: Path) -> None:
    await enrol([issuer.address], await token_of(issuer), tmp_path / "new", "board")
    reef = Reef(tmp_path / "reef")
    board = await reef.node("board", await asyncio.to_thread(load_identity, tmp_path / "new"))
    try:
        board.admit(issuer.node)
        board.dial(issuer.node)
        await until(lambda: issuer.node.seen and len(board.sleeps.waiting) == 3)
        assert not board.transport.connected("desk")
    finally:
        await reef.close()


async def test_without_a_name_a_board_is_named_after_its_key(issuer: Desk, tmp_path: Path) -> None:
    subject = await enrol([issuer.address], await token_of(issuer), tmp_path / "new")
    assert subject.node_id == f"board-{subject.key_hash.hex()[:12]}"


async def test_the_first_address_that_answers_is_enough(issuer: Desk, tmp_path: Path) -> None:
    addresses = ["127.0.0.1:1", "no address", issuer.address]
    assert (await enrol(addresses, await token_of(issuer), tmp_path / "new", "board")).node_id == "board"


async def test_the_same_board_may_ask_again_when_the_answer_was_lost(issuer: Desk, tmp_path: Path) -> None:
    token = await token_of(issuer)
    await enrol([issuer.address], token, tmp_path / "new", "board")
    (tmp_path / "new" / CERTIFICATE_FILE).unlink()  # as if power had been cut before it was written
    assert (await enrol([issuer.address], token, tmp_path / "new", "board")).node_id == "board"


# -- who does not ----------------------------------------------------------------------------------


async def test_a_used_token_is_no_token_for_another_key(issuer: Desk, tmp_path: Path) -> None:
    token = await token_of(issuer)
    await enrol([issuer.address], token, tmp_path / "first", "board")
    error = await refusal(issuer, token, tmp_path / "second")
    assert error.reason == "used-token"
    assert "used by node 'board'" in str(error)


async def test_a_used_token_is_no_token_for_another_name_of_the_same_key(
    issuer: Desk, tmp_path: Path
) -> None:
    token = await token_of(issuer)
    await enrol([issuer.address], token, tmp_path / "new", "board")
    (tmp_path / "new" / CERTIFICATE_FILE).unlink()
    assert (await refusal(issuer, token, tmp_path / "new", "other")).reason == "used-token"


async def test_of_two_boards_at_once_with_one_token_one_is_enrolled(issuer: Desk, tmp_path: Path) -> None:
    token = await token_of(issuer)
    tries = [enrol([issuer.address], token, tmp_path / name, name) for name in ("one", "two")]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["EnrolmentRefused", "Subject"]


async def test_a_token_for_another_node_is_refused(issuer: Desk, tmp_path: Path) -> None:
    token = await token_of(issuer, "kitchen")
    assert (await refusal(issuer, token, tmp_path / "new")).reason == "other-node"
    assert (await enrol([issuer.address], token, tmp_path / "new", "kitchen")).node_id == "kitchen"


async def test_a_revoked_token_is_refused(issuer: Desk, tmp_path: Path) -> None:
    token = await token_of(issuer)
    tokens = JoinTokens(issuer.directory)
    (kept,) = await asyncio.to_thread(tokens.tokens)
    await asyncio.to_thread(tokens.revoke, kept.id)
    assert (await refusal(issuer, token, tmp_path / "new")).reason == "unknown-token"


async def test_a_token_expires_by_running_time_where_no_clock_is_right(issuer: Desk, tmp_path: Path) -> None:
    issuer.clock.set_wall(0, "unknown")
    token = await token_of(issuer, lifetime_s=5 * AGE_S, created_us=0)
    for _ in range(5):
        assert (await asyncio.to_thread(JoinTokens(issuer.directory).tokens))[0].lives(None)
        await pass_a_minute(issuer)
    assert (await refusal(issuer, token, tmp_path / "new")).reason == "unknown-token"


async def test_a_token_expires_by_the_clock_where_it_is_right(issuer: Desk, tmp_path: Path) -> None:
    token = await token_of(issuer)
    issuer.clock.advance(3600 * 1000)
    assert (await refusal(issuer, token, tmp_path / "new")).reason == "unknown-token"


async def pass_a_minute(issuer: Desk) -> None:
    def left() -> int:
        return JoinTokens(issuer.directory).tokens()[0].left_s

    before = await asyncio.to_thread(left)
    await until(lambda: any(seconds == AGE_S for seconds, _ in issuer.sleeps.waiting))
    issuer.sleeps.end(lambda seconds: seconds == AGE_S)
    await until(lambda: any(seconds == AGE_S for seconds, _ in issuer.sleeps.waiting))
    assert await asyncio.to_thread(left) == before - AGE_S


async def test_the_name_of_a_member_needs_a_token_for_that_very_name(issuer: Desk, tmp_path: Path) -> None:
    issuer.members["board"] = b"the member's key"
    assert (await refusal(issuer, await token_of(issuer), tmp_path / "new")).reason == "taken"
    token = await token_of(issuer, "board")
    assert (await enrol([issuer.address], token, tmp_path / "new", "board")).node_id == "board"


async def test_a_removed_node_needs_a_token_as_a_stranger_does(issuer: Desk, tmp_path: Path) -> None:
    """Its certificate is of the authority still; at this door it counts for nothing."""
    await enrol([issuer.address], await token_of(issuer), tmp_path / "removed", "board")
    identity = await asyncio.to_thread(load_identity, tmp_path / "removed")
    context = identity.dial
    context.set_alpn_protocols(["shoal-enrol/1"])
    request = await asyncio.to_thread(lambda: make_request("board", node_key(tmp_path / "removed")))
    answer = await asked(issuer, Join(b"x" * 16, "board", request), context)
    assert isinstance(answer, Denied)
    assert answer.reason == "unknown-token"


async def asked(issuer: Desk, join: Join, context: Any = None) -> Any:
    """The answer to a join that a test made by hand."""
    asker = await Asker.call(issuer.address, context or joining_context())
    offer = await hear(asker.reader, Offer)
    assert offer.version == 1
    say(asker.writer, join)
    answer = await hear(asker.reader, Enrolled | Denied)
    asker.writer.transport.abort()
    return answer


@pytest.mark.parametrize(
    ("request_pem", "node_id"),
    [
        (b"", "board"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "board"),
        (make_request("other", make_key()), "board"),
        (make_request("board", make_key()), "a/b"),
        (make_request("board", make_key()), ""),
    ],
    ids=["none", "noise", "of another node", "an id that is none", "no id"],
)
async def test_a_bad_request_is_refused_and_does_not_use_the_token_up(
    issuer: Desk, tmp_path: Path, request_pem: bytes, node_id: str
) -> None:
    token = await token_of(issuer)
    answer = await asked(issuer, Join(read_token(token).secret, node_id, request_pem))
    assert isinstance(answer, Denied)
    assert answer.reason == "malformed"
    assert (await enrol([issuer.address], token, tmp_path / "new", "board")).node_id == "board"


async def test_a_request_is_not_looked_at_without_a_token(
    issuer: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bytes] = []
    monkeypatch.setattr(enroller_module, "request_key_hash", looked.append)
    await token_of(issuer)
    answer = await asked(issuer, Join(b"\0" * 16, "board", make_request("board", make_key())))
    assert answer.reason == "unknown-token"
    assert looked == []


FRAMES = {
    "too long": (WORD_BYTES_MAX + 1).to_bytes(4, "big") + b"\0",
    "the longest": b"\xff" * 5,
    "too deep": b"\0\0\0\x23\x02" + b"\x81" * 33 + b"\0",
    "no CBOR": b"\0\0\0\2\2\xff",
    "no word": encode(["join", b"x", "board", b""]),
    "another word": encode(Word(["hello"])),
    "two words": encode(Word(pack(Join(b"", "a", b"")))) * 2,
    "large by LZ4": encode(Word(pack(Join(bytes(WORD_BYTES_MAX * 2), "a", b"")))),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
async def test_a_bad_frame_ends_the_connection_without_a_word(issuer: Desk, frame: bytes) -> None:
    asker = await Asker.call(issuer.address, joining_context())
    await hear(asker.reader, Offer)
    asker.writer.write(frame)
    async with asyncio.timeout(TURN_S / 2):  # at once, and not when its time is over
        assert await asker.rest() == b""
    await until(lambda: not issuer.enroller._serving)


@pytest.mark.parametrize("frame", [b"", encode(Word(pack(Join(b"x", "board", b"request"))))[:-1]])
async def test_who_leaves_in_the_middle_leaves_nothing_behind(issuer: Desk, frame: bytes) -> None:
    asker = await Asker.call(issuer.address, joining_context())
    await hear(asker.reader, Offer)
    asker.writer.write(frame)
    asker.writer.close()
    await until(lambda: not issuer.enroller._serving)
    assert not issuer.enroller._now


async def test_who_says_nothing_is_dropped(tmp_path: Path) -> None:
    async with desk(tmp_path / "desk", timeout_s=0.05) as issuer:
        asker = await Asker.call(issuer.address, joining_context())
        await asker.rest()
        assert not issuer.enroller._serving


async def test_a_crowd_at_the_desk_is_bounded(issuer: Desk, tmp_path: Path) -> None:
    token = await token_of(issuer)
    first = [await Asker.call(issuer.address, joining_context()) for _ in range(2)]
    for asker in first:
        await hear(asker.reader, Offer)
    with pytest.raises(Unreachable, match="closed"):
        await enrol([issuer.address], token, tmp_path / "new", "board")
    for asker in first:
        asker.writer.transport.abort()
    await until(lambda: not issuer.enroller._serving)
    assert (await enrol([issuer.address], token, tmp_path / "new", "board")).node_id == "board"
    assert not issuer.enroller._now


async def test_who_fails_too_often_waits_for_the_next_minute(issuer: Desk, tmp_path: Path) -> None:
    await until(lambda: issuer.sleeps.waiting)  # the first minute has begun
    request = make_request("board", make_key())
    for _ in range(5):
        assert (await asked(issuer, Join(b"guess", "board", request))).reason == "unknown-token"
    token = await token_of(issuer)
    await until(lambda: not issuer.enroller._serving)
    with pytest.raises(Unreachable):
        await enrol([issuer.address], token, tmp_path / "new", "board")
    issuer.sleeps.end(lambda seconds: seconds == AGE_S)
    await until(lambda: not issuer.enroller._failed)
    assert (await enrol([issuer.address], token, tmp_path / "new", "board")).node_id == "board"
    assert issuer.enroller._failed.total() == 0


# -- whom the board believes -----------------------------------------------------------------------


async def test_a_token_of_another_authority_says_nothing_to_this_one(issuer: Desk, tmp_path: Path) -> None:
    async with desk(tmp_path / "lagoon", "reef") as other:  # the same name, another authority
        token = await token_of(other)
        heard: list[Any] = []
        real = issuer.enroller._enrol

        async def listening(*arguments: Any) -> Any:
            heard.append(arguments)
            return await real(*arguments)

        issuer.enroller._enrol = listening  # type: ignore[method-assign]
        with pytest.raises(Unreachable, match="nothing was said to it"):
            await enrol([issuer.address], token, tmp_path / "new", "board")
        await until(lambda: not issuer.enroller._serving)
        assert heard == []


async def test_a_node_without_the_authoritys_key_cannot_stand_between(issuer: Desk, tmp_path: Path) -> None:
    """A removed or stolen node has a certificate and may have heard an offer, and still is not believed."""
    token = await token_of(issuer)
    asker = await Asker.call(issuer.address, joining_context())
    offer = await hear(asker.reader, Offer)
    asker.writer.transport.abort()
    await enrol([issuer.address], token, tmp_path / "thief", "thief")
    thief = await asyncio.to_thread(load_identity, tmp_path / "thief")
    joins: list[bytes] = []

    async def pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        say(writer, offer)
        joins.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(pose, "127.0.0.1", 0, ssl=thief.accept) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Unreachable, match="has not signed this"):
            await enrol([address], token, tmp_path / "new", "board")
        await until(lambda: joins)
    assert joins == [b""]


async def test_what_is_given_must_be_what_was_asked_for(
    issuer: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_request("other", make_key())
    real = enroller_module.sign
    monkeypatch.setattr(
        enroller_module,
        "sign",
        lambda authority, _, cluster_id, __: real(authority, other, cluster_id, "other"),
    )
    with pytest.raises(Unreachable, match="another node or key"):
        await enrol([issuer.address], await token_of(issuer), tmp_path / "new", "board")
    assert not (tmp_path / "new" / CERTIFICATE_FILE).exists()


async def test_a_node_that_holds_no_key_enrols_nobody(tmp_path: Path) -> None:
    reef = Reef(tmp_path / "reef")
    node = await reef.node("one")
    try:
        async with desk(tmp_path / "desk") as issuer:
            token = await token_of(issuer)
        with pytest.raises(Unreachable):
            await enrol([node.address], token, tmp_path / "new", "board")
    finally:
        await reef.close()


# -- directories -----------------------------------------------------------------------------------


async def test_a_directory_with_a_certificate_is_left_alone_unless_it_is_renewed(
    issuer: Desk, tmp_path: Path
) -> None:
    first = await enrol([issuer.address], await token_of(issuer), tmp_path / "new", "board")
    token = await token_of(issuer)
    with pytest.raises(ConfigError, match="already"):
        await enrol([issuer.address], token, tmp_path / "new", "board")
    second = await enrol([issuer.address], token, tmp_path / "new", renew=True)
    assert second.node_id == "board"
    assert second.key_hash != first.key_hash
    assert (await asyncio.to_thread(load_identity, tmp_path / "new")).key_hash == second.key_hash


async def test_a_damaged_token_file_enrols_nobody_and_is_told_here_only(
    issuer: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = await token_of(issuer)
    await asyncio.to_thread((issuer.directory / "join-tokens.json").write_text, "{")
    with (
        caplog.at_level(logging.WARNING, "shoal.enrolment"),
        pytest.raises(Unreachable, match="its log says why"),
    ):
        await enrol([issuer.address], token, tmp_path / "new", "board")
    assert "repair or remove it" in caplog.text


async def test_a_board_enrols_at_its_first_start_and_erases_the_token(issuer: Desk, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(await token_of(issuer) + "\n")
    never = asyncio.Event()
    await enrol_at_first_start(tmp_path / "new", file, [issuer.address], "board", stop=never)
    assert not file.exists()
    assert (await asyncio.to_thread(load_identity, tmp_path / "new")).node_id == "board"
    file.write_text("what a power cut left")
    await enrol_at_first_start(tmp_path / "new", file, [], "board", stop=never)
    assert not file.exists()


async def test_a_board_waits_for_the_one_that_enrols_it(issuer: Desk, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(await token_of(issuer))
    addresses = ["127.0.0.1:1"]
    waiting = asyncio.create_task(
        enrol_at_first_start(tmp_path / "new", file, addresses, "board", stop=asyncio.Event(), retry_s=0.001)
    )
    await until((tmp_path / "new" / KEY_FILE).exists)
    addresses.append(issuer.address)
    await waiting
    assert (tmp_path / "new" / CERTIFICATE_FILE).exists()


async def test_a_board_that_waits_can_be_told_to_stop(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(write_token(TokenText(bytes(32), bytes(16))))
    stop = asyncio.Event()
    stop.set()
    await enrol_at_first_start(tmp_path / "new", file, ["127.0.0.1:1"], "board", stop=stop)
    assert file.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"shoal_" + b"0" * 64], ids=["empty", "noise", "another kind"]
)
async def test_a_file_without_a_join_token_stops_the_start(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="token"):
        await enrol_at_first_start(tmp_path / "new", file, ["a:1"], "board", stop=asyncio.Event())


async def test_a_board_without_anybody_to_ask_says_so(issuer: Desk, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(await token_of(issuer))
    with pytest.raises(ConfigError, match="seeds"):
        await enrol_at_first_start(tmp_path / "new", file, [], "board", stop=asyncio.Event())


async def test_a_board_that_is_refused_does_not_try_for_ever(issuer: Desk, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(await token_of(issuer, "kitchen"))
    with pytest.raises(EnrolmentRefused, match="kitchen"):
        await enrol_at_first_start(tmp_path / "new", file, [issuer.address], "board", stop=asyncio.Event())
    assert file.exists()


def test_the_kit_itself_makes_tokens_of_the_authority(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shoal ca init"):
        make_token(tmp_path)
    with pytest.raises(CertificateError):
        subject_of(make_ca("reef").certificate)
