"""Loaded models behind one protocol (``keelway.ports.Runtime``), one module per kind, found by their entry points."""
