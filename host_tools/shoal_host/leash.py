"""Run a program that ends when its parent ends: `leash.py PARENT_PID PROGRAM ARGUMENTS...`.

`shoal up` starts boards through this, so that one that is killed leaves no board behind. The process id
stays the same. Linux only (prctl(2), PR_SET_PDEATHSIG, kept across execve(2)); elsewhere it just runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the program."""
    parent, program = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the leash was on
            sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 - becoming that program is the purpose


if __name__ == "__main__":
    main(sys.argv[1:])
