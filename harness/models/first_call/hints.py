"""What a file says of the arguments of a model's forward: names, annotations, comments and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from harness.models.first_call.argument import BATCH, FEW, IMAGE_SIDE, Argument, default_sizes
from harness.models.first_call.guesses import made_alike
from harness.models.usual_values import snake_case

_FLEXIBLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

STATES = ("hidden", "state", "hx", "cache", "past", "h_0", "h0", "memory")
"""Parts of names of arguments that continue an earlier call."""

_SEQUENCE = 11
"""Length of a sequence that is tried first."""

_STEPS = 100
"""Steps of a diffusion that are tried where the model says nothing."""

_NODES, _EDGES = 7, 17
"""Size of a graph that is tried first."""

_NAMED: tuple[tuple[str, Argument], ...] = tuple(
    (pattern, Argument("", **keys))
    for pattern, keys in (
        (r"edge_?index|edges|adj_t", {"sizes": (2, _EDGES), "holds": "ids", "count": _NODES}),
        (r"edge_?weights?", {"sizes": (_EDGES,)}),
        (r"edge_?(?:attr|feat|feature)s?", {"sizes": (_EDGES, 13)}),
        (r"adj|adjacency|adj_?mat(?:rix)?|laplacian", {"sizes": (_NODES, _NODES)}),
        (r".*(?:lengths?|_lens?|lens)", {"sizes": (BATCH,), "holds": "lengths", "count": _SEQUENCE}),
        (r".*(?:padding_mask|pad_mask)", {"sizes": (BATCH, _SEQUENCE), "holds": "bools"}),
        (r".*mask.*", {"sizes": (BATCH, _SEQUENCE), "holds": "ones"}),
        (r"t|time_?steps?|steps?|diffusion_step", {"sizes": (BATCH,), "holds": "ids", "count": _STEPS}),
        (r"sigmas?|noise_level|log_snr|noise_std", {"sizes": (BATCH,)}),
        (
            r"(?:user|item|movie|product|book|song|entity|relation|head|tail)s?(?:_?(?:ids?|idx|indices|input|inputs))?",
            {"sizes": (BATCH,), "holds": "ids", "count": FEW},
        ),
        (r"class_(?:labels?|ids?)|class_idx", {"sizes": (BATCH,), "holds": "ids", "count": FEW}),
        (
            r"input_?ids|.*tokens?|.*token_?ids|.*text|captions?|words?|sentences?|questions?|ids|seqs?|.*_ids|.*_seqs?",
            {"sizes": (BATCH, _SEQUENCE), "holds": "ids", "count": FEW},
        ),
        (r".*video.*|clips?", {"sizes": default_sizes(5)}),
        (r".*(?:image|img|pixel|picture|photo)s?.*|.*pixel_values", {"sizes": default_sizes(4)}),
        (r"wavs?|waveforms?|audios?|.*audio|signals?|raw", {"sizes": (BATCH, 1, 4096)}),
        (r"mels?|spectrograms?|specs?|.*mel", {"sizes": (BATCH, 80, 37)}),
        (r"points?|point_?clouds?|pcs?|xyz|pos|coords?|vertices", {"sizes": (BATCH, 37, 3)}),
        (
            r"states?|obs|observations?|features?|actions?|noise|z|latents?|dense.*|numerical|numeric|continuous|x_num|x_cont",
            {"sizes": (BATCH, 13)},
        ),
        (r"sparse.*|categorical|cat_features|x_cat|x_categ", {"sizes": (BATCH, 5), "holds": "ids", "count": FEW}),
    )
)
"""What parameters of usual names take; corrected by what a call says."""

_AXIS_NAMES = {
    "b": "batch", "n": "batch", "bs": "batch", "bsz": "batch", "batch_size": "batch", "batchsize": "batch", "batch": "batch",
    "h": "height", "w": "width", "height": "height", "width": "width", "t": "time", "l": "length",
    "s": "seq", "seq_len": "seq", "seq_length": "seq",
}  # fmt: skip
_SHAPE = re.compile(r"[\[(]\s*((?:[A-Za-z_][\w ]*|\d+)(?:\s*[,x×]\s*(?:[A-Za-z_][\w ]*(?:\s*[*+/-]\s*\w+)?|\d+))+)\s*,?\s*[\])]")
_ROWS = re.compile(
    rf"\(\s*([A-Za-z_]\w*)\s*,\s*\)|[\[(]\s*({'|'.join(k for k, v in _AXIS_NAMES.items() if v == 'batch')})\s*[\])]",
    re.IGNORECASE,
)
"""A single axis: ``(N,)``, or one whose name says that it is the rows, ``[B]``."""


@dataclass(frozen=True)
class Hints:
    """What is known before the first call.

    Attributes:
        required: A guess for each parameter that a call needs, in order.
        optional: A guess for parameters that a call may leave out.
        sizes: Sizes that the model's factory was given or that its class has as defaults, by name.
    """

    required: dict[str, Argument]
    optional: dict[str, Argument] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


def read_hints(model: nn.Module, kwargs: Mapping[str, Any], examples: Mapping[str, tuple[Any, str]]) -> Hints:
    """What is known of a model's forward before it is called.

    Args:
        model: The model.
        kwargs: The arguments it was built with.
        examples: Values that the file makes for parameters, and where.
    """
    parameters = [p for p in inspect.signature(model.forward).parameters.values() if p.kind is not p.VAR_KEYWORD]
    sizes = _sizes_of(model, kwargs)
    said = _shapes_said(model, [p.name for p in parameters])
    made = examples
    required: dict[str, Argument] = {}
    optional: dict[str, Argument] = {}
    for place, parameter in enumerate(parameters):
        needed = parameter.default is parameter.empty and parameter.kind not in _FLEXIBLE
        needed = needed or (parameter.kind is parameter.VAR_POSITIONAL and len(parameters) == 1)
        if parameter.name in made and _has_tensors(made[parameter.name][0]):
            guess = Argument.like(parameter.name, *made[parameter.name])
            required[parameter.name] = guess
            continue
        guess = _guess(parameter, place, model, sizes, said)
        if needed:
            required[parameter.name] = guess
        elif parameter.default is None and parameter.kind not in _FLEXIBLE:
            optional[parameter.name] = guess
    has_tables = any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in model.modules())
    required = _of_a_forecaster(_masked(_of_one_graph(required, has_tables), has_tables), sizes)
    return Hints(made_alike(required), optional, sizes)


def part_guess(key: str) -> Argument:
    """The guess for an entry of a dict."""
    named = _by_name(key)
    return replace(named, name=key, why="its name") if named is not None else Argument(key)


def of_one_graph(parts: tuple[Argument, ...]) -> tuple[Argument, ...]:
    """The attributes of an object, with those of a graph's nodes of one size."""
    return tuple(_of_one_graph({part.name: part for part in parts}, has_tables=False).values())


