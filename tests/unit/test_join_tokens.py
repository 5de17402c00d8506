"""Join tokens: what their text is worth, what is kept, and how their life ends."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shoal.cluster.join_tokens import (
    TOKENS_MAX,
    JoinTokens,
    TokenText,
    read_token,
    write_token,
)
from shoal.errors import ConfigError, EnrolmentRefused, NotFound

TEXT = TokenText(bytes(range(32)), bytes(range(100, 116)))
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def test_what_is_written_is_read() -> None:
    text = write_token(TEXT)
    assert text.isascii()
    assert len(text) < 100
    assert read_token(f"  {text}\n") == TEXT


def test_a_token_is_not_shown_where_it_is_logged() -> None:
    assert TEXT.secret.hex() not in repr(TEXT)
    assert str(TEXT.secret) not in repr(TEXT)


@pytest.mark.parametrize("place", range(len("shoaljoin-1-"), len(write_token(TEXT))))
def test_a_mistyped_letter_is_noticed_and_the_error_does_not_show_the_token(place: int) -> None:
    text = write_token(TEXT)
    wrong = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
    with pytest.raises(ConfigError, match="shoal ca token") as caught:
        read_token(wrong)
    assert wrong not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "shoaljoin-1-", write_token(TEXT)[:-4], "shoal_" + "0" * 64, "ä", "shoaljoin-1-" + "A" * 9999],
)
def test_what_is_no_token_is_told_apart(text: str) -> None:
    with pytest.raises(ConfigError, match="shoal ca token"):
        read_token(text)


def test_only_a_hash_is_kept_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    tokens = JoinTokens(tmp_path)
    secret, made = tokens.add("board", created_us=7)
    content = tokens.path.read_text()
    (kept,) = json.loads(content)["tokens"]
    assert kept["sha256"] == hashlib.sha256(secret).hexdigest()
    assert secret.hex() not in content
    assert tokens.path.stat().st_mode & 0o777 == 0o600
    assert tokens.tokens() == (made,)


def test_a_token_is_found_by_its_secret_and_by_nothing_else(tmp_path: Path) -> None:
    tokens = JoinTokens(tmp_path)
    (first, made), (second, _) = tokens.add(created_us=0), tokens.add(created_us=0)
    assert tokens.find(first, None) == made
    for wrong in (b"", first[:-1], second + b"0", made.sha256.encode(), bytes.fromhex(made.sha256)):
        with pytest.raises(EnrolmentRefused, match="shoal ca token"):
            tokens.find(wrong, None)


def test_a_used_token_is_good_for_the_same_key_of_the_same_node_alone(tmp_path: Path) -> None:
    tokens = JoinTokens(tmp_path)
    secret, _ = tokens.add(created_us=0)
    used = tokens.redeem(secret, "board", KEY, None)
    assert JoinTokens(tmp_path).tokens() == (used,)
    assert tokens.redeem(secret, "board", KEY, None) == used
    for node_id, key in (("board", OTHER_KEY), ("other", KEY)):
        with pytest.raises(EnrolmentRefused) as caught:
            tokens.redeem(secret, node_id, key, None)
        assert caught.value.reason == "used-token"


def test_of_many_keys_at_once_one_gets_the_token(tmp_path: Path) -> None:
    secret, _ = JoinTokens(tmp_path).add(created_us=0)

    def redeem(number: int) -> bool:
        try:
            JoinTokens(tmp_path).redeem(secret, "board", bytes([number]) * 32, None)
        except EnrolmentRefused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(redeem, range(16))) == 1


def test_tokens_made_at_once_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: JoinTokens(tmp_path).add(created_us=0), range(16)))
    assert len(JoinTokens(tmp_path).tokens()) == 16


def test_a_life_is_never_longer_than_it_was_to_be_and_restarts_only_shorten_it(tmp_path: Path) -> None:
    tokens = JoinTokens(tmp_path)
    secret, _ = tokens.add(lifetime_s=300, created_us=0)
    for _ in range(4):
        JoinTokens(tmp_path).age(60, None)  # at the start of whoever answers, and each minute from then on
        tokens.find(secret, None)
    tokens.age(60, None)
    with pytest.raises(EnrolmentRefused):
        tokens.find(secret, None)
    tokens.age(60, None)
    assert tokens.tokens() == ()


@pytest.mark.parametrize("used", [False, True])
def test_a_used_token_expires_too(tmp_path: Path, used: bool) -> None:
    tokens = JoinTokens(tmp_path)
    secret, _ = tokens.add(lifetime_s=60, created_us=0)
    if used:
        tokens.redeem(secret, "board", KEY, None)
    tokens.age(60, None)
    with pytest.raises(EnrolmentRefused):
        tokens.redeem(secret, "board", KEY, None)


def test_a_right_clock_ends_a_life_a_clock_that_went_back_does_not_lengthen_it(tmp_path: Path) -> None:
    tokens = JoinTokens(tmp_path)
    secret, _ = tokens.add(lifetime_s=300, created_us=1_000_000_000)
    tokens.find(secret, 0)
    tokens.find(secret, 1_299_999_999)
    with pytest.raises(EnrolmentRefused):
        tokens.find(secret, 1_300_000_000)
    tokens.age(300, 0)
    with pytest.raises(EnrolmentRefused):
        tokens.find(secret, 0)


def test_nothing_is_written_while_there_are_no_tokens(tmp_path: Path) -> None:
    JoinTokens(tmp_path / "none").age(60, None)
    assert not (tmp_path / "none").exists()


def test_a_revoked_token_is_gone(tmp_path: Path) -> None:
    tokens = JoinTokens(tmp_path)
    secret, made = tokens.add(created_us=0)
    assert tokens.revoke(made.id) == made
    with pytest.raises(EnrolmentRefused):
        tokens.find(secret, None)
    with pytest.raises(NotFound, match=made.id):
        tokens.revoke(made.id)


def test_there_are_not_any_number_of_tokens(tmp_path: Path) -> None:
    tokens = JoinTokens(tmp_path)
    for _ in range(TOKENS_MAX):
        tokens.add(created_us=0)
    with pytest.raises(ConfigError, match="revoke"):
        tokens.add(created_us=0)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format":2,"tokens":[]}', b"\xff", b'{"format":1}'])
def test_a_file_that_cannot_be_used_lets_nobody_in_and_is_not_overwritten(
    tmp_path: Path, content: bytes
) -> None:
    tokens = JoinTokens(tmp_path)
    tokens.path.write_bytes(content)
    for use in (
        tokens.tokens,
        lambda: tokens.add(created_us=0),
        lambda: tokens.age(60, None),
        lambda: tokens.redeem(b"", "board", KEY, None),
    ):
        with pytest.raises(ConfigError, match="repair or remove it"):
            use()
    assert tokens.path.read_bytes() == content


def test_where_nothing_can_be_written_nobody_is_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = JoinTokens(tmp_path)
    secret, _ = tokens.add(created_us=0)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shoal.cluster.join_tokens.write_durably", full)
    with pytest.raises(ConfigError, match="No space left"):
        tokens.redeem(secret, "board", KEY, None)
