"""`shoal lab` itself: what it refuses, how it judges a file, and one short run of a real node."""

from __future__ import annotations

import json

import psutil
import pytest
from cli_kit import run
from history_kit import append, read_all, stored

from shoal_host.lab.recorder import Began, Did, Kept, Recorder, Stayed

A = ("a", 0, 1)


@pytest.fixture
def history(tmp_path):
    """Writes a history with these operations and final events."""

    def write(operations, final):
        with Recorder(tmp_path / "h") as recorder:
            recorder.add(Began(7, 1, 10, (), "proxies"))
            recorder.add(Stayed("none", "", ("none",), 0, 1000, 1000))
            for operation in operations:
                recorder.add(Did(operation))
            for event in final:
                recorder.add(Kept(event))
        return str(tmp_path / "h")

    return write


def test_a_clean_history_is_told_to_be_clean(history) -> None:
    result = run("lab", "--check", history([append(1, 0, 10, A)], stored(A)))
    assert result.exit_code == 0
    assert "no violations" in result.stdout
    assert "seed 7, 1 nodes" in result.stdout


def test_violations_are_told_and_end_with_1(history) -> None:
    path = history([append(1, 0, 10, A), read_all(2, 20, 30, 0)], [])
    result = run("lab", "--check", path)
    assert result.exit_code == 1
    assert "WRONG: event a was acknowledged to #1 of c1" in result.stdout
    as_json = run("lab", "--check", path, "--json")
    assert as_json.exit_code == 1
    report = json.loads(as_json.stdout)
    assert not report["ok"]
    assert len(report["violations"]) == 1
    assert report["faults"][0]["acked"] == 1


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("--nodes", "1", "--faults", "cut"), "cut is a fault between nodes, ask for --nodes 3"),
        (("--faults", "fire"), "'fire' is none of kill, pause"),
        (("--nodes", "1", "--minutes", "0.1"), "4 kinds of faults need at least"),
        (("--check", "nowhere"), "does not exist"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments, advice, tmp_path) -> None:
    result = run("lab", "--data-dir", str(tmp_path / "lab"), *arguments)
    assert result.exit_code == 2
    assert advice in result.stderr
    assert not (tmp_path / "lab").exists()


def test_a_directory_that_holds_something_is_left_alone(tmp_path) -> None:
    (tmp_path / "mine").write_text("x")
    result = run("lab", "--nodes", "1", "--data-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_real_node_under_faults_keeps_its_promises(tmp_path) -> None:
    """The longest test here: half a minute of `make test` for the whole path, processes and all."""
    place = tmp_path / "lab"
    result = run(
        *("lab", "--nodes", "1", "--minutes", "0.24", "--seed", "4", "--clients", "20"),
        *("--data-dir", str(place), "--json"),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"]
    assert report["violations"] == []
    assert {row["fault"] for row in report["faults"]} == {"none", "kill", "pause", "slow-disk", "full-disk"}
    assert all(row["operations"] and row["acked"] for row in report["faults"])
    assert "append: not-applied, disk-full" in report["outcomes"]
    assert report["acked"] > 100
    assert report["elections"] >= 1
    assert (place / "n1.log").exists()
    assert "kill at n1" in result.stderr
    assert [child for child in psutil.Process().children() if "shoal_host.lab.node" in child.cmdline()] == []
    again = run("lab", "--check", str(place / "history.ndjson"), "--json")
    assert json.loads(again.stdout)["faults"] == report["faults"]
