"""The house rules that no linter knows, each as a test. CONTRIBUTING.md says why they are there."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("core", "device", "host_tools", "tests", "buildroot", "nerves-like-image", ".ci")
SOURCES = ("core", "device", "host_tools")

MODULE_LINES = 500
FUNCTION_LINES = 70

# Written in pieces, so that this file does not offend against itself.
POSTPONED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
ELSEWHERE = re.compile(
    "|".join(("/wo" + "rk/", "/fa" + "rm/", "/ro" + "ot/", "/ho" + "me/", "fi" + "le:///"))
    + r"|https?://[^\s\"']*(/sim" + r"ple\b|regi" + r"stry\.)"
)  # fmt: skip


def house_files() -> Iterator[Path]:
    """Every text file that belongs to the project."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".coverage"))
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix not in {".pyc", ".so"}:
                yield path


def python_files(folders: Iterable[str] = (*SOURCES, "tests")) -> Iterator[Path]:
    for folder in folders:
        yield from (ROOT / folder).rglob("*.py")


def packages() -> Iterator[Path]:
    """The packages that hold more than their `__init__.py`."""
    for source in SOURCES:
        for init in (ROOT / source).rglob("__init__.py"):
            if any(path.name != "__init__.py" for path in init.parent.glob("*.py")):
                yield init.parent


def where(path: Path, line: int | None = None) -> str:
    name = str(path.relative_to(ROOT))
    return name if line is None else f"{name}:{line}"


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in house_files():
        text = path.read_text(encoding="utf-8")
        found += [where(path, text.count("\n", 0, hit.start()) + 1) for hit in pattern.finditer(text)]
    return found


def test_modules_stay_short() -> None:
    lengths = {where(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES} == {}


def test_functions_stay_short() -> None:
    long = {}
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long[f"{where(path, node.lineno)} {node.name}"] = lines
    assert long == {}


def test_nothing_is_postponed_in_a_comment() -> None:
    assert lines_matching(POSTPONED) == []


def test_no_path_of_one_machine_and_no_registry_address() -> None:
    assert lines_matching(ELSEWHERE) == []


def test_every_package_says_how_it_works() -> None:
    # The store's own front page is ARCHITECTURE.md.
    missing = [where(package) for package in packages() if not (package / "DESIGN.md").is_file()]
    assert [name for name in missing if name != "core/shoal"] == []


def test_every_folder_with_modules_is_a_package_that_ships_its_types() -> None:
    folders = {path.parent for path in python_files(SOURCES)}
    assert [where(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
    tops = [folder for folder in folders if folder.parent.parent == ROOT]
    assert [where(folder) for folder in tops if not (folder / "py.typed").is_file()] == []


def skips_without_reason(path: Path) -> Iterator[str]:
    """Calls and marks that skip or expect failure, where no reason stands with them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        name = ast.unparse(node)
        if name in {"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail", "pytest.importorskip"}:
            call = called.get(id(node))
            if call is None or not any(keyword.arg == "reason" for keyword in call.keywords):
                yield where(path, node.lineno)
        elif name in {"pytest.skip", "pytest.xfail"}:
            call = called.get(id(node))
            if call is None or not (call.args or call.keywords):
                yield where(path, node.lineno)


def test_whatever_is_skipped_says_why() -> None:
    assert [place for path in python_files(["tests"]) for place in skips_without_reason(path)] == []


@pytest.mark.parametrize(
    ("line", "offends"),
    [
        ("pytest.skip()", True),
        ("pytest.skip('needs a disk')", False),
        ("@pytest.mark.skip\ndef test(): ...", True),
        ("@pytest.mark.skipif(True, reason='no disk')\ndef test(): ...", False),
    ],
)
def test_the_search_for_skips_finds_them(
    line: str, offends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "test_it.py"
    path.write_text(f"import pytest\n\n{line}\n", encoding="utf-8")
    assert bool(list(skips_without_reason(path))) is offends


def test_every_dependency_is_pinned_exactly() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    pins = [
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    pinned = {normal(pin.partition("==")[0]) for pin in pins}
    assert [name for name in wanted if normal(re.split(r"[\[<>=]", name)[0]) not in pinned] == []


def normal(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
