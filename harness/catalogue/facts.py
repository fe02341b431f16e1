"""Facts of a signature that decide which properties apply: each function returns the reason as text, or nothing where it does not hold."""

from __future__ import annotations

from collections.abc import Iterable

from harness.catalogue.entry import Sign
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH
from harness.tasks.kinds import SCORES, TokenScores
from harness.tasks.values import Ids, LengthsOf, MaskOf, Normal, Uniform
from harness.wording import listed

_CACHES = r"cache|^arg (\w*(past|state|hidden|memor)\w*|h[xc0]?|c[x0])$|^def (step|\w*reset\w*)$|LSTM|GRU|RNN|Transformer"
ADAPTERS = Sign(
    r"lora|dora|adapter|ia3|loha|lokr|oft|vera|delta|modules_to_save|merge|fuse|^def (train|eval)$",
    "the model's code names no adapters (LoRA and the like), and no method that merges any",
)
CACHE = Sign(_CACHES, "the model's code names no cache, no state that forward takes, and no `step`")
CACHE_OR_GENERATE = Sign(f"{_CACHES}|generate", CACHE.absent)
GENERATE = Sign("generate", "the model's code names no `generate`")
CHECKPOINTING = Sign(r"checkpoint|ckpt|recompute|^cp$|_cp$", "the model's code names no activation checkpointing")
OWN_ANSWERS = Sign(
    "^def (predict|infer|classify|transcribe|translate|recogni|caption|recommend|(max|best|greedy)_action)",
    "the model's code has no method that answers, such as `predict`",
)
OWN_FORMAT = Sign(
    r"pretrained|Lightning|^def save(_model|_weights|_checkpoint)?$", "the model's code has no methods that save and load it"
)
OWN_LOADING = Sign("load_state_dict|load_from_state_dict", "the model's code loads no weights in its own way")
RESIZING = Sign("resize_token_embeddings", "the model's code has no `resize_token_embeddings`")
ROUTERS = Sign("rout|gat(e|ing)|switch", "the model's code names no router beside experts")
END_OF_TEXT = Sign(r"eos|eot|end_?of_?text|(end|stop)_(token|id)", "the model's code names no token that ends a text")
LIGHTNING = Sign("Lightning", "the model is not a LightningModule, so the suite does this")
AVERAGES = Sign(
    r"requires_grad|no_grad|averaged|ema|swa|copy", "the model's code names nothing that freezes or copies a part of it"
)


def rows(task: TaskSpec) -> str:
    """Rows are independent."""
    return "axis `batch` holds independent rows" if task.has_rows else ""


def apart(task: TaskSpec) -> str:
    """Rows are independent, also where the first axis of the main output is that of rows times others, as of a tagger's tokens."""
    signature = task.signature
    first, batch = (signature.main.axes or (1,))[0], signature.axes.get(BATCH)
    axis = signature.axes.get(str(first))
    if rows(task) or axis is None or batch is None or not (axis.follows(BATCH) and signature.deals_rows and batch.independent):
        return rows(task)
    once, twice = (signature.complete({**signature.typical_sizes(), BATCH: count})[axis.name] for count in (2, 4))
    return f"axis `{axis.name}` holds what belongs to each of several independent rows" if twice == 2 * once > 0 else ""


def causal(task: TaskSpec) -> str:
    """An axis is causal, and an output has it."""
    signature = task.signature
    held = {axis for output in signature.outputs for axis in output.axes if isinstance(axis, str)}
    named = [
        each.name for each in signature.with_order("causal") if any(signature.axes[name].follows(each.name) for name in held)
    ]
    return _of("axis", named, "is causal", "are causal")


def padded(task: TaskSpec) -> str:
    """Rows may be shorter."""
    return "; ".join(f"rows may be shorter along `{axis.name}` (padding: {axis.padding})" for axis in task.signature.padded)


def masked_padding_id(task: TaskSpec) -> str:
    """Ids have one that fills, and a mask or lengths say which are real."""
    axes = {each.values.axis for each in task.signature.inputs if isinstance(each.values, (MaskOf, LengthsOf))}
    ids = [each for each in task.signature.inputs if isinstance(each.values, Ids) and each.values.pad is not None]
    return _of("input", [each.name for each in ids if axes & set(each.axes)], "has an id for padding beside a mask or lengths")


def numbers(task: TaskSpec) -> str:
    """Rows of several numbers are read."""
    named = [
        each.name
        for each in task.signature.inputs
        if isinstance(each.values, (Normal, Uniform)) and any(size not in ("batch", 1) for size in each.axes)
    ]
    return _of("input", named, "is rows of numbers", "are rows of numbers")


def empty_rows(task: TaskSpec) -> str:
    """A row may have no real element."""
    return _of("a row may be empty along", [axis.name for axis in task.signature.padded if axis.empty])


def declared(task: TaskSpec) -> str:
    """Outputs are declared."""
    return (
        _of("output", [output.name for output in task.signature.outputs], "is declared", "are declared") if task.declared else ""
    )


def declared_inputs(task: TaskSpec) -> str:
    """Inputs are declared."""
    read = [each.name for each in task.signature.inputs if not isinstance(each.values, (LengthsOf, MaskOf))]
    return _of("input", read, "is declared", "are declared") if task.declared else ""


