"""Errors travel: what a board raises is what the client's caller catches, with the same facts."""

from collections.abc import Iterator

import pytest

from shoal import errors
from shoal.client.problems import error_of
from shoal.errors import CLASSES, ShoalError
from shoal.http import problems

MADE_WITH = {
    errors.WrongExpectedVersion: lambda: errors.WrongExpectedVersion("a/b", -1, 7),
    errors.ConditionFailed: lambda: errors.ConditionFailed(12),
    errors.EventIdReused: lambda: errors.EventIdReused("s", "e-1"),
    errors.StreamNotFound: lambda: errors.StreamNotFound("s"),
    errors.StreamTombstoned: lambda: errors.StreamTombstoned("s"),
    errors.ConfigError: lambda: errors.ConfigError("data_dir", "is a file"),
    errors.Ambiguous: lambda: errors.Ambiguous("two streams hold it", candidates=["a", "b"]),
    errors.InvalidRequest: lambda: errors.InvalidRequest("no", pointer="/events/0/data"),
    errors.BodyTooLarge: lambda: errors.BodyTooLarge("too big", pointer="/events", limit=5),
    errors.TooBusy: lambda: errors.TooBusy("wait", retry_after_ms=250),
    errors.EnrolmentRefused: lambda: errors.EnrolmentRefused("no", reason="used"),
    errors.Timeout: lambda: errors.Timeout("slow", outcome="unknown"),
}


def tree(root: type[ShoalError]) -> Iterator[type[ShoalError]]:
    for child in root.__subclasses__():
        if child.__module__ == "shoal.errors":
            yield child
            yield from tree(child)


@pytest.mark.parametrize("cls", list(tree(ShoalError)), ids=lambda cls: cls.code)
def test_every_error_comes_back_as_itself(cls: type[ShoalError]) -> None:
    sent = MADE_WITH.get(cls, lambda: cls("something happened", fact=1))()
    back = error_of(problems.status_of(sent), problems.encode(sent))
    assert type(back) is cls
    assert (str(back), back.detail, back.outcome) == (str(sent), sent.detail, sent.outcome)
    assert {name: value for name, value in back.facts.items() if value != ""} == {
        name: value for name, value in sent.facts.items() if value != ""
    }
    own = {"detail", "outcome", "facts"}
    assert {k: v for k, v in vars(back).items() if k not in own} == {
        k: v for k, v in vars(sent).items() if k not in own
    }


def test_the_table_knows_every_code() -> None:
    assert set(CLASSES) == {cls.code for cls in tree(ShoalError)}


def test_a_code_from_a_later_release_is_an_internal_error_that_keeps_its_text() -> None:
    back = error_of(409, b'{"code":"brand-new","detail":"look here","outcome":"not-applied","x":1}')
    assert type(back) is errors.InternalError
    assert (back.detail, back.facts) == ("look here", {"x": 1})


def test_a_problem_without_its_facts_is_no_crash() -> None:
    back = error_of(409, b'{"code":"wrong-expected-version","detail":"d"}')
    assert type(back) is errors.InternalError


@pytest.mark.parametrize(
    ("status", "cls", "outcome"),
    [
        (401, errors.Unauthorized, "not-applied"),
        (404, errors.NotFound, "not-applied"),
        (413, errors.BodyTooLarge, "not-applied"),
        (418, errors.InternalError, "not-applied"),
        (500, errors.InternalError, "unknown"),
        (502, errors.Unavailable, "unknown"),
        (503, errors.Unavailable, "unknown"),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff\xfe", b'{"detail":"x"}'])
def test_answers_of_proxies_are_understood_by_their_status(
    status: int, cls: type[ShoalError], outcome: str, body: bytes
) -> None:
    back = error_of(status, body)
    assert type(back) is cls
    assert back.outcome == outcome
    assert str(status) in str(back)
