"""Bytes on sockets, nothing of models: the HTTP protocol class under the server, its limits and its timeouts."""
