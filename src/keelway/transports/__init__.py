"""Thin adapters between protocols and the request line. Independent of each other."""
