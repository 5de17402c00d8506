"""The list of mutants, and some of them tried; `make mutants` tries all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import pytest
from raft_mutants import HUNG, PACKAGE, ROOT, Mutant, read_mutants, table, try_all, verdict

MUTANTS = read_mutants()
DESIGN = ROOT / "core/shoal/raft/DESIGN.md"
_BEGIN, _END = "<!-- rules: begin -->\n", "<!-- rules: end -->"
FEW = (
    "any entry is counted",
    "votes leave at once",
    "whatever comes truncates",
    "promises leave before the write",
    "no round",
    "it votes",
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_applies_at_one_place_and_its_test_exists(mutant: Mutant) -> None:
    text = (PACKAGE / mutant.file).read_text()
    changed = mutant.applied(text)
    assert changed is not None, f"`old` is {text.count(mutant.old)} times in {mutant.file}"
    assert changed != text
    compile(changed, mutant.file, "exec")
    path, _, name = mutant.test_id.partition("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text()


def test_some_mutants_are_killed() -> None:
    few = [mutant for mutant in MUTANTS if mutant.name in FEW]
    assert len(few) == len(FEW)
    assert [line for line in table(try_all(few, workers=2)) if "ALIVE" in line] == []


@pytest.mark.parametrize(
    ("code", "words", "verdict_begins"),
    [
        (0, "1 passed", "survives"),
        (1, "/x/test_a.py:7: AssertionError: assert 1 == 2\n", ""),
        (1, "/x/election.py:7: shoal.raft.errors.ProtocolViolation: two\n", ""),
        (1, "E   Failed: DID NOT RAISE\n/x/test_a.py:7: Failed: DID NOT RAISE\n", ""),
        (1, "/x/a.py:7: NameError: name 'x' is not defined\n", "cannot run"),
        (1, "something else", "is not killed by an assertion"),
        (2, "/x/a.py:7: SyntaxError: no\n", "is not killed by an assertion"),
        (HUNG, "hung for 120 s", "is not killed by an assertion"),
    ],
)
def test_killed_is_only_what_an_assertion_kills(code: int, words: str, verdict_begins: str) -> None:
    found = verdict(code, words)
    assert found.startswith(verdict_begins)
    assert bool(found) is bool(verdict_begins)


def test_a_mutant_that_does_not_apply_or_survives_is_no_success() -> None:
    mutant = MUTANTS[0]
    outcomes = {mutant: "", MUTANTS[1]: "survives"}
    lines = list(table(outcomes))
    assert sum("ALIVE" in line for line in lines) == 1
    assert lines[-1].endswith("1 of 2 mutants of 1 rules killed: 50.0%")
    assert mutant.applied("nothing") is None
    assert mutant.applied(mutant.old * 2) is None


def rules_table() -> Iterable[str]:
    yield "| rule | source | mutants | tests |"
    yield "| --- | --- | --- | --- |"
    for rule, source in dict.fromkeys((m.rule, m.source) for m in MUTANTS):
        mutants = [m for m in MUTANTS if m.rule == rule]
        tests = dict.fromkeys(re.sub(r"^tests/unit/", "", m.test_id).partition("[")[0] for m in mutants)
        yield f"| {rule} | {source} | {len(mutants)} | {', '.join(f'`{test}`' for test in tests)} |"


def test_the_design_lists_every_rule_with_its_tests() -> None:
    """`SHOAL_WRITE_DOCS=1 pytest tests/unit/test_raft_mutants.py` writes it anew."""
    text = DESIGN.read_text()
    before, _, rest = text.partition(_BEGIN)
    found, _, after = rest.partition(_END)
    wanted = "\n".join(rules_table()) + "\n"
    if os.environ.get("SHOAL_WRITE_DOCS"):
        DESIGN.write_text(before + _BEGIN + wanted + _END + after)
    else:
        assert found == wanted, "run it with SHOAL_WRITE_DOCS=1 and commit DESIGN.md"