def _guess(
    parameter: inspect.Parameter,
    place: int,
    model: nn.Module,
    sizes: Mapping[str, int],
    said: Mapping[str, tuple[tuple[str, ...], str]],
) -> Argument:
    name = parameter.name
    shape, where = _annotated(parameter.annotation), "its annotation"
    if shape is None and name in said:
        shape, where = said[name]
    named = _by_name(name)
    guess = replace(named, name=name, why="its name") if named is not None else Argument(name, why="a guess")
    if (
        guess.holds == "ids"
        and "step" not in name
        and name != "t"
        and not any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in model.modules())
        and guess.sizes[0] != 2
    ):
        guess = replace(guess, holds="numbers", sizes=(*guess.sizes[:1], 13) if len(guess.sizes) == 2 else guess.sizes)
    if "int" in str(parameter.annotation).lower() and "Int" in str(parameter.annotation):
        guess = replace(guess, holds="ids", count=max(2, guess.count))
    if (plain := _plain(parameter)) is not None:
        return plain
    if shape is not None:
        guess = _shaped(guess, shape, where, sizes)
    elif place and guess.holds == "numbers" and 1 < len(guess.sizes) <= 3:
        # Another prime than the arguments before it, so that an axis is told by its size.
        guess = replace(guess, sizes=(*guess.sizes[:-1], guess.sizes[-1] + (4, 6, 10, 16)[min(place - 1, 3)]))
    for key in (f"{name}_dim", f"{name}_size", f"{name}_features", f"dim_{name}", f"n_{name}", f"num_{name}"):
        if key in sizes and guess.holds == "numbers" and guess.sizes and shape is None:
            return replace(guess, sizes=(*guess.sizes[:-1], sizes[key]), why=f"{key} of the model")
    side = next((sizes[key] for key in ("image_size", "img_size", "input_resolution", "resolution") if key in sizes), None)
    if side is not None and len(guess.sizes) == 4 and 4 <= side <= 1024:
        guess = replace(guess, sizes=(*guess.sizes[:2], side, side))
    return guess


