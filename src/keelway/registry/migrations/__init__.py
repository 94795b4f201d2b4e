"""How a database came to the schema of this keelway, step by step."""

from __future__ import annotations

from typing import Final

#: The migration this code was written for; ``keelway.registry.migration`` brings a database there.
HEAD: Final = "0006"
