"""`shoal db` on a file of its own making: what it refuses, and how Ctrl-C ends it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from cli_kit import run

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
PATIENCE_S = 60


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A directory that looks as one of a stopped board."""
    (tmp_path / "db" / "g1").mkdir(parents=True)
    (tmp_path / "db" / "CURRENT").write_text("g1")
    with closing(sqlite3.connect(tmp_path / "db" / "g1" / "main-1.db")) as connection:
        connection.execute("CREATE TABLE event (a)")
    return tmp_path


@pytest.mark.parametrize(
    "statement", ["attach '{}' as y", "vacuum into '{}'", "pragma query_only = off", "begin", "-- nothing"]
)
def test_what_is_no_query_is_refused_in_a_few_words_and_makes_no_file(data_dir: Path, statement: str) -> None:
    other = data_dir / "other.db"
    result = run("db", "query", statement.format(other), "--data-dir", str(data_dir))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert not other.exists()


def test_ctrl_c_ends_an_endless_query(data_dir: Path) -> None:
    command = (sys.executable, "-m", "shoal_host.cli", "db", "query", ENDLESS, "--data-dir", str(data_dir))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            runs = psutil.Process(process.pid)
            while runs.cpu_times().user < 1.5 and process.poll() is None:  # far beyond what starting takes
                os.sched_yield()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, b"", b"")