def _plain(parameter: inspect.Parameter) -> Argument | None:
    """The guess for a parameter that is annotated as a number, a truth value, or several tensors."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if text in _PLAIN:
        return replace(_PLAIN[text], name=parameter.name, why="its annotation")
    several = re.search(r"\b(?:[Ll]ist|[Tt]uple|Sequence|Iterable)\[(.*)\]", str(annotation).replace("torch.", ""))
    if several is None or "Tensor" not in several[1] or re.search(r"Optional|None|Union|\|", str(annotation)):
        return None
    count = several[1].count("Tensor") if "uple" in several[0] and "..." not in several[1] else 2
    parts = tuple(Argument(str(place), why="its annotation") for place in range(count))
    return Argument(parameter.name, (), "parts", why="its annotation", parts=parts)


_PLAIN = {
    "int": Argument("", (), "ids", FEW),
    "float": Argument("", ()),
    "bool": Argument("", (), "bools"),
}
"""What stands for a number where forward takes one: a tensor without axes, which Python takes for a number nearly everywhere."""


def _by_name(name: str) -> Argument | None:
    return next((guess for pattern, guess in _NAMED if re.fullmatch(pattern, name.lower())), None)


_GROUPS = r"batch|graphs?|(?:batch|graph|node)_?(?:index|idx|ids?|batch|graph)"
"""Names of what says which graph each node belongs to."""

_NODE_TYPES = r"atoms?|atom_?types?|atomic_?num(?:ber)?s?|species|z|node_?(?:types?|ids?)"
"""Names of what says the kind of each node, which a table is looked up for."""


def _of_one_graph(required: dict[str, Argument], has_tables: bool) -> dict[str, Argument]:
    """Features of nodes have no rows beside a list of edges or an adjacency matrix."""
    graph = any(re.fullmatch(r"edge_?index|edges|adj.*|laplacian", name.lower()) for name in required)
    if not graph:
        return required
    found = {}
    for name, guess in required.items():
        nodes = guess.why in ("a guess", "its name") and guess.holds == "numbers" and not re.match(r"edge|adj|lap", name.lower())
        guess = replace(guess, sizes=(_NODES, 13), why="a graph's nodes") if nodes else guess
        if has_tables and guess.is_free and not guess.is_said and re.fullmatch(_NODE_TYPES, name.lower()):
            guess = Argument(name, (_NODES,), "ids", FEW, why="a graph's nodes")
        if guess.is_free and not guess.is_said and re.fullmatch(_GROUPS, name.lower()):
            guess = Argument(name, (_NODES,), "ids", 1, why="the graph of each node")
        found[name] = guess
    return found


def _masked(required: dict[str, Argument], has_tables: bool) -> dict[str, Argument]:
    """Numbers beside a mask of positions are a vector for each position."""
    is_masked = any("mask" in name.lower() and len(guess.sizes) == 2 for name, guess in required.items())
    first = next(iter(required.values()), None)
    if not is_masked or has_tables or first is None or first.why != "a guess" or len(first.sizes) != 2:
        return required
    return {**required, first.name: replace(first, sizes=default_sizes(3))}


_WINDOW = re.compile(r"(?:x|batch)_(mark_)?(enc|dec|x|y)(_mark)?")
_CALENDAR = 4
"""Numbers that say the time of a step: month, day, weekday and hour."""


def _of_a_forecaster(required: dict[str, Argument], sizes: Mapping[str, int]) -> dict[str, Argument]:
    """Windows of time series and of their calendar, as long as the settings say: the decoder's starts in the past."""
    found = dict(required)
    past = sizes.get("seq_len", _SEQUENCE)
    ahead = sizes.get("label_len", 0) + sizes.get("pred_len", 0) or past
    for name, guess in required.items():
        window = _WINDOW.fullmatch(name.lower())
        if window is None or guess.why not in ("a guess", "its name") or not guess.is_free:
            continue
        is_past = window[2] in ("enc", "x")
        width = _CALENDAR if window[1] or window[3] else sizes.get("enc_in" if is_past else "dec_in", 13)
        found[name] = replace(guess, sizes=(BATCH, past if is_past else ahead, width), holds="numbers", why="its name")
    return found


def _shaped(guess: Argument, shape: tuple[str, ...], where: str, sizes: Mapping[str, int]) -> Argument:
    """A guess with the axes that something spells out."""
    usual = default_sizes(len(shape))
    found: list[int] = []
    names: list[str] = []
    for place, axis in enumerate(shape):
        name = _AXIS_NAMES.get(axis.lower(), axis.lower())
        if axis.isdigit():
            found.append(int(axis))
        elif place == 0 and name == "batch":
            found.append(BATCH)
        elif axis.lower() in sizes and name not in ("height", "width"):
            found.append(sizes[axis.lower()])
        elif (kept := _kept(name, sizes)) is not None:
            found.append(kept)
        else:
            found.append(IMAGE_SIDE if name in ("height", "width") else usual[place])
        names.append("" if axis.isdigit() or not name.isidentifier() else name)
    holds = guess.holds if guess.holds != "numbers" or len(shape) != 2 else "numbers"
    return replace(guess, sizes=tuple(found), names=tuple(names), why=where, holds=holds)


