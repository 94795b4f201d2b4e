"""Patterns of text, matched in time linear in its length whatever the pattern: RE2, which has no backtracking.

The library is imported when there is a pattern, not before.
"""

from __future__ import annotations

from typing import Any, Final

from keelway.errors import FailedPrecondition, InvalidInput

#: Characters of a pattern, and bytes that it may take compiled.
MAX_PATTERN: Final = 1_000
_MEMORY: Final = 1 << 20
#: Characters of a text beyond which it matches nothing: linear time is still time.
MAX_TEXT: Final = 10_000


class Pattern:
    """``text`` as RE2 reads it. Raises ``InvalidInput`` naming ``field`` if it cannot be one, ``FailedPrecondition``
    without the library."""

    def __init__(self, text: str, field: str) -> None:
        library = _library()
        if len(text) > MAX_PATTERN:
            raise InvalidInput(f"the pattern of '{field}' has more than {MAX_PATTERN} characters", field=field)
        options = library.Options()
        options.max_mem = _MEMORY
        options.log_errors = False
        try:
            self._match = library.compile(text, options).fullmatch
        except (library.error, UnicodeError):
            raise InvalidInput(
                f"the pattern of '{field}' is not one, or is too large",
                field=field,
                hint="write it as RE2 has it: no look-ahead or look-behind, and no back references",
            ) from None

    def matches(self, text: str) -> bool:
        """Whether all of ``text`` matches."""
        if len(text) > MAX_TEXT:
            return False
        try:
            return self._match(text) is not None
        except UnicodeError:  # half of a surrogate pair is no text
            return False


def _library() -> Any:
    try:
        import re2
    except ImportError:
        raise FailedPrecondition("patterns need RE2", hint="pip install google-re2") from None
    return re2
