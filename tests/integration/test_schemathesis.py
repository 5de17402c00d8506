"""Schemathesis reads `/openapi.json` of a real board and tries to catch it doing what the document does not say."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from http_board import running_board

# A read that waits for a position which never comes is answered by 503, as documented, but slowly. And what no schema
# says may be refused: a version expected both here and there, data both as it is and as base64, a selector of another
# type's form, 1.0 for a whole number.
CONFIG = """
[parameters]
"query.wait_for" = 0

[checks]
positive_data_acceptance.expected-statuses = ["2xx", 404, 409, 410, 412]

[[operations]]
include-method = "POST"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path-regex = "/subscriptions/.name.$"
checks.positive_data_acceptance.enabled = false
"""

# Stores are dropped by one of these, under the feet of the others. And what is pushed has no end, what is pulled may
# take a minute to come.
LEFT_OUT = r"^/v1/stores|^/v1/subscriptions/\{name\}/(events|pull)$"


async def test_the_board_does_what_its_document_says(tmp_path: Path) -> None:
    """Statuses, media types, headers, bodies as documented; what breaks the schema is refused; nothing fails."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    command = Path(sys.executable).with_name("schemathesis")
    async with running_board(tmp_path / "data") as board:
        process = await asyncio.create_subprocess_exec(
            *(str(command), "--config-file", str(config), "run", f"{board.url}/openapi.json"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1"),
            *("--exclude-path-regex", LEFT_OUT, "--request-timeout", "10", "--no-color"),
            stdout=PIPE,
            stderr=STDOUT,
            cwd=tmp_path,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 100)
        assert process.returncode == 0, output.decode()
        assert (await board.call("GET", "/readyz")).status == 200
