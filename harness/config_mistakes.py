"""What is said when a config file is wrong: the key's path, what was expected, what was found, and the nearest valid name."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from harness.errors import Mistake, nearest

_SEVERAL_FORMS = {
    "tier": '"1" to "5", or a list of them',
    "devices": 'a number of devices from 1, "auto", or a list of device numbers from 0',
    "loss": "file.py:function, or {function: file.py:name, over: batch}",
    "baseline_run_id": "a run's number or name",
    "reference_profile_id": "a run's number or name",
    "export.dynamic_shapes": "true, false, or for axes by name each true, false or [smallest, largest]",
}
"""What is expected of keys that take values of several forms, for which the validation library reports every form by itself."""

_FORM = re.compile(r"constrained-|^(list|dict|literal)\[")
"""What the validation library calls one of several forms of a value, which it puts into a key's path."""

_CONTROL = ("Cc", "Zl", "Zp")
"""Unicode categories of characters that would break a message into lines, or reach the terminal as a command."""

_SHA256 = "64 hexadecimal digits in lower case"
_FUNCTION = "file.py:function; a built-in set is named by `dataset_id`"
_PATTERNS = {
    "call": "the name of a method",
    "example": "file.py:function, or :function of the model's file",
    "model_import": "pkg.mod:callable",
    "train.dataset": _FUNCTION,
    "eval.dataset": _FUNCTION,
    "train.datamodule": "file.py:Class, or model",
    "eval.datamodule": "file.py:Class, or model",
    "gist_sha256": _SHA256,
    "export.trust": _SHA256,
}


def refusal(code: str, message: str, key: str = "", suggestion: str = "") -> PydanticCustomError:
    """What a validator raises.

    Args:
        code: What kind of mistake it is.
        message: What is wrong and what to do.
        key: The key inside the group that is validated, where the mistake is that of one.
        suggestion: The nearest valid name.
    """
    return PydanticCustomError(code, "{message}", {"message": message, "key": key, "suggestion": suggestion, "is_ours": True})  # type: ignore[arg-type]


def explain(error: ValidationError, keys_at: Callable[[list[str]], list[str]]) -> list[Mistake]:
    """The mistakes that a validation found.

    Args:
        error: What the validation found.
        keys_at: The valid keys inside a group, by the group's path.
    """
    found: dict[str, Mistake] = {}
    # Of the forms a value may have, the one it came closest to is reported deepest.
    for item in sorted(error.errors(), key=lambda item: -len(item["loc"])):
        path = [str(part) for part in item["loc"] if item["type"] == "extra_forbidden" or not _FORM.search(str(part))]
        form = next((key for key in (".".join(path[:1]), ".".join(path[:2])) if key in _SEVERAL_FORMS), None)
        if form is not None and item["type"] != "extra_forbidden":
            key, got = _bad_item(form, item)
            found.setdefault(form, Mistake("wrong_value", key, f"`{key}`: got {_shown(got)}, expected {_SEVERAL_FORMS[form]}"))
        else:
            mistake, whole = _explain_one(item, path, keys_at), ".".join(path)
            before = found.setdefault(whole, mistake)
            if before is not mistake and len(path) < len(item["loc"]):  # another form of the same value
                other = mistake.message.rpartition(", expected ")[2]
                found[whole] = replace(before, message=f"{before.message} or {other}")
    return list(found.values())


def _bad_item(key: str, item: Mapping[str, Any]) -> tuple[str, Any]:
    """The key's path and the value that is wrong: an item of the list where one was given."""
    index = next((part for part in item["loc"][1:] if isinstance(part, int)), None) if "." not in key else None
    return (key if index is None else f"{key}.{index}"), item["input"]


def _explain_one(item: Mapping[str, Any], path: list[str], keys_at: Callable[[list[str]], list[str]]) -> Mistake:
    key = ".".join(path).encode("unicode_escape").decode()
    kind, got, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        near = nearest(path[-1], keys_at(path[:-1]))
        return Mistake("unknown_key", key, f"unknown key `{key}`.{_did_you_mean(near)}", near)
    if context.get("is_ours"):
        inner = ".".join(part for part in (key, context["key"]) if part)
        return Mistake(kind, inner, f"`{key}`: {context['message']}" if key else context["message"], context["suggestion"])
    if kind == "missing":
        return Mistake("missing_key", key, f"`{key}` is missing: `{'.'.join(path[:-1])}` needs it")
    if kind == "value_error":
        message = str(context["error"])
        return Mistake("impossible_value", key, f"`{key}`: {message}" if key else message)
    near = nearest(got, _choices(context["expected"])) if kind == "literal_error" and isinstance(got, str) else ""
    code = "unknown_choice" if kind == "literal_error" else "wrong_type" if kind.endswith("type") else "wrong_value"
    return Mistake(
        code, key, f"`{key}`: got {_shown(got)}, expected {_expected(item, path)}{near and f'.{_did_you_mean(near)}'}", near
    )


def _choices(expected: str) -> list[str]:
    return [name.strip("' ") for name in expected.replace(" or ", ", ").split(", ")]


def _did_you_mean(near: str) -> str:
    return f" Did you mean {near!r}?" if near else ""


def _expected(item: Mapping[str, Any], path: list[str]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind in ("too_short", "too_long"):
        return f"a list of {context.get('min_length', context.get('max_length'))} items"
    if kind == "string_too_short":
        return "a name, not an empty string"
    if kind == "string_pattern_mismatch":
        return next(form for key, form in _PATTERNS.items() if ".".join(path).startswith(key))
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return "an object of keys"
    text = item["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if text.split()[0] in ("greater", "less", "a", "an"):
        return str(text)
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}…"


def why_no_path(text: str, resolve: Callable[[str], Path]) -> str:
    """Why a text can be the path of no file here; empty where it can, whether or not there is a file."""
    if any(unicodedata.category(character) in _CONTROL for character in text):
        return f"got {_shown(text)}, expected a path without control characters"
    try:
        resolve(text).exists()
    except (OSError, RuntimeError) as error:
        # Too long a name, links in a circle, the home of nobody, a folder that may not be read.
        return f"got {_shown(text)}: {getattr(error, 'strerror', None) or error}"
    return ""
