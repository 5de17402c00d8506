"""What runs on a developer's machine: the `shoal` command and its tools."""
