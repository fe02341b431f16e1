"""What functions of packages return, as far as a model's settings come from them: command lines, config files, namespaces, paths."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.models.followed import PLAIN, UNKNOWN, Method, Object, Outside, Settings, UnknownError, is_iterated, opened, unknown
from harness.models.followed.arrays import ARRAYS, called_on_array, made_array

CONFIGS = (".yaml", ".yml", ".json")
"""Endings of config files."""

LARGEST_FILE = 1_000_000
"""Bytes of a file that is read."""

LONGEST = 4_096
"""Items of a value that is worked out."""

BUILTINS: Mapping[str, Any] = {
    each.__name__: each
    for each in (
        abs,
        all,
        any,
        bool,
        dict,
        enumerate,
        float,
        int,
        isinstance,
        len,
        list,
        max,
        min,
        range,
        reversed,
        round,
        set,
        sorted,
    )
} | {each.__name__: each for each in (str, sum, tuple, type, zip)}
"""Built-in functions that are called."""

OTHER_BUILTINS = ("getattr", "hasattr", "setattr", "vars", "open", "print", "eval")
"""Built-in functions of which another one stands in."""

_SETTINGS = frozenset(
    re.findall(
        r"\w+", "Namespace SimpleNamespace EasyDict edict CfgNode CN ConfigDict FrozenConfigDict AttrDict Munch DotMap create"
    )
)
"""What makes an object of settings of a dict or of keywords, by the last part of its name."""

_METHODS = frozenset(
    re.findall(
        r"\w+",
        "append extend insert items keys values get update copy setdefault pop split strip lower upper find startswith endswith "
        "join replace format count index add rstrip lstrip rpartition partition title zfill",
    )
)
"""Methods of plain values that are called."""

MODULE_METHODS = (
    "to",
    "cuda",
    "cpu",
    "eval",
    "train",
    "float",
    "double",
    "half",
    "requires_grad_",
    "apply",
    "share_memory",
    "type",
)
"""Methods of a model that return it."""

_SAME_MODEL = ("DataParallel", "DistributedDataParallel", "DDP", "compile", "prepare", "convert_sync_batchnorm")
"""What is given a model and gives it back, or something that is called in the same way."""

SETTINGS_METHODS = ("merge_from_file", "merge_from_list", "freeze", "defrost", "clone")
"""Methods of a config of yacs."""

_DOCUMENTED = re.compile(r"^\s*(--[\w-]+)[ =]?<?\w*>?\s.*\[default: ([^\]]*)\]", re.MULTILINE)
"""An option in the text that docopt reads, with its default."""

_READERS = ("load", "safe_load", "full_load", "unsafe_load", "loads")
_FLAGS = {"store_true": False, "store_false": True}
"""What an option is by default, by its action."""


_OF_A_FILE = re.compile(r"^(?:\w+_)?(?:cfg|config|conf|yaml|hparams|opt)(?:_(?:file|path))?$")
"""Options that name a config file, which a command line cannot do without."""


@dataclass(eq=False)
class Parser:
    """The options of a command line.

    Attributes:
        defaults: What they are by default.
        chooses: The option that names which of several commands is meant.
    """

    defaults: Settings = field(default_factory=Settings)
    chooses: str = ""


BUILDS = ("torch.nn.", "torchvision.models.")
"""What begins the name of something that makes a module without data from elsewhere."""


@dataclass(frozen=True)
class Opened:
    """A file opened for reading.

    Attributes:
        path: Where it is.
    """

    path: Path


def called_outside(name: str, arguments: Sequence[Any], keywords: Mapping[str, Any], near: Callable[[Any], Path]) -> Any:
    """What a function of a package, or a built-in one, returns.

    Args:
        name: Its dotted name.
        arguments: By position.
        keywords: By name.
        near: Finds a file that the code names, or for ``None`` the likeliest config file.

    Raises:
        UnknownError: It is not known.
    """
    last = name.rpartition(".")[2]
    if last in ("ArgumentParser", "ArgParser"):
        return Parser()
    first = arguments[0] if arguments else None
    if last in _SAME_MODEL and isinstance(first, Object):
        return first
    if last == "tqdm" and first is not None:
        return first
    if any(each is UNKNOWN for each in (*arguments, *keywords.values())):
        unknown(name)
    if last in _SETTINGS or last in ("OrderedDict",) or name == "dict":
        pairs = (
            {}
            if first is None
            else first
            if isinstance(first, dict)
            else dict(first)
            if isinstance(first, (list, zip))
            else unknown(name)
        )
        return opened({**pairs, **keywords}) if last in _SETTINGS else {**pairs, **keywords}
    if last == "docopt" and isinstance(first, str):
        return dict(_DOCUMENTED.findall(first))
    if last == "YAML":  # ruamel's reader
        return Outside("yaml")
    if last == "load_all" and arguments:
        return [_content(first, near, "yaml")]
    if name == "vars" and isinstance(first, Settings):
        return first
    if name == "open" and str(arguments[1] if len(arguments) > 1 else keywords.get("mode", "r")).startswith("r"):
        return Opened(near(first))
    if last in _READERS and arguments:
        found = _content(first, near, "json" if name.startswith("json") else "yaml")
        return opened(found) if "onf" in name else found
    if "path" in name and arguments and all(isinstance(each, str) for each in arguments):
        path = Path(*arguments)
        parts = {"dirname": path.parent, "basename": path.name}
        return str(parts.get(last, path)) if last in ("join", "dirname", "basename", "abspath", "realpath") else unknown(name)
    if last == "device" and str(first).startswith(("cuda", "cpu", "mps")):
        return "cpu"
    if last in ("is_available", "device_count"):
        return 0 if last == "device_count" else False
    if last in ("deepcopy", "copy") and isinstance(first, PLAIN):
        return copy.deepcopy(first)
    if name == "isinstance" and len(arguments) == 2:
        kinds = arguments[1] if isinstance(arguments[1], tuple) else (arguments[1],)
        return isinstance(
            first, tuple(BUILTINS[each.name] for each in kinds if isinstance(each, Outside) and each.name in BUILTINS)
        )
    if name == "type" and len(arguments) == 1 and isinstance(first, PLAIN):
        return Outside(type(first).__name__)
    if name.startswith(("torch.", "numpy.")):
        return made_array(name, arguments, keywords)
    function = getattr(math, last, None) if name.startswith("math.") else BUILTINS.get(name)
    if function is None or not all(isinstance(each, (*PLAIN, *ARRAYS)) or is_iterated(each) for each in arguments):
        unknown(name)
    if function is range and any(isinstance(each, int) and abs(each) > LONGEST for each in arguments):
        unknown(name)
    return _tried(name, lambda: function(*arguments, **keywords))


def called_method(method: Method, arguments: Sequence[Any], keywords: Mapping[str, Any], near: Callable[[Any], Path]) -> Any:
    """What a method of a plain value, of settings, of a file or of a command line returns.

    Args:
        method: The method, with its owner.
        arguments: By position.
        keywords: By name.
        near: Finds a file that the code names.

    Raises:
        UnknownError: It is not known.
    """
    owner, name = method.owner, method.name
    if isinstance(owner, ARRAYS):
        return called_on_array(owner, name, arguments, keywords)
    if isinstance(owner, Object):
        return owner
    if isinstance(owner, Parser):
        return _parsed(owner, name, arguments, keywords, near)
    if isinstance(owner, Opened):
        return owner.path.read_text(encoding="utf-8") if name == "read" else unknown(name)
    if isinstance(owner, Settings) and name in SETTINGS_METHODS:
        if name == "merge_from_file" and arguments and arguments[0] is not UNKNOWN:
            _merge(owner, opened(_content(str(arguments[0]), near, "yaml")))
        return copy.deepcopy(owner) if name == "clone" else None
    if name not in _METHODS or any(each is UNKNOWN for each in (*arguments, *keywords.values())):
        unknown(name)
    return _tried(name, lambda: getattr(owner, name)(*arguments, **keywords))


def _parsed(parser: Parser, name: str, arguments: Sequence[Any], keywords: Mapping[str, Any], near: Callable[[Any], Path]) -> Any:
    if name in ("add_argument_group", "add_mutually_exclusive_group"):
        return parser
    if name == "add_subparsers":
        parser.chooses = str(keywords.get("dest", ""))
        return parser
    if name == "add_parser":  # the first command is what people mean
        if parser.chooses and arguments:
            parser.defaults.setdefault(parser.chooses, arguments[0])
        return parser
    if name == "set_defaults":
        parser.defaults.update(keywords)
        return None
    if name in ("parse_args", "parse_known_args"):
        made = copy.deepcopy(parser.defaults)
        return (made, []) if name == "parse_known_args" else made
    if name != "add_argument":
        unknown(name)
    flags = [each for each in arguments if isinstance(each, str)]
    long = next((flag for flag in flags if flag.startswith("--")), flags[0] if flags else "")
    key = str(keywords.get("dest", long.lstrip("-").replace("-", "_")))
    value, kind = keywords.get("default", _FLAGS.get(str(keywords.get("action")))), keywords.get("type")
    if value is None and _OF_A_FILE.search(key):
        with suppress(UnknownError):
            value = str(near(None))
    if value is UNKNOWN or (value is None and keywords.get("required") is True):
        parser.defaults.pop(key, None)
        return None
    if isinstance(value, str) and isinstance(kind, Outside) and kind.name in ("int", "float"):
        with suppress(ValueError):
            value = BUILTINS[kind.name](value)
    parser.defaults[key] = value
    return None


def _content(source: Any, near: Callable[[Any], Path], kind: str) -> Any:
    """What a JSON or YAML text, or the file of one, holds."""
    is_text = isinstance(source, str) and ("\n" in source or "{" in source)
    path = source.path if isinstance(source, Opened) else None if is_text else near(source)
    text = str(source) if path is None else path.read_text(encoding="utf-8")
    if kind == "json" or (path is not None and path.suffix == ".json"):
        return _tried("json", lambda: json.loads(text))

    def read() -> Any:
        import yaml

        return yaml.safe_load(text)

    return _tried("yaml", read)


def _merge(settings: Settings, other: Any) -> None:
    for name, value in other.items() if isinstance(other, dict) else ():
        if isinstance(value, Settings) and isinstance(settings.get(name), Settings):
            _merge(settings[name], value)
        else:
            settings[name] = value


def _tried(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # whatever Python raises for these values
        raise UnknownError(what) from error
