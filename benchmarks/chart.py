"""Horizontal bars as SVG, without a library: the picture of the page. Pure.

It is as wide as a phone's screen and no wider, so that its text stays legible there, and follows the reader's light or
dark mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, MARGIN, LABELS, VALUES = 400, 10, 175, 56
ROW, BAR, TITLE, GAP = 23, 13, 26, 14
_STYLE = """
text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 14px }
.ours { font-weight: 600 }
.bar { fill: #8c959f }
.bar.ours { fill: #0969da }
.bar.bare { fill: #d0d7de }
.ground { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .bar { fill: #6e7681 }
  .bar.ours { fill: #4493f8 }
  .bar.bare { fill: #3d444d }
  .ground { fill: #0d1117 }
}
"""


class Bar(NamedTuple):
    """``kind`` is ``ours``, ``bare`` for a server without features, or empty."""

    label: str
    value: float
    kind: str = ""


class Group(NamedTuple):
    """Bars that share a title and a scale."""

    title: str
    bars: Sequence[Bar]


def draw(groups: Sequence[Group], description: str) -> str:
    """An SVG document of all ``groups``, the longest bar of each as long as there is room."""
    parts: list[str] = []
    top = MARGIN
    for group in groups:
        parts.append(f'<text class="title" x="{MARGIN}" y="{top + 15}">{escape(group.title)}</text>')
        top += TITLE
        longest = max(bar.value for bar in group.bars)
        for bar in group.bars:
            parts += _row(bar, top, longest)
            top += ROW
        top += GAP
    height = top - GAP + MARGIN
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
                f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(description)}">'
            ),
            f"<title>{escape(description)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _row(bar: Bar, top: float, longest: float) -> list[str]:
    start = MARGIN + LABELS
    length = max(1.0, (WIDTH - 2 * MARGIN - LABELS - VALUES) * bar.value / longest)
    kinds = f" {bar.kind}" if bar.kind else ""
    emphasis = ' class="ours"' if bar.kind == "ours" else ""
    return [
        f'<text{emphasis} x="{start - 8}" y="{top + 14}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="bar{kinds}" x="{start}" y="{top + 3}" width="{length:.1f}" height="{BAR}" rx="2"/>',
        f'<text{emphasis} x="{start + length + 6:.1f}" y="{top + 14}">{bar.value:,.0f}</text>',
    ]
