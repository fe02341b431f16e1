"""Colours and letters of the pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE, INK, SOFT, RULE = "#fbfaf7", "#1d1c1a", "#5e5a53", "#e2dfd7"
MARK, PALE, BEST, FAILED, FAILED_TINT, EMPTY = "#2a6194", "#9db8cf", "#20693f", "#a8261c", "#f7dcd7", "#efece5"
GOOD_TO_BAD = ("#123f6b", "#2a6194", "#6b9cc4", "#b5d0e4", "#f1f0ea")
"""Of a heat map, the best first."""

FONT = "DejaVu Sans"
"""It comes with matplotlib, so the picture looks the same everywhere."""


def plain_axes(axes: Axes) -> None:
    """Axes without a frame, on pale rules."""
    axes.set_facecolor(PAGE)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9, labelcolor=SOFT, which="both")
    axes.set_axisbelow(True)


def settle(figure: Figure) -> None:
    """Holds every text to what it says: no TeX, whatever a value contains or the user's matplotlibrc asks for."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_usetex(False)
        text.set_fontfamily(FONT)
        text.set_parse_math(False)


def plain_number(value: float, _position: float | None = None) -> str:
    """A tick of a logarithmic axis, as a number rather than a power of ten."""
    return f"{value:g}"
