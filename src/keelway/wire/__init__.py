"""Protobuf messages, generated from ``proto/`` by ``proto/generate.py``; never edited by hand."""

from __future__ import annotations

from google.protobuf.descriptor_pool import DescriptorPool

#: Where the messages are registered: see ``proto/generate.py``.
POOL = DescriptorPool()
