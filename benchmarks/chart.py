"""A bar chart of ratios as SVG, on a logarithmic axis, drawn without any library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.harness import Spread

WIDTH = 860
LABELS = 210
"""Room for the labels of the bars, on the left."""
FIGURES = 70
"""Room for the figures behind the longest bar, on the right."""
BAR = 16
GAP = 6
HEAD = 34
"""Room for the title of a panel."""
FOOT = 26
"""Room for the figures of the axis."""


@dataclass(frozen=True)
class Panel:
    """A part of the chart with an axis of its own.

    Attributes:
        title: what is measured.
        bars: a label and a ratio each; None draws no bar.
        highlighted: the label whose bar stands out.
    """

    title: str
    bars: Sequence[tuple[str, Spread | None]]
    highlighted: str

    def height(self) -> int:
        """Return the height in pixels."""
        return HEAD + len(self.bars) * (BAR + GAP) + FOOT


def decades(panel: Panel) -> tuple[int, int]:
    """Return the powers of ten at both ends of a panel's axis."""
    ratios = [ratio.median for _, ratio in panel.bars if ratio is not None] or [1.0]
    low = math.floor(math.log10(max(min(ratios), 1e-3)))
    high = math.ceil(math.log10(max(ratios)) + 1e-9)
    return low, max(high, low + 1)


def drawn(panel: Panel, top: int) -> list[str]:
    """Return the elements of a panel that begins `top` pixels from above."""
    low, high = decades(panel)
    scale = (WIDTH - LABELS - FIGURES) / (high - low)

    def x(ratio: float) -> float:
        position = (math.log10(max(ratio, 10.0**low)) - low) * scale
        return LABELS + min(position, (high - low) * scale)

    bottom = top + panel.height() - FOOT
    parts = [f'<text class="title" x="8" y="{top + 20}">{escape(panel.title)}</text>']
    for power in range(low, high + 1):
        at = x(10.0**power)
        kind = "one" if power == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{at:.1f} {top + HEAD - 4}V{bottom}"/>')
        parts.append(
            f'<text class="axis" x="{at:.1f}" y="{bottom + 15}">{10.0**power:,.10g}x</text>'
        )
    for index, (label, ratio) in enumerate(panel.bars):
        y = top + HEAD + index * (BAR + GAP)
        parts.append(
            f'<text class="label" x="{LABELS - 8}" y="{y + BAR - 4}">{escape(label)}</text>'
        )
        if ratio is None:
            parts.append(f'<text class="figure" x="{LABELS + 6}" y="{y + BAR - 4}">-</text>')
            continue
        end = x(ratio.median)
        kind = "ours" if label == panel.highlighted else "bar"
        parts.append(
            f'<rect class="{kind}" x="{LABELS}" y="{y}" width="{max(end - LABELS, 1):.1f}"'
            f' height="{BAR}"/>'
        )
        middle = y + BAR / 2
        parts.append(
            f'<path class="spread" d="M{x(ratio.lower):.1f} {middle:g}H{x(ratio.upper):.1f}"/>'
        )
        figure = f"{ratio.median:,.0f}" if ratio.median >= 100 else f"{ratio.median:.2f}"
        parts.append(
            f'<text class="figure" x="{max(end, x(ratio.upper)) + 6:.1f}"'
            f' y="{y + BAR - 4}">{figure}</text>'
        )
    return parts


STYLE = """
    text { font: 12px sans-serif; fill: #24292f }
    .title { font-size: 14px; font-weight: bold }
    .label { text-anchor: end }
    .axis { text-anchor: middle; fill: #57606a }
    .grid { stroke: #d0d7de }
    .one { stroke: #57606a; stroke-dasharray: 4 3 }
    .bar { fill: #9fb3c8 }
    .ours { fill: #1a7f37 }
    .spread { stroke: #24292f }
"""


def chart(title: str, panels: Sequence[Panel]) -> str:
    """Return the panels, one under the other, as an SVG document.

    Args:
        title: what a reader who does not see the chart is told.
        panels: the parts, each with a logarithmic axis of its own.
    """
    parts: list[str] = []
    top = 8
    for panel in panels:
        parts += drawn(panel, top)
        top += panel.height() + 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}"'
            f' viewBox="0 0 {WIDTH} {top}" role="img">',
            f"  <title>{escape(title)}</title>",
            f"  <style>{STYLE}  </style>",
            f'  <rect width="{WIDTH}" height="{top}" fill="#ffffff"/>',
            *(f"  {part}" for part in parts),
            "</svg>\n",
        ]
    )
