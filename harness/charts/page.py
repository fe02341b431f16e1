"""What all pages have in common: the template engine, the style, and charts as SVG that scale, have descriptions and use the page's style."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from xml.etree import ElementTree

from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from harness.charts import DARK, LIGHT, VARIABLES, LineChart
from harness.charts.drawing import CLASS, draw_lines, plain_matplotlib
from harness.wording import visible


class Templates:
    """The templates of a package, which can use ``charts/page.css`` and ``charts/figures.html.j2``."""

    def __init__(self, package: str, filters: Mapping[str, Callable[..., Any]] | None = None, **names: Any) -> None:
        """Finds nothing yet.

        Args:
            package: The package, as ``harness.health``.
            filters: What its templates can use as filters.
            names: What they know by name.
        """
        self._package, self._filters, self._names = package, filters or {}, names

    def render(self, template: str, **values: Any) -> str:
        """A template filled in; no character in it controls a terminal, or turns the direction of a line."""
        return visible(self._environment.get_template(template).render(**values), lines=True)

    @cached_property
    def _environment(self) -> Environment:
        shared = PrefixLoader({"charts": PackageLoader("harness.charts", "")})
        made = Environment(
            autoescape=True,
            loader=ChoiceLoader([PackageLoader(self._package, ""), shared]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        made.filters |= {"digest": _digest, **self._filters}
        made.globals |= {"css_variables": css_variables, "draw": _draw, **self._names}
        return made


def _digest(script: str) -> str:
    """What a content security policy calls a script by, so that no other runs."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def css_variables() -> str:
    """The colours as variables of a style sheet."""
    light, dark = (" ".join(f"--{name}: {colour};" for name, colour in colours.items()) for colours in (LIGHT, DARK))
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def _draw(chart: LineChart, key: str, width: int, height: int, roomy: bool = False) -> tuple[Markup, str]:
    """A chart as an ``svg`` element, and the inset of its lines."""
    drawing = draw_svg(chart, key, width, height, roomy=roomy)
    return Markup(drawing.svg), drawing.inset


_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 24
"""Pixels around the lines, which hold the labels of the axes."""

_FONTSIZE = 11
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d+")
_COLOURS = {colour: f"var(--{name})" for name, colour in VARIABLES.items()}
_COLOUR = re.compile("|".join(_COLOURS))
_SINGLE_POINT = re.compile(r"M [-\d.]+ [-\d.]+\s*")
_AROUND_LETTER = re.compile(r" ?([MLCzZ]) ?")
_DROPPED = re.compile(r"(?:font[a-z-]*|stroke-miterlimit|stroke-linejoin|opacity): [^;]*;? ?")


@dataclass(frozen=True)
class Drawing:
    """A drawn chart.

    Attributes:
        svg: An ``svg`` element, without width and height.
        inset: Where its lines are, as the value of the CSS property ``inset``.
    """

    svg: str
    inset: str


def draw_svg(chart: LineChart, key: str, width: int, height: int, *, roomy: bool = False) -> Drawing:
    """Draws a chart for a page.

    Args:
        chart: What to draw.
        key: What the element's ids begin with; another one for each chart of a page.
        width: Pixels, at which letters have their proper size.
        height: The same.
        roomy: Whether the chart is so wide that there is room for words.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    file = io.StringIO()
    with plain_matplotlib():
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # a point is a pixel
        figure.patch.set_visible(False)
        place = _LEFT / width, _BOTTOM / height, 1 - (_LEFT + _RIGHT) / width, 1 - (_TOP + _BOTTOM) / height
        draw_lines(figure.add_axes(place), chart, VARIABLES, fontsize=_FONTSIZE, roomy=roomy)
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    inset = f"{100 * _TOP / height:.2f}% {100 * _RIGHT / width:.2f}% {100 * _BOTTOM / height:.2f}% {100 * _LEFT / width:.2f}%"
    return Drawing(_for_page(file.getvalue(), chart, key), inset)


def _for_page(drawn: str, chart: LineChart, key: str) -> str:
    """The shapes and texts of a drawing, without what belongs to a file, in variables of the page's style sheet."""
    source = ElementTree.fromstring(drawn)
    labels = {"role": "img", "aria-labelledby": f"{key}-title", "aria-describedby": f"{key}-text"}
    page = ElementTree.Element("svg", {"class": "drawing", "viewBox": source.attrib["viewBox"], **labels})
    for tag, text in (("title", chart.title), ("desc", chart.description)):
        ElementTree.SubElement(page, tag, {"id": f"{key}-{'title' if tag == 'title' else 'text'}"}).text = text
    defs = ElementTree.SubElement(page, "defs")
    _copy(source, page, defs, key, "")
    if not len(defs):
        page.remove(defs)
    return ElementTree.tostring(page, encoding="unicode")


def _copy(source: ElementTree.Element, page: ElementTree.Element, defs: ElementTree.Element, key: str, kind: str) -> None:
    """Copies shapes and texts; what matplotlib knows as the id of a group is the class of what is in it."""
    for element in source:
        tag, name = element.tag.removeprefix(_SVG), element.get("id", "")
        if tag == "defs":
            _copy(element, defs, defs, key, "")
        elif tag == "g":
            kind_of_group = name.removeprefix(CLASS) if name.startswith(CLASS) else kind
            dots = element.find(f"{_SVG}use")
            group = page if dots is None else ElementTree.SubElement(page, "g", _dot_attributes(dots, kind_of_group))
            _copy(element, group, defs, key, kind_of_group)
        elif tag in ("path", "use", "text") and not _SINGLE_POINT.fullmatch(element.get("d", "")):
            copy = ElementTree.SubElement(page, tag, dict(_attributes(element.attrib, tag, key)))
            copy.text = (element.text or "").strip() or None
            if kind and tag != "use":
                copy.set("class", kind)


def _dot_attributes(dot: ElementTree.Element, kind: str) -> dict[str, str]:
    """What the dots of a line have in common."""
    return {**({"class": kind} if kind else {}), "style": _in_variables(dot.attrib.get("style", ""))}


def _attributes(given: Mapping[str, str], tag: str, key: str) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        if name == "style":
            if tag != "use":
                yield name, _in_variables(value)
        elif name == "id":
            yield name, f"{key}-{value}"
        elif name == _HREF:
            yield "href", f"#{key}-{value.removeprefix('#')}"
        elif name == "d":
            yield name, _AROUND_LETTER.sub(r"\1", _rounded(value))
        elif name != "transform" or tag != "text":  # a text that is not turned is turned by 0 degrees
            yield name, _rounded(value)


def _in_variables(style: str) -> str:
    """A style whose colours are variables, without what the page decides."""
    return (
        _COLOUR.sub(lambda found: _COLOURS[found[0]], _DROPPED.sub("", style)).replace(": ", ":").replace("; ", ";").strip("; ")
    )


def _rounded(value: str) -> str:
    return " ".join(_NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), value).split())
