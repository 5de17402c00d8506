"""The token of `shoal up`: made when the board wants one, for little, and gone when nobody needs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.tokens import TokenFile, find
from shoal_host.own_token import OWN_NAME, OwnToken


def names(data_dir: Path) -> list[str]:
    return [token.name for token in TokenFile(data_dir).tokens()]


def test_none_is_made_while_the_board_asks_for_none(tmp_path: Path) -> None:
    own = OwnToken(tmp_path, None)
    own.begin()
    own.renew()
    assert (own.text, names(tmp_path)) == (None, [])


def test_one_is_made_once_when_the_board_begins_to_ask_and_taken_away(tmp_path: Path) -> None:
    own = OwnToken(tmp_path, None)
    own.begin()
    TokenFile(tmp_path).add("admin", name="mine")
    own.renew()
    own.renew()
    assert own.text is not None
    token = find(TokenFile(tmp_path).tokens(), own.text)
    assert token is not None
    assert (token.role, token.streams, token.name) == ("append", ("board-*",), OWN_NAME)
    assert names(tmp_path) == ["mine", OWN_NAME]
    own.revoke()
    assert names(tmp_path) == ["mine"]


def test_one_that_was_taken_away_is_replaced(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    file.add("admin", name="mine")
    own = OwnToken(tmp_path, None)
    own.begin()
    first = own.text
    file.remove(file.tokens()[1].id)
    own.renew()
    assert own.text not in {None, first}


def test_what_a_killed_run_left_is_taken_away_by_the_next(tmp_path: Path) -> None:
    TokenFile(tmp_path).add("admin", name="mine")
    killed = OwnToken(tmp_path, None)
    killed.begin()
    OwnToken(tmp_path, "a-token-of-ones-own").begin()
    assert names(tmp_path) == ["mine"]
    own = OwnToken(tmp_path, None)
    own.begin()
    assert names(tmp_path) == ["mine", OWN_NAME]
    killed.revoke()
    assert names(tmp_path) == ["mine", OWN_NAME]


def test_what_was_given_is_shown_as_it_is(tmp_path: Path) -> None:
    TokenFile(tmp_path).add("admin", name="mine")
    own = OwnToken(tmp_path, "given")
    own.begin()
    own.renew()
    assert (own.text, names(tmp_path)) == ("given", ["mine"])
    with pytest.raises(ConfigError, match="cannot be sent"):
        OwnToken(tmp_path, "a\nb")
