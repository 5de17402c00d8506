"""The commands of `shoal`, one module per noun; `shoal_host.group` knows where each one is."""
