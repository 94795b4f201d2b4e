"""The command line: one file per command group, calling the same operations that the admin transport calls."""