_KEPT = (
    (
        r"(?:input|seq|sequence)?_?len(?:gth)?|time(?:_?steps)?|seq|input_window",
        ("seq_len", "seq_length", "input_len", "input_length", "context_length"),
    ),
    (
        r"c|channels?|features?|n_?vars?|variates|variables",
        ("enc_in", "c_in", "in_channels", "n_features", "num_features", "input_dim"),
    ),
)
"""Axes in comments, and the settings that say their size."""


def _kept(axis: str, sizes: Mapping[str, int]) -> int | None:
    """The size of an axis that a setting of another name says."""
    settings = next((names for pattern, names in _KEPT if re.fullmatch(pattern, axis)), ())
    return next((sizes[name] for name in settings if name in sizes), None)


def _annotated(annotation: Any) -> tuple[str, ...] | None:
    """The shape in an annotation of jaxtyping, such as ``Float[Tensor, "batch 3 height width"]``."""
    text = getattr(annotation, "dim_str", None)
    if text is None and isinstance(annotation, str):
        found = re.search(r"""\[[\w.]+,\s*["']([^"']+)["']\s*\]""", annotation)
        text = found[1] if found else None
    if not isinstance(text, str):
        return None
    axes = tuple(part.lstrip("*#_?") or "rest" for part in text.split())
    return None if any(part.startswith(("...", "*")) for part in text.split()) else axes


def _shapes_said(model: nn.Module, names: list[str]) -> dict[str, tuple[tuple[str, ...], str]]:
    """Shapes in the docstring and comments of ``forward``: ``x: [B, T, C]``, ``x (Tensor): of shape (B, 3, H, W)``, ``t: (N,)``."""
    try:
        source = inspect.getsource(type(model).forward)
    except (OSError, TypeError):
        return {}
    doc = f"{type(model).forward.__doc__ or ''}\n{type(model).__doc__ or ''}"
    comments = "\n".join(line.partition("#")[2] for line in source.splitlines() if "#" in line)
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    for text, where in ((doc, "the docstring"), (comments, "a comment in forward")):
        for name in names:
            for line in text.splitlines():
                if line.lstrip().startswith((">>>", "...")):  # an example of other sizes than this model's
                    continue
                match = re.search(
                    rf"(?:^|[\s`*(]){re.escape(name)}\b`?\s*(?:\([^)]*ensor[^)]*\))?\s*(?::|=|of shape|has shape|shape|is)[^\[(]*",
                    line,
                )
                shape = (_SHAPE.search(line, match.end()) or _ROWS.search(line, match.end())) if match else None
                if shape and name not in found and shape.start() - (match.end() if match else 0) < 40:
                    axes = re.split(r"[,×]|\bx\b|(?<=\d)x(?=\d)", shape[1] or shape[2])
                    found[name] = (tuple(axis.strip().replace(" ", "_") for axis in axes), where)
    return found


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, dict) and bool(value) and all(map(_has_tensors, value.values())))


def _sizes_of(model: nn.Module, kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Whole numbers that the model was built with or keeps: defaults of its class, attributes, and the arguments given."""
    found: dict[str, int] = {}
    for holder in (getattr(model, "config", None), getattr(model, "hparams", None)):
        found |= {key: value for key, value in getattr(holder, "__dict__", {}).items() if type(value) is int}
    defaults = inspect.signature(type(model).__init__).parameters.values()
    found |= {p.name: p.default for p in defaults if type(p.default) is int}
    found |= {key: value for key, value in vars(model).items() if type(value) is int and not key.startswith("_")}
    found |= {key: value for key, value in kwargs.items() if type(value) is int}
    return {snake_case(key): value for key, value in found.items() if value > 0}


def hidden_state(model: nn.Module, rows: int) -> Any:
    """What a model's own ``init_hidden`` returns; ``None`` where it has none."""
    for name in ("init_hidden", "initHidden", "init_state", "get_initial_state"):
        make = getattr(model, name, None)
        if callable(make):
            for arguments in ((rows,), ()):
                try:
                    made = make(*arguments)
                except Exception:  # it takes other arguments
                    continue
                if _is_of_tensors(made):
                    return made
    return None


def _is_of_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and bool(value) and all(map(_is_of_tensors, value)))
