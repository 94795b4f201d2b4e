"""The servers beside keelway, each with the same inference. Each is run as ``python -m benchmarks.servers.NAME``, most
in an environment of their own, so that a module here imports nothing of the project but ``engine``."""
