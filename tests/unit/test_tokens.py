"""The token file: what is kept, what is not, and what happens when somebody else writes it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from shoal.client import connect
from shoal.errors import ConfigError, NotFound
from shoal.tokens import ROLES, Token, TokenFile, check_sendable, find, make_token


def test_a_token_is_kept_as_its_hash_alone(tmp_path: Path) -> None:
    text = TokenFile(tmp_path).add("append", name="kitchen", streams=["board-*"], created_us=7)
    content = (tmp_path / "tokens.json").read_text()
    assert text not in content
    assert text.removeprefix("shoal_") not in content
    (kept,) = json.loads(content)["tokens"]
    assert kept["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert kept["id"] == kept["sha256"][:12]
    assert (kept["role"], kept["name"], kept["streams"], kept["created_us"]) == (
        "append",
        "kitchen",
        ["board-*"],
        7,
    )


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "made")
    file.add("read")
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.path.chmod(0o644)
    file.add("read")
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert list(file.path.parent.iterdir()) == [file.path]


def test_a_token_is_found_by_its_text_and_by_nothing_else(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    first, second = file.add("read"), file.add("admin")
    found = find(file.tokens(), second)
    assert found is not None
    assert found.role == "admin"
    for wrong in ("", first[:-1], first + "0", first.upper(), found.sha256, "\udcff"):
        assert find(file.tokens(), wrong) is None


def test_texts_are_long_and_never_the_same() -> None:
    texts = {make_token("read")[0] for _ in range(100)}
    assert len(texts) == 100
    assert {len(text) for text in texts} == {len("shoal_") + 64}


@pytest.mark.parametrize("own", ROLES)
def test_each_role_includes_the_ones_before_it(own: str) -> None:
    _, token = make_token(own)  # type: ignore[arg-type]
    assert [role for role in ROLES if token.grants(role)] == list(ROLES[: ROLES.index(token.role) + 1])


def test_a_change_by_somebody_else_is_seen(tmp_path: Path) -> None:
    """The server holds one TokenFile, `shoal tokens` another."""
    server, cli = TokenFile(tmp_path), TokenFile(tmp_path)
    assert server.tokens() == ()
    text = cli.add("read")
    (token,) = server.tokens()
    assert find(server.tokens(), text) == token
    assert cli.remove(token.id) == token
    assert server.tokens() == ()
    (tmp_path / "tokens.json").unlink()
    assert server.tokens() == ()


def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    file.add("read")
    assert file.tokens() is file.tokens()


def test_removing_what_is_not_there_says_so(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    file.add("read")
    with pytest.raises(NotFound):
        file.remove("nope")
    assert len(file.tokens()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"format":2,"tokens":[]}',
        b'{"format":1}',
        b'{"format":1,"tokens":[{"id":"a","sha256":"b","role":"king"}]}',
        b'{"format":1,"tokens":[{"id":"a","sha256":"b","role":"read","extra":1}]}',
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_not_an_open_door(tmp_path: Path, content: bytes) -> None:
    """Otherwise a torn file would read as "no tokens", which lets everybody in."""
    file = TokenFile(tmp_path)
    file.add("read")
    file.path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"tokens\.json"):
            file.tokens()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    file.add("read")
    before = file.path.read_bytes()
    with pytest.raises(TypeError):
        file._write((Token("a", "b", "read", streams=(object(),)),))  # type: ignore[arg-type]
    assert file.path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file.path]


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "t\u00f6ken", "\udcff"])
def test_what_no_header_can_carry_is_no_token(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be sent"):
        check_sendable(text)
    with pytest.raises(ConfigError, match="cannot be sent"):
        connect("http://127.0.0.1:4589", token=text)
    check_sendable(make_token("read")[0])
