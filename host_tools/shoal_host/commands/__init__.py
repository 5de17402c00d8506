"""The commands of `shoal`, one module per noun; `shoal_host.cli` knows where each one is."""
