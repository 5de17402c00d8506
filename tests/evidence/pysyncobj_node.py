"""One node of an unmodified pysyncobj cluster: `pysyncobj_node.py DIRECTORY DUMPS OWN_ADDRESS OTHER_ADDRESS...`.

Commands come as lines of JSON on stdin, each is answered by one on stdout: `["add", FIRST, COUNT]` gives the
numbers that pysyncobj acknowledged, `["state"]` the numbers applied here and what is known of the log.
"""

from __future__ import annotations

import json
import os
import queue
import sys
from pathlib import Path
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated

COMPACT_AT = 500
_WAIT_S = 20


class SlowToPickle:
    """Part of the state; in the process that pysyncobj forks for a dump it holds pickling until told to go on.

    Stands in for a state so large that its dump is still being written when the node is killed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._node_pid = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        if os.getpid() != self._node_pid:
            (self._directory / "dumping").write_text(str(os.getpid()))
            (self._directory / "go-on").read_bytes()  # a FIFO: returns when the test has opened and closed it
        return SlowToPickle, (self._directory,)


class Numbers(SyncObj):
    """The replicated state: every number that was added, in order."""

    def __init__(self, directory: Path, own: str, others: list[str], *, dumps: bool) -> None:
        conf = SyncObjConf(
            journalFile=str(directory / "journal"),
            logCompactionMinEntries=COMPACT_AT,
            **({"fullDumpFile": str(directory / "dump")} if dumps else {}),
        )
        super().__init__(own, others, conf)
        # Its thread already runs and may have loaded the dump: what it brought is kept.
        self.numbers: list[int] = self.__dict__.setdefault("numbers", [])
        if dumps:
            self.slow = SlowToPickle(directory)

    @replicated
    def add(self, number: int) -> None:
        self.numbers.append(number)


def main(directory: str, dumps: str, own: str, *others: str) -> None:
    node = Numbers(Path(directory), own, list(others), dumps=dumps == "dumps")
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        answer = _add(node, *arguments) if command == "add" else _state(node)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _add(node: Numbers, first: int, count: int) -> list[int]:
    """Submit all at once; those whose callback said SUCCESS."""
    answers: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for number in range(first, first + count):
        node.add(number, callback=lambda _, reason, number=number: answers.put((number, reason)))
    found = [answers.get(timeout=_WAIT_S) for _ in range(count)]
    return sorted(number for number, reason in found if reason == FAIL_REASON.SUCCESS)


def _state(node: Numbers) -> dict[str, Any]:
    status = node.getStatus()
    return {
        "numbers": list(node.numbers),
        "entries": status["log_len"],
        "first_index": node._SyncObj__raftLog[0][1],  # no public name tells it
        "committed": status["commit_idx"],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
