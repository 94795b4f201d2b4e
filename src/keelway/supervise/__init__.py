"""Several workers on one port: the supervisor that starts, watches and replaces them, and what a worker runs."""
