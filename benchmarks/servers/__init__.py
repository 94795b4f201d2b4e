"""The alternatives: small servers with the same inference. Each is run as ``python -m benchmarks.servers.NAME``."""
