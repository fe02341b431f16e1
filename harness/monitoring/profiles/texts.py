"""What is measured of texts of which nearly each is its own level, such as ids and free text: length, digits and script."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.readers.arrow import TextColumn
from harness.errors import optional_package
from harness.monitoring.features.kinds import Column
from harness.monitoring.features.values import is_missing

_SCRIPTS = {
    "Latin": "[A-Za-zÀ-ÖØ-öø-ɏ]",
    "Greek": "[Ͱ-Ͽ]",
    "Cyrillic": "[Ѐ-ӿ]",
    "Hebrew": "[֐-׿]",
    "Arabic": "[؀-ۿ]",
    "Indic": "[ऀ-෿]",
    "Thai": "[฀-๿]",
    "East Asian": "[぀-ヿ㐀-鿿가-힯]",
}
"""Letters by script; a text is of the last one that it has letters of."""

_NO_LETTERS = "no letters"
_BROKEN = "broken"
_BROKEN_LETTERS = "[ÃÂ][\u0080-¿]|\ufffd|â€"
"""What texts of UTF-8 look like that were read as another encoding."""


def _lengths(column: Column) -> NDArray[np.float64]:
    if isinstance(column, TextColumn):
        return _floats(_compute().utf8_length(column.trimmed()))
    return np.array([np.nan if is_missing(text) else len(str(text)) for text in np.asarray(column).tolist()], np.float64)


def _digits(column: Column) -> NDArray[np.float64]:
    """The share of digits among the characters of each text."""
    if isinstance(column, TextColumn):
        found = _floats(_compute().count_substring_regex(column.trimmed(), "[0-9]"))
    else:
        texts = np.asarray(column).tolist()
        found = np.array([np.nan if is_missing(text) else len(re.findall("[0-9]", str(text))) for text in texts], np.float64)
    return found / np.maximum(_lengths(column), 1)


def _scripts(column: Column) -> NDArray[Any]:
    """The script of each text, ``broken`` of one in a wrong encoding; ``None`` where there is no text."""
    if isinstance(column, TextColumn):
        texts, match = column.trimmed(), _compute().match_substring_regex
        there, is_ascii = np.asarray(texts.is_valid()), np.asarray(_compute().string_is_ascii(texts).fill_null(fill_value=True))
        others = texts.filter(~is_ascii)
        has = {
            name: np.asarray(match(texts if name == "Latin" else others, letters).fill_null(fill_value=False))
            for name, letters in {**_SCRIPTS, _BROKEN: _BROKEN_LETTERS}.items()
        }
    else:
        values = np.asarray(column).tolist()
        there = np.array([not is_missing(value) for value in values], bool)
        whole = [str(value) if known else "" for value, known in zip(values, there.tolist(), strict=True)]
        is_ascii = np.array([text.isascii() for text in whole], bool)
        rest = [text for text in whole if not text.isascii()]
        has = {
            name: np.array([bool(re.search(letters, text)) for text in (whole if name == "Latin" else rest)], bool)
            for name, letters in {**_SCRIPTS, _BROKEN: _BROKEN_LETTERS}.items()
        }
    found = np.where(has["Latin"], "Latin", _NO_LETTERS).astype(object)
    others_found = found[~is_ascii]
    for name in [*list(_SCRIPTS)[1:], _BROKEN]:
        others_found[has[name]] = name
    found[~is_ascii] = others_found
    found[~there] = None
    return found


TEXT_PARTS: dict[str, tuple[str, Callable[[Column], NDArray[Any]]]] = {
    "length": ("numeric", _lengths),
    "digits": ("numeric", _digits),
    "script": ("categorical", _scripts),
}
"""What is measured of texts that are no levels: the kind of the feature, and how it is measured."""


def _compute() -> Any:
    return optional_package("pyarrow.compute", "Arrow")


def _floats(counts: Any) -> NDArray[np.float64]:
    arrow = optional_package("pyarrow", "Arrow")
    return np.asarray(counts.cast(arrow.float64()).to_numpy(zero_copy_only=False))
