"""`shoal append STREAM TYPE -`: whatever ends it, it says what of the lines is stored."""

from __future__ import annotations

import json

import pytest
from cli_kit import Recorder, run

from shoal import errors

LINES = "".join(f"{n}\n" for n in range(6))


def append(failure: BaseException, *options: str, good: int = 0, stdin: str = LINES) -> tuple[int, str]:
    """The exit code and what is said when an append fails after `good` ones."""
    store = Recorder(failure, good=good)
    result = run("append", "s", "t", "-", *options, store=store, stdin=stdin)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.exit_code, result.stderr


def test_ctrl_c_says_what_was_appended_and_what_is_unknown() -> None:
    code, said = append(KeyboardInterrupt(), "--batch", "2", good=2)
    assert code == 130
    assert "4 events were appended before this, lines 5 to 6 may be stored or not" in said
    code, said = append(KeyboardInterrupt(), "--batch", "2", "--json", good=1)
    error = json.loads(said)["error"]
    assert (code, error["code"], error["appended"], error["outcome"]) == (130, "interrupted", 2, "unknown")


def test_a_lost_answer_gives_no_advice_that_lines_cannot_follow() -> None:
    lost = errors.Timeout("no answer in time", outcome="unknown")
    code, said = append(lost, "--batch", "1", good=1)
    assert code == 5
    assert "1 event was appended before this, line 2 may be stored or not" in said
    assert "--event-id" not in said
    assert "event_id of their own" in said


def test_a_refused_event_is_named_by_its_line() -> None:
    large = errors.BodyTooLarge("data has 9 bytes, 8 are allowed", pointer="/events/1/data")
    code, said = append(large, stdin="1\n\n2\n3\n")
    assert code == 2
    assert said.startswith("shoal: line 3: data has 9 bytes, 8 are allowed; nothing was appended before this")


def test_a_batch_that_is_too_large_is_told_to_be_smaller() -> None:
    code, said = append(errors.BodyTooLarge("the body is too large"), "--batch", "3", good=1)
    assert code == 2
    assert "lines 4 to 6: the body is too large" in said
    assert "--batch" in said


@pytest.mark.parametrize(
    ("failure", "code"), [(errors.Forbidden(), 6), (errors.WrongExpectedVersion("s", 1, 2), 3)]
)
def test_any_other_error_says_how_many_came_before_it(failure: errors.ShoalError, code: int) -> None:
    ended, said = append(failure, "--batch", "5", good=1)
    assert ended == code
    assert "5 events were appended before this" in said


def test_a_bad_line_says_so_too() -> None:
    result = run("append", "s", "t", "-", "--json", stdin="1\n2\n3\n{\n")
    error = json.loads(result.stderr)["error"]
    assert (result.exit_code, error["appended"]) == (2, 0)
    assert error["detail"].startswith("line 4 is not acceptable as JSON")
