"""`shoald`: the command line, and nothing else; `shoal.server` does the work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import shoal
from shoal.config import CONFIG_FILE_VARIABLE, CONFIGURATION, Config, Key, load, unknown_variables
from shoal.errors import ConfigError

_REPEATED = frozenset({"store", "seeds"})
_EPILOG = """\
Every option is also an environment variable (SHOAL_DATA_DIR, ...) and a TOML key (data_dir); the command
line wins over the environment, the environment over the file. No option is needed.

exit codes: 0 left when told to, 1 the storage failed, 2 the configuration, the port or the data directory
cannot be used.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `shoald` with these arguments (default: the process's own); the result is the exit code."""
    arguments = vars(parser().parse_args(argv))
    try:
        config = read_config(arguments, os.environ)
    except ConfigError as error:
        sys.stderr.write(f"shoald: {error}\n")
        return 2
    for name in unknown_variables(os.environ):
        sys.stderr.write(f"shoald: {name} is set and means nothing to this release\n")
    from shoal import server  # after the command line, so that --help and mistakes answer at once

    return server.run(config)


def parser() -> argparse.ArgumentParser:
    """The options, made from the list of configuration keys."""
    made = argparse.ArgumentParser(
        prog="shoald",
        description="An event store for small boards: one node.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"shoald {shoal.__version__}")
    made.add_argument("--config", metavar="FILE", help="TOML file with any of the keys")
    for key in CONFIGURATION:
        if key.option is not None:
            action = "append" if key.path in _REPEATED else "store"
            made.add_argument(key.option, dest=key.path, action=action, metavar=key.metavar, help=_help(key))
    return made


def read_config(arguments: Mapping[str, Any], environ: Mapping[str, str]) -> Config:
    """The configuration from arguments, environment and the file that one of them names. Raises ConfigError."""
    values = dict(arguments)
    path = values.pop("config", None) or environ.get(CONFIG_FILE_VARIABLE)
    return load(values, environ, _read_file(path) if path else None)


def _read_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--config", f"{path} cannot be read: {error}") from error


def _help(key: Key) -> str:
    default = key.default
    if default in (None, ()):
        return key.doc
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"{key.doc} (default: {shown})".replace("%", "%%")


if __name__ == "__main__":
    sys.exit(main())
