"""The rules of consensus broken on purpose, one at a time: each mutant must be killed by the test that its rule names.

`make mutants` tries all of tests/mutants/*.toml, each in a copy of the package, and prints the score. Killed is one
whose test fails at an assertion; one that hangs, cannot run, or does not apply at exactly one place is not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "core" / "shoal"
LISTS = ROOT / "tests" / "mutants"
TIMEOUT_S = 120
HUNG = -1
MEMORY_KIB = 2 * 1024 * 1024
CANNOT_RUN = {
    "SyntaxError",
    "IndentationError",
    "NameError",
    "ImportError",
    "AttributeError",
    "UnboundLocalError",
    "MemoryError",
}


@dataclass(frozen=True)
class Mutant:
    """One rule broken at one place."""

    rule: str
    source: str
    name: str
    file: str
    old: str
    new: str
    test: str

    @property
    def test_id(self) -> str:
        return self.test if "/" in self.test else f"tests/unit/{self.test}"

    def __str__(self) -> str:
        return f"{self.rule}: {self.name}"

    def applied(self, text: str) -> str | None:
        """The file with the rule broken, None where `old` is not there exactly once."""
        return text.replace(self.old, self.new) if text.count(self.old) == 1 else None


def read_mutants() -> list[Mutant]:
    rules = [
        rule for path in sorted(LISTS.glob("*.toml")) for rule in tomllib.loads(path.read_text())["rule"]
    ]
    return [
        Mutant(rule["name"], rule["source"], **mutant) for rule in rules for mutant in rule.get("mutant", ())
    ]


class Copy:
    """A copy of the package that one test process at a time imports."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        shutil.copytree(PACKAGE, directory / "shoal", ignore=shutil.ignore_patterns("__pycache__"))
        # By the sources' hashes: two mutants of one second may be of one size.
        compiling = ("-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "shoal")
        subprocess.run([sys.executable, *compiling], cwd=directory, check=True)

    def run(self, tests: Iterable[str]) -> tuple[int, str]:
        """Run tests on it: pytest's exit code and words."""
        options = (
            "-x",
            "-q",
            "--tb=line",
            "-p",
            "no:cacheprovider",
            "-p",
            "asyncio",
            "-p",
            "timeout",
            "--noconftest",
        )
        command = ("bash", "-c", f'ulimit -v {MEMORY_KIB}; exec "$@"', "-", sys.executable, "-m", "pytest")
        environment = {**os.environ, "PYTHONPATH": str(self.directory), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        try:
            done = subprocess.run(
                [*command, *options, *tests],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return HUNG, f"hung for {TIMEOUT_S} s"
        return done.returncode, done.stdout + done.stderr

    def judge(self, mutant: Mutant) -> str:
        """Empty for a mutant that was killed, else why not."""
        path = self.directory / "shoal" / mutant.file
        text = path.read_text()
        changed = mutant.applied(text)
        if changed is None:
            return f"does not apply: `old` is {text.count(mutant.old)} times in {mutant.file}"
        path.write_text(changed)
        try:
            return verdict(*self.run([mutant.test_id]))
        finally:
            path.write_text(text)


def verdict(code: int, words: str) -> str:
    """What pytest's end says of a mutant; empty: killed."""
    if code == 0:
        return "survives"
    errors = re.findall(r"^\S+:\d+: (\w+)", words, re.MULTILINE)
    if code != 1 or not errors:
        return "is not killed by an assertion:\n" + words
    if set(errors) & CANNOT_RUN:
        return "cannot run:\n" + words
    return ""


def try_all(mutants: list[Mutant], workers: int = os.cpu_count() or 1) -> dict[Mutant, str]:
    """Judge them all, in as many processes at a time; first the tests must pass on the package as it is."""
    with TemporaryDirectory(prefix="shoal-mutants-") as scratch:
        copies: SimpleQueue[Copy] = SimpleQueue()
        first = Copy(Path(scratch) / "0")
        code, words = first.run(sorted({mutant.test_id for mutant in mutants}))
        if code:
            raise SystemExit(f"the tests fail without any mutant:\n{words}")
        for number in range(workers):
            copies.put(Copy(Path(scratch) / str(number)) if number else first)

        def judge(mutant: Mutant) -> str:
            copy = copies.get()
            try:
                return copy.judge(mutant)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(workers) as pool:
            return dict(zip(mutants, pool.map(judge, mutants), strict=True))


def table(outcomes: dict[Mutant, str]) -> Iterable[str]:
    """What came of each, in lines."""
    rule = ""
    for mutant, why in outcomes.items():
        if mutant.rule != rule:
            rule = mutant.rule
            yield f"\n{rule}  ({mutant.source})"
        yield f"  {'ALIVE ' if why else 'killed'}  {mutant.name:<52} {mutant.test.partition('::')[2]}"
        if why:
            yield f"          {why}"
    killed, rules = sum(not why for why in outcomes.values()), len({mutant.rule for mutant in outcomes})
    yield f"\n{killed} of {len(outcomes)} mutants of {rules} rules killed: {killed / len(outcomes):.1%}"


def main() -> int:
    """Words on the command line choose the mutants whose rule, name or test has them all."""
    wanted = sys.argv[1:]
    outcomes = try_all([m for m in read_mutants() if all(word in f"{m} {m.test}" for word in wanted)])
    sys.stdout.writelines(line + "\n" for line in table(outcomes))
    return any(outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
