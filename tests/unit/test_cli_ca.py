"""`shoal ca`: what it makes, what it says, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_kit import run

from shoal.cluster.authority import load_authority
from shoal.cluster.identity import NEXT_KEY_FILE, load_identity
from shoal.cluster.join_tokens import JoinTokens, read_token


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done(*arguments: str, **options: Any) -> Any:
    """What a command gives programs."""
    result = run("ca", *arguments, "--json", **options)
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    return json.loads(result.stdout)


def refused(*arguments: str, code: int, **options: Any) -> str:
    result = run("ca", *arguments, **options)
    assert (result.exit_code, result.stdout) == (code, "")
    return result.stderr


def test_an_authority_is_made_and_shown(place: Path) -> None:
    made = done("init", "--cluster-id", "reef")
    assert made["cluster_id"] == "reef"
    assert [each["signs"] for each in made["authorities"]] == [True]
    assert done("show") == made
    assert load_authority(place / "shoal-ca").cluster_id == "reef"
    shown = run("ca", "show").stdout
    assert made["authorities"][0]["fingerprint"] in shown


def test_what_is_there_is_not_overwritten(place: Path) -> None:
    first = done("init", "--cluster-id", "reef")
    assert "another directory" in refused("init", "--cluster-id", "reef", code=2)
    done("issue", "board-1", "--to", "one")
    assert "another directory" in refused("issue", "board-2", "--to", "one", code=2)
    done("init", "--cluster-id", "lagoon", "--ca-dir", "other")
    assert "another directory" in refused("issue", "board-1", "--to", "one", "--ca-dir", "other", code=2)
    assert done("show") == first
    assert load_identity(place / "one").cluster_id == "reef"


def test_a_nodes_directory_is_made_and_renewed(place: Path) -> None:
    done("init", "--cluster-id", "reef")
    first = done("issue", "board-1", "--to", "one")
    assert load_identity(place / "one").key_hash.hex() == first["key_hash"]
    assert done("issue", "board-1", "--to", "one")["key_hash"] == first["key_hash"]
    renewed = done("issue", "board-1", "--to", "one", "--new-key")
    assert renewed["key_hash"] != first["key_hash"]
    assert not (place / "one" / NEXT_KEY_FILE).exists()
    assert not (place / "one" / "ca-key.pem").exists()


def test_a_node_that_enrols_can_have_tokens(place: Path) -> None:
    done("init", "--cluster-id", "reef")
    assert "shoal ca init" in refused("token", "--ca-dir", "one", code=2)
    done("issue", "board-1", "--to", "one", "--enrols")
    made = done("token", "board-2", "--ca-dir", "one", "--minutes", "5")
    assert made["node_id"] == "board-2"
    assert made["left_s"] == 300
    assert JoinTokens(place / "one").find(read_token(made["token"]).secret, None).id == made["id"]


def test_a_token_is_shown_once_listed_and_revoked(place: Path) -> None:
    done("init", "--cluster-id", "reef")
    text = run("ca", "token").stdout.strip()
    assert read_token(text).fingerprint.hex() == done("show")["authorities"][0]["fingerprint"]
    (listed,) = done("list")["tokens"]
    assert "token" not in listed
    assert text not in run("ca", "list").stdout
    assert listed["id"] in run("ca", "list").stdout
    assert done("revoke", listed["id"])["id"] == listed["id"]
    assert done("list") == {"tokens": []}
    assert listed["id"] in refused("revoke", listed["id"], code=4)


def test_a_rotation_says_what_to_do_before_the_next_step(place: Path) -> None:
    first = done("init", "--cluster-id", "reef")
    for step, then in (
        ("begin", "rotate switch"),
        ("switch", "rotate finish"),
        ("finish", "trusted no more"),
    ):
        result = run("ca", "rotate", step)
        assert result.exit_code == 0
        assert then in result.stdout
        assert len(done("show")["authorities"]) == (1 if step == "finish" else 2)
    assert done("show")["authorities"] != first["authorities"]
    assert "the next step is 'begin'" in refused("rotate", "finish", code=2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("init", "--cluster-id", "a/b", "--ca-dir", "x"), "letters, digits"),
        (("issue", "a/b", "--to", "one"), "letters, digits"),
        (("token", "a b"), "letters, digits"),
        (("token", "--minutes", "4"), "5<=x"),
        (("rotate", "halt"), "begin"),
        (("show", "--ca-dir", "nowhere"), "shoal ca init"),
        (("issue", "a", "--to", "one", "--ca-dir", "nowhere"), "shoal ca init"),
        (("serve", "--listen", "nothing"), "HOST:PORT"),
        (("serve", "--ca-dir", "nowhere"), "shoal ca init"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_was_typed_wrong_changes_nothing_and_says_what_to_write(
    place: Path, arguments: tuple[str, ...], says: str
) -> None:
    done("init", "--cluster-id", "reef")
    before = sorted(place.rglob("*"))
    assert says in refused(*arguments, code=2)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ("", 2, "shoal ca token"),
        ("shoaljoin-1-AAAA", 2, "mistyped"),
        (b"\xff\xfe", 2, "shoal ca token"),
    ],
)
def test_what_is_no_token_enrols_nobody(given: str | bytes, code: int, says: str) -> None:
    asked = ("enrol", "--from", "127.0.0.1:1", "--token-file", "-", "--to", "one")
    assert says in refused(*asked, code=code, stdin=given)


def test_where_nobody_answers_it_is_said_who_should(place: Path) -> None:
    done("init", "--cluster-id", "reef")
    text = done("token")["token"]
    asked = ("enrol", "board", "--from", "127.0.0.1:1", "--token-file", "-", "--to", "one")
    assert "shoal ca serve" in refused(*asked, code=5, stdin=text)
    assert not (place / "one" / "cert.pem").exists()