def symmetric(task: TaskSpec) -> str:
    """Inputs may be swapped."""
    return _of("input", task.signature.symmetric, "", "are symmetric") if task.declared else ""


def sets(task: TaskSpec) -> str:
    """An axis is a set."""
    return _of("axis", [axis.name for axis in task.signature.with_order("none")], "is a set", "are sets") if task.declared else ""


def duplicates(task: TaskSpec) -> str:
    """Repeating an element of a set changes nothing."""
    return _of("repeats change nothing along", [axis.name for axis in task.signature.with_order("none") if axis.duplicates])


def optional(task: TaskSpec) -> str:
    """Forward works without an input."""
    named = [each.name for each in task.signature.inputs if each.optional and not each.state]
    return _of("input", named, "is optional", "are optional") if task.declared else ""


def optional_mask(task: TaskSpec) -> str:
    """A mask or lengths may be left out."""
    named = [each.name for each in task.signature.inputs if each.optional and isinstance(each.values, (MaskOf, LengthsOf))]
    return _of("input", named, "says which elements are real", "say which elements are real")


def state(task: TaskSpec) -> str:
    """A call continues where another one ended."""
    return _of("input", [each.name for each in task.signature.states], "is a carried state", "are carried states")


def chunks(task: TaskSpec) -> str:
    """A carried state, and a causal axis along which a call can be cut."""
    free = {axis for each in task.signature.inputs if not each.state for axis in each.axes}
    return _of(
        "axis", [axis.name for axis in task.signature.with_order("causal") if axis.name in free], "is causal", "are causal"
    )


def read_along(task: TaskSpec) -> str:
    """Inputs and the main output share a causal axis, along which a text can be read piece by piece."""
    signature = task.signature
    shared = {axis for each in signature.inputs if not each.state for axis in each.axes} & set(signature.main.axes)
    return _of("axis", [axis.name for axis in signature.with_order("causal") if axis.name in shared], "is causal", "are causal")


def stateless(task: TaskSpec) -> str:
    """No state is declared, which `carried_state` would judge."""
    return "" if task.signature.states else "no state is declared"


def masked_text(task: TaskSpec) -> str:
    """A mask says which tokens along a causal axis are real."""
    along = {axis.name for axis in task.signature.with_order("causal")}
    named = [each.name for each in task.signature.inputs if isinstance(each.values, MaskOf) and each.values.axis in along]
    return _of("input", named, "says which tokens are real", "say which tokens are real") if written(task) else ""


def written(task: TaskSpec) -> str:
    """The main output scores tokens along a causal axis, so that a text can be written."""
    main, along = task.signature.main, {axis.name for axis in task.signature.with_order("causal")}
    read = any(isinstance(each.values, Ids) and along & set(each.axes) for each in task.signature.inputs)
    return f"output `{main.name}` scores the next token" if isinstance(main.kind, TokenScores) and read else ""


def scores(task: TaskSpec) -> str:
    """An output is scores, which may take any value."""
    named = [output.name for output in task.signature.outputs if isinstance(output.kind, SCORES)]
    return _of("output", named, "is scores", "are scores")


def class_scores(task: TaskSpec) -> str:
    """The main output says something of each class."""
    return f"output `{task.signature.main.name}` has an axis of classes" if task.has_classes else ""


def text(task: TaskSpec) -> str:
    """Token ids are read."""
    ids = [each.name for each in task.signature.inputs if isinstance(each.values, Ids)]
    return _of("input", ids, "holds token ids", "hold token ids") if task.is_text else ""


def ids(task: TaskSpec) -> str:
    """Ids are read, in any number of rows."""
    return _of("input", [each.name for each in task.looked_up], "holds token ids", "hold token ids")


def longest(task: TaskSpec) -> str:
    """Ids are read along an axis that has a largest size."""
    axes = dict.fromkeys(axis for each in task.looked_up for axis in each.axes if isinstance(axis, str) and axis != BATCH)
    return _of("axis", [axis for axis in axes if task.signature.axes[axis].most is not None], "has a `max`", "have a `max`")


def positions(task: TaskSpec) -> str:
    """There are scores for every token, in the light of the others."""
    return f"output `{task.signature.main.name}` has one entry a token" if task.read_in_context else ""


def positions_of_one_text(task: TaskSpec) -> str:
    """The same, and no other text is read."""
    axes = {axis for each in task.looked_up for axis in each.axes}
    return positions(task) if len(axes) == 2 else ""


def source(task: TaskSpec) -> str:
    """A source is read beside the target."""
    return "input `input_ids` is a source" if task.is_seq2seq else ""


def image(task: TaskSpec) -> str:
    """An image is read."""
    return "input `pixel_values` is an image" if task.is_vision else ""


def features(task: TaskSpec) -> str:
    """A row of a table is read."""
    return "input `features` is a row of numbers" if task.is_tabular else ""


def _of(what: str, names: Iterable[str], one: str = "", several: str = "") -> str:
    """``axis `time` is causal``; empty where there are no names."""
    found = list(names)
    if not found:
        return ""
    plural = {"axis": "axes", "input": "inputs", "output": "outputs"}.get(what, what)
    return " ".join(
        filter(None, (what if len(found) == 1 else plural, listed(found, len(found)), one if len(found) == 1 else several))
    )
