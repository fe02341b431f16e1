"""Colours and fonts of pages and pictures, in a light room and in a dark one."""

from __future__ import annotations

from typing import Any

LIGHT = {
    "page": "#fbfaf7",
    "line": "#e2dfd7",
    "track": "#e6e3db",
    "empty": "#efece5",
    "ink": "#1d1c1a",
    "soft": "#5e5a53",
    "focus": "#1f5fbf",
    "bar": "#5b7a99",
    "failed": "#a8261c",
    "failed-tint": "#fcf1ee",
    "failed-band": "#f9e4e0",
    "failed-line": "#efcdc7",
    "warning": "#7d5200",
    "warning-tint": "#fbf3e0",
    "warning-line": "#e8d5a6",
    "passed": "#20693f",
    "raw": "#9db8cf",
    "mean": "#2a6194",
    "band": "#d5e1ec",
    "epochs": "#b0501a",
}
DARK = {
    "page": "#151514",
    "line": "#353430",
    "track": "#33322f",
    "empty": "#232321",
    "ink": "#eceae4",
    "soft": "#aaa69c",
    "focus": "#8ab8ff",
    "bar": "#7d9cbc",
    "failed": "#ff9c8f",
    "failed-tint": "#251a18",
    "failed-band": "#33211e",
    "failed-line": "#56322d",
    "warning": "#e8b95a",
    "warning-tint": "#262114",
    "warning-line": "#54461f",
    "passed": "#7fcf9d",
    "raw": "#46627b",
    "mean": "#8fbde6",
    "band": "#26394a",
    "epochs": "#f0a264",
}

GOOD_TO_BAD = ("#123f6b", "#2a6194", "#6b9cc4", "#b5d0e4", "#f1f0ea")
"""Of a heat map, the best first."""

FONT = "DejaVu Sans"
"""It comes with matplotlib, so a picture looks the same everywhere."""

VARIABLES = {name: f"#fe{index:02x}fe" for index, name in enumerate(LIGHT)}
"""Colours that stand for the variables of a style sheet while matplotlib draws."""

LINES: dict[str, dict[str, Any]] = {
    "raw": {"color": "raw", "linewidth": 0.9, "markersize": 2.5},
    "mean": {"color": "mean", "linewidth": 1.9, "markersize": 4.5},
    "epochs": {"color": "epochs", "linewidth": 1.6, "markersize": 6.5},
    "start": {"color": "epochs", "linewidth": 0.0, "markersize": 6.5, "hollow": True},
    "reference": {"color": "soft", "linewidth": 1.9, "markersize": 4.5, "linestyle": (0, (3, 2))},
    "current": {"color": "focus", "linewidth": 1.9, "markersize": 4.5},
    "trials": {"color": "raw", "linewidth": 0.0, "markersize": 6.0},
    "trend": {"color": "mean", "linewidth": 1.7, "markersize": 8.0},
    "values": {"color": "mean", "linewidth": 0.0, "markersize": 8.0},
}
"""The style of a line: its colour's name, widths and sizes, whether its dots are hollow."""


def css_variables() -> str:
    """The colours as variables of a style sheet."""
    light, dark = (" ".join(f"--{name}: {colour};" for name, colour in colours.items()) for colours in (LIGHT, DARK))
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
