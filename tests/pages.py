"""A page in a browser, and what can be wrong with it: each function names the faults it finds, and finds none in a good page."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

LEAST_OF_TEXT = 4.5
LEAST_OF_SHAPES = 3.0
"""Contrast ratios of WCAG 2.2, level AA: success criteria 1.4.3, of small text, and 1.4.11, of graphics and of what has the focus."""

_NAME = "const name = one => `${one.tagName.toLowerCase()} ${(one.ariaLabel || one.textContent).trim().slice(0, 40)}`;"

_TOO_WIDE = """() => {
  const page = document.documentElement;
  if (page.scrollWidth <= page.clientWidth) return [];
  const scrolls = one => one !== document.body && (getComputedStyle(one).overflowX !== "visible" || scrolls(one.parentElement));
  const isWide = one => one.getBoundingClientRect().right > page.clientWidth || one.scrollWidth > one.clientWidth + 1;
  const wide = [...document.body.querySelectorAll("*")].filter(one => isWide(one) && !scrolls(one)).map(name);
  return wide.length ? wide : [`the page, by ${page.scrollWidth - page.clientWidth} pixels`];
}"""

_COLLIDING = """() => [...document.querySelectorAll(".plot svg")].flatMap(svg => {
  const texts = [...svg.querySelectorAll("text")].map(one => [one, one.getBoundingClientRect()]);
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom;
  return texts.flatMap(([one, box], at) =>
    texts.slice(at + 1).filter(([, other]) => meet(box, other)).map(([other]) => `${name(one)} and ${name(other)}`));
})"""

_COLOURS = """
const parts = colour => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = (above, below) => above.slice(0, 3).map((value, at) => value * above[3] + below[at] * (1 - above[3]));
const luminance = colour => {
  const [r, g, b] = colour.map(value => value / 255).map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const groundOf = one => {
  const above = [];
  for (let at = one; at; at = at.parentElement) above.push(parts(getComputedStyle(at).backgroundColor));
  const paper = matchMedia("(prefers-color-scheme: dark)").matches && matchMedia("screen").matches ? [18, 18, 18] : [255, 255, 255];
  return above.reduceRight((below, colour) => over(colour, below), paper);
};
const opacityOf = one => one ? Number(getComputedStyle(one).opacity) * opacityOf(one.parentElement) : 1;
const contrast = (colour, one) => {
  const ground = groundOf(one), [r, g, b, a] = parts(colour);
  const [low, high] = [over([r, g, b, a * opacityOf(one)], ground), ground].map(luminance).sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
"""

_FAINT = (
    "([text, shapes]) => {"
    + _COLOURS
    + """
  const faint = [];
  const judge = (one, colour, least) => {
    const ratio = contrast(colour, one);
    if (ratio < least) faint.push(`${name(one)}: ${ratio.toFixed(2)}, ${colour}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !one.checkVisibility() || one.closest("script, title, desc")) continue;
    judge(one, one instanceof SVGElement ? getComputedStyle(one).fill : getComputedStyle(one).color, text);
  }
  for (const one of document.querySelectorAll("path.line, g.band use, circle.arc")) {
    const { fill, stroke } = getComputedStyle(one);
    judge(one, stroke === "none" ? fill : stroke, shapes);
  }
  for (const one of document.querySelectorAll(".bars i")) {
    const { backgroundColor, borderTopStyle, borderTopColor } = getComputedStyle(one, "::before");
    judge(one, borderTopStyle === "none" ? backgroundColor : borderTopColor, shapes);
  }
  for (const one of [document.documentElement, ...document.querySelectorAll(".scroll, .rows, .tall, .excerpt")]) {
    const [thumb, track] = getComputedStyle(one).scrollbarColor.match(/rgba?\\([^)]*\\)/g) ?? [];
    if (!track || parts(track)[3] !== 0) faint.push(`${name(one)}: the track of its scrollbar has a colour of the browser's`);
    else judge(one, thumb, shapes);
  }
  return faint;
}"""
)

_OPERABLE = """
const operable = [...document.querySelectorAll("a[href], button, summary, input, [tabindex]")].filter(one => one.checkVisibility());
"""

_FOCUS = (
    "(least) => {"
    + _COLOURS
    + _OPERABLE
    + """
  const one = document.activeElement;
  if (one === document.body) return null;
  const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(one);
  const isSeen = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 && contrast(outlineColor, one.parentElement) >= least;
  const box = one.getBoundingClientRect();
  return { place: operable.indexOf(one), name: name(one), isSeen, isInView: box.bottom > 0 && box.top < innerHeight };
}"""
)


@dataclass
class Visit:
    """A page in a browser.

    Attributes:
        page: The page, loaded.
        requests: Addresses it asked for, besides its own, ``data:`` among them.
        complaints: Errors and warnings of its console.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def too_wide(page: Page) -> list[str]:
    """What makes the page scroll sideways."""
    return list(page.evaluate(_with_name(_TOO_WIDE)))


def colliding(page: Page) -> list[str]:
    """Words of a drawing that run into each other."""
    return list(page.evaluate(_with_name(_COLLIDING)))


def faint(page: Page) -> list[str]:
    """Words, lines and bars with too little contrast to what is behind them."""
    return list(page.evaluate(_with_name(_FAINT), [LEAST_OF_TEXT, LEAST_OF_SHAPES]))


def out_of_reach(page: Page) -> list[str]:
    """What can be operated but not by keyboard alone: not reached by Tab, reached out of order, or without being seen to be."""
    operable = page.evaluate(_with_name(f"() => {{ {_OPERABLE} return operable.map(name); }}"))
    faults, places = [], []
    for _ in operable:
        page.keyboard.press("Tab")
        stop = page.evaluate(_with_name(_FOCUS), LEAST_OF_SHAPES)
        if stop is None or stop["place"] in places:  # behind the last, the browser continues to its own buttons or begins again
            break
        places.append(stop["place"])
        faults += [f"{stop['name']} does not show the focus"] if not stop["isSeen"] else []
        faults += [f"{stop['name']} has the focus out of sight"] if not stop["isInView"] else []
    faults += [f"{name} is not reached" for place, name in enumerate(operable) if place not in places]
    return [*faults, *(["the order is not that of the page"] if places != sorted(places) else [])]


def _with_name(function: str) -> str:
    return f"argument => {{ {_NAME} return ({function})(argument); }}"


_VOID = {"meta", "link", "col", "br", "input", "img", "wbr"}


class Elements(HTMLParser):
    """Every element with its attributes and text; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text: list[str] = []
        self.elements.append((tag, dict(attrs), text))
        if tag not in _VOID:
            self._open.append((tag, text))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, text in self._open:
            text.append(data)

    @property
    def skeleton(self) -> list[tuple[str, set[str]]]:
        """Every element with the names of its attributes."""
        return [(tag, set(attrs)) for tag, attrs, _ in self.elements if tag != "wbr"]

    @property
    def script(self) -> str:
        """The page's own script, to the letter."""
        return next("".join(text) for tag, _, text in self.elements if tag == "script")

    def texts(self, tag: str, **wanted: str) -> list[str]:
        return [
            " ".join("".join(text).split())
            for name, attrs, text in self.elements
            if name == tag and wanted.items() <= {key.replace("class", "class_"): value for key, value in attrs.items()}.items()
        ]

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attrs[name] or "" for found, attrs, _ in self.elements if found == tag and name in attrs]
