"""What every page of this project has in common: its template engine, its look, and its charts."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from harness.charts.facts import LineChart
from harness.charts.style import css_variables


def environment(package: str) -> Environment:
    """The templates of a package, which can use ``charts/page.css`` and ``charts/figures.html.j2``."""
    shared = PrefixLoader({"charts": PackageLoader("harness.charts", "")})
    made = Environment(
        autoescape=True,
        loader=ChoiceLoader([PackageLoader(package, ""), shared]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"css_variables": css_variables, "draw": _draw}
    return made


def _draw(chart: LineChart, key: str, width: int, height: int, roomy: bool = False) -> tuple[Markup, str]:
    """A chart as an ``svg`` element, and the inset of its lines."""
    from harness.charts.svg import draw_svg

    drawing = draw_svg(chart, key, width, height, roomy=roomy)
    return Markup(drawing.svg), drawing.inset
