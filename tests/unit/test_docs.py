"""The documents against the code: keys, commands and links that README and the designs name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from shoal.config import CONFIGURATION, Key
from shoal_host.group import COMMANDS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
_BEGIN, _END = "<!-- configuration: begin -->\n", "<!-- configuration: end -->"


def configuration_table() -> str:
    """README's table of all keys, made from the code."""
    rows = [
        "| TOML key | default | option | what it sets |",
        "| --- | --- | --- | --- |",
        *(f"| `{key.path}` | {_shown(key)} | {_option(key)} | {key.doc} |" for key in CONFIGURATION),
    ]
    return "\n".join(rows) + "\n"


def _option(key: Key) -> str:
    return f"`{key.option}`" if key.option else ""


def _shown(key: Key) -> str:
    value: Any = key.default
    if value is None or value == ():
        return ""
    return f"`{','.join(map(str, value)) if isinstance(value, tuple) else value}`"


def test_readme_has_the_configuration_as_the_code_has_it() -> None:
    """`SHOAL_WRITE_DOCS=1 pytest tests/unit/test_docs.py` writes it anew."""
    text = README.read_text()
    before, _, rest = text.partition(_BEGIN)
    found, _, after = rest.partition(_END)
    if os.environ.get("SHOAL_WRITE_DOCS"):
        README.write_text(before + _BEGIN + configuration_table() + _END + after)
    else:
        assert found == configuration_table(), "run it with SHOAL_WRITE_DOCS=1 and commit README.md"


def test_readme_names_every_variable_by_its_rule() -> None:
    """The rule README gives for environment variables is the one the code follows."""
    assert "`SHOAL_`" in README.read_text()
    for key in CONFIGURATION:
        assert key.variable == "SHOAL_" + key.path.replace(".", "_").upper()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_readme_and_in_the_design(command: str) -> None:
    assert f"`shoal {command}`" in README.read_text()
    assert f"`{command}`" in (ROOT / "host_tools/shoal_host/commands/DESIGN.md").read_text()


DOCUMENTS = [
    path
    for pattern in (
        "*.md",
        "core/**/*.md",
        "device/**/*.md",
        "host_tools/**/*.md",
        "buildroot/*.md",
        "nerves-like-image/*.md",
    )
    for path in sorted(ROOT.glob(pattern))
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_and_modules_that_are_named_exist(document: Path) -> None:
    for name in re.findall(r"`((?:tests|core|device|host_tools)/[\w./-]+\.(?:py|md))`", document.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_that_hold_an_invariant_exist(document: Path) -> None:
    there = "\n".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    for name in re.findall(r"`(?:[\w./]+::)?(test_\w+)`", document.read_text()):
        assert f"def {name}(" in there, name


def test_readme_has_two_commands_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for block, target in re.findall(r"```sh (run|test)\nmake (\w+)\n```", README.read_text()):
        assert block == target
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert re.search(r"^make\b[^\n]*\btest\b", (ROOT / ".ci/run").read_text(), re.MULTILINE)
