"""The door of `shoal`. All else is imported behind it, so that Ctrl-C is quiet from the first moment on."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process."""
    try:
        from shoal_host.group import main as shoal

        shoal()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
