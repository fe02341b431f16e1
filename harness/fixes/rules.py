"""Known corrections of what is computed: a common mistake, and what was meant."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from harness.fixes.edits import MASKS, Rule, Scope, adding_to, arguments, call_text, called, integer, receiver, subject_of

RULES: list[Rule] = []
rule = adding_to(RULES, is_known=True)

_REDUCTIONS = frozenset(
    (
        *(
            "mean",
            "sum",
            "softmax",
            "log_softmax",
            "Softmax",
            "LogSoftmax",
            "max",
            "min",
            "amax",
            "amin",
            "var",
            "std",
            "norm",
            "cumsum",
            "cat",
            "stack",
            "flip",
        ),
        *("argmax", "size", "logsumexp", "median", "prod", "any", "all", "normalize", "unsqueeze", "squeeze", "select", "gather"),
        *("chunk", "split", "unbind", "nanmedian", "nanmean", "roll", "index_select", "glu"),
    )
)
_ACTIVATIONS = frozenset(["softmax", "log_softmax", "sigmoid", "logsigmoid", "relu", "tanh"])
_NEW_TENSORS = frozenset(
    ["zeros", "ones", "full", "arange", "empty", "tensor", "eye", "linspace", "rand", "randn", "randint", "randperm"]
)
_LENGTH_FIRST = frozenset(["LSTM", "GRU", "RNN", "MultiheadAttention", "TransformerEncoderLayer", "TransformerDecoderLayer"])
"""Layers that take the length before the batch unless they are told otherwise."""

_RELAID = frozenset(["transpose", "t", "permute", "flip", "contiguous", "detach", "squeeze"])


@rule("diagonal of a mask", 0)
def _diagonal(node: ast.AST, scope: Scope) -> Iterator[str]:
    name = called(node).rstrip("_")
    if not isinstance(node, ast.Call) or name not in ("triu", "tril"):
        return
    args, keywords = arguments(node, scope)
    at = 0 if receiver(node) is not None else 1
    for usual in ("1", "0") if name == "triu" else ("0", "-1"):
        rest = [each for each in keywords if not each.startswith("diagonal=")]
        wanted = [] if usual == "0" else [usual]
        yield call_text(node, scope, [*args[:at], *wanted], rest)


@rule("dropout that asks for the mode", 0)
def _dropout(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Call) and "dropout" in called(node) and receiver(node) is None and scope.owner and node.args:
        args, keywords = arguments(node, scope)
        rest = [each for each in keywords if not each.startswith("training=")]
        yield call_text(node, scope, args[:2], [*rest, "training=self.training"])


@rule("no activation", 6)
def _activation(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Call) and called(node) in _ACTIVATIONS and (subject := subject_of(node)) is not None:
        yield scope.operand(subject)


@rule("no detach", 0)
def _detach(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Call) and called(node) == "detach" and (subject := receiver(node)) is not None:
        yield scope.operand(subject)
    if isinstance(node, ast.Attribute) and node.attr == "data" and isinstance(node.ctx, ast.Load):
        yield scope.operand(node.value)
    if isinstance(node, ast.With) and any("no_grad" in ast.unparse(each) for each in node.items):
        yield scope.text(node).replace("no_grad", "enable_grad", 1)


@rule("the other switch", 2)
def _switch(node: ast.AST, scope: Scope) -> Iterator[str]:
    if not isinstance(node, ast.Call) or called(node) == "requires_grad_":
        return  # what is frozen, or not, is a choice: the other one fixes nothing
    args, keywords = arguments(node, scope)
    for number, each in enumerate(node.keywords):
        if isinstance(each.value, ast.Constant) and type(each.value.value) is bool:
            new = "self.training" if each.arg == "training" else str(not each.value.value)
            yield call_text(node, scope, args, [*keywords[:number], f"{each.arg}={new}", *keywords[number + 1 :]])
    for number, value in enumerate(node.args):
        if isinstance(value, ast.Constant) and type(value.value) is bool:
            yield call_text(node, scope, [*args[:number], str(not value.value), *args[number + 1 :]], keywords)


@rule("the default of an argument", 8)
def _default(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Call):
        args, keywords = arguments(node, scope)
        for number, each in enumerate(node.keywords):
            if each.arg not in (None, "dim", "axis", "keepdim") and not isinstance(each.value, ast.Name):
                yield call_text(node, scope, args, [*keywords[:number], *keywords[number + 1 :]])


@rule("a copy in place of a write", 0)
def _in_place(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        name, subject = called(node.value), receiver(node.value)
        if name.endswith("_") and not name.startswith("_") and isinstance(subject, ast.Name):
            args, keywords = arguments(node.value, scope)
            yield f"{subject.id} = {subject.id}.{name[:-1]}({', '.join([*args, *keywords])})"
        return
    if isinstance(node, ast.Call) and (name := called(node)).endswith("_") and name[:1] != "_" and receiver(node) is not None:
        args, keywords = arguments(node, scope)
        assert isinstance(node.func, ast.Attribute)
        yield f"{scope.text(node.func.value)}.{name[:-1]}({', '.join([*args, *keywords])})"
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        operator = ast.unparse(ast.BinOp(ast.Name("a"), node.op, ast.Name("b")))[2:-2]
        yield f"{node.target.id} = {node.target.id} {operator} ({scope.text(node.value)})"


@rule("a copy of what is written into", 1)
def _clone(node: ast.AST, scope: Scope) -> Iterator[str]:
    body = [each for each in scope.function.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
    if body and node is body[0] and isinstance(node, ast.stmt) and not scope.is_init:
        written = [
            target.value.id
            for each in ast.walk(scope.function)
            if isinstance(each, (ast.Assign, ast.AugAssign))
            for target in (each.targets if isinstance(each, ast.Assign) else [each.target])
            if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name)
        ]
        for name in dict.fromkeys(name for name in written if name in scope.parameters):
            yield f"{name} = {name}.clone()\n{' ' * node.col_offset}{scope.text(node)}"
    if isinstance(node, ast.Call) and called(node) == "register_buffer" and len(node.args) == 2:
        args, keywords = arguments(node, scope)
        yield call_text(node, scope, [args[0], f"{args[1]}.clone()"], keywords)


@rule("away from zero", 1)
def _away_from_zero(node: ast.AST, scope: Scope) -> Iterator[str]:
    name = called(node)
    if isinstance(node, ast.Call) and name in ("sqrt", "rsqrt", "log") and (subject := subject_of(node)) is not None:
        inner = scope.operand(subject)
        yield f"{inner}.clamp(min=1e-6).{name}()"
    if isinstance(node, ast.Call) and name in ("norm", "std") and (receiver(node) is not None):
        yield f"({scope.text(node)} + 1e-6)"
    if isinstance(node, ast.Call) and name in ("clamp", "clamp_min", "maximum"):
        for each in (*node.args, *(word.value for word in node.keywords)):
            if isinstance(each, ast.Constant) and each.value == 0 and type(each.value) is not bool:
                args, keywords = arguments(node, scope)
                yield call_text(
                    node,
                    scope,
                    ["1e-6" if value is each else text for value, text in zip(node.args, args, strict=True)],
                    [
                        f"{word.arg}=1e-6" if word.value is each else text
                        for word, text in zip(node.keywords, keywords, strict=True)
                    ],
                )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and not isinstance(node.right, ast.Constant):
        yield f"{scope.operand(node.left)} / ({scope.operand(node.right)} + 1e-6)"
        if isinstance(node.right, ast.Call):
            yield f"{scope.operand(node.left)} / {scope.text(node.right)}.clamp(min=1)"


@rule("another axis", 3)
def _axis(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
        axis = integer(node.slice)
        for other in (-1, -2, 0, 1, 2) if axis is not None else ():
            if other != axis:
                yield f"{scope.text(node.value)}[{other}]"
    if isinstance(node, ast.Call) and called(node) in _REDUCTIONS:
        args, keywords = arguments(node, scope)
        for number, value in enumerate(node.args):
            axis = integer(value)
            for other in (1, -1, 0, 2) if axis is not None else ():
                if other != axis:
                    yield call_text(node, scope, [*args[:number], str(other), *args[number + 1 :]], keywords)
        for number, word in enumerate(node.keywords):
            axis = integer(word.value) if word.arg in ("dim", "axis") else None
            for other in (1, -1, 0, 2) if axis is not None else ():
                if other != axis:
                    yield call_text(node, scope, args, [*keywords[:number], f"{word.arg}={other}", *keywords[number + 1 :]])


@rule("a mean of what is real", 2)
def _masked_mean(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Call) and called(node) == "mean" and (subject := receiver(node)) is not None and node.args:
        axis = scope.text(node.args[0])
        keep = ", keepdim=True" if any(word.arg == "keepdim" for word in node.keywords) else ""
        for mask in scope.masks:
            tensor = scope.operand(subject)
            real = f"{mask}.unsqueeze(-1).to({tensor}.dtype)"
            yield f"({tensor} * {real}).sum({axis}{keep}) / {real}.sum({axis}{keep}).clamp(min=1)"


@rule("a size in place of a factor", 1)
def _size(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Call) and called(node) == "interpolate":
        args, keywords = arguments(node, scope)
        rest = [each for each in keywords if not each.startswith(("scale_factor=", "size="))]
        if len(rest) < len(keywords):
            own = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            for name in scope.names:
                if name not in own:
                    yield call_text(node, scope, args[:1], [f"size={name}.shape[-2:]", *rest])
            if {"height", "width"} <= set(scope.names):
                yield call_text(node, scope, args[:1], ["size=(height, width)", *rest])


@rule("a usual start", 2)
def _start(node: ast.AST, scope: Scope) -> Iterator[str]:
    name = called(node)
    if isinstance(node, ast.Call) and name in ("normal_", "uniform_") and receiver(node) is None and node.args:
        yield f"{scope.text(node.func).removesuffix(name)}xavier_uniform_({scope.text(node.args[0])})"
    if isinstance(node, ast.Call) and name in ("zeros", "ones", "zeros_like", "ones_like"):
        other = name.replace("zeros", "ones") if "zeros" in name else name.replace("ones", "zeros")
        args, keywords = arguments(node, scope)
        yield f"{scope.text(node.func).removesuffix(name)}{other}({', '.join([*args, *keywords])})"


@rule("rows and places in their order", 1)
def _view(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Call) and called(node) in ("view", "reshape") and len(node.args) >= 3:
        args, _ = arguments(node, scope)
        swapped = f"{scope.text(node.func)}({', '.join([args[0], args[2], args[1], *args[3:]])})"
        yield f"{swapped}.transpose(1, 2)"
        yield f"{scope.text(node.func)}({', '.join([args[1], args[0], *args[2:]])}).transpose(0, 1)"


@rule("a mask for attention", 1)
def _mask(node: ast.AST, scope: Scope) -> Iterator[str]:
    if not isinstance(node, ast.Call):
        return
    args, keywords = arguments(node, scope)
    named = {word.arg for word in node.keywords}
    if called(node) == "scaled_dot_product_attention" and not named & {"attn_mask", "is_causal"} and len(args) == 3:
        yield call_text(node, scope, args, [*keywords, "is_causal=True"])
    if "need_weights" in named and "key_padding_mask" not in named:
        for mask in scope.masks:
            yield call_text(node, scope, args, [*keywords, f"key_padding_mask={mask} == 0"])
    if (
        "attn" in called(node).lower() + scope.text(node.func).lower()
        and "key_padding_mask" not in named
        and "need_weights" not in named
    ):
        for mask in scope.masks:
            yield call_text(node, scope, args, [*keywords, f"key_padding_mask={mask} == 0"])


@rule("the mask that is given", 1)
def _given_mask(node: ast.AST, scope: Scope) -> Iterator[str]:
    compared = isinstance(node, ast.Compare) and not _is_condition(node, scope)
    if compared or called(node) in ("ones_like", "zeros_like", "new_ones", "ones"):
        read = {each.id for each in ast.walk(node) if compared and isinstance(each, ast.Name)}
        for mask in (each for each in scope.masks if each not in read):
            yield mask
            yield f"{mask}.bool()"


def _is_condition(node: ast.AST, scope: Scope) -> bool:
    """Whether a node decides which code runs."""
    return isinstance(scope.source.parents.get(node), (ast.If, ast.IfExp, ast.BoolOp, ast.While))


@rule("the other way round", 3)
def _opposite(node: ast.AST, scope: Scope) -> Iterator[str]:
    if _is_condition(node, scope):
        return  # what never runs breaks nothing, and fixes nothing either
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = scope.text(node.left), scope.text(node.comparators[0])
        other = {
            ast.Eq: ("!=",),
            ast.NotEq: ("==",),
            ast.Lt: ("<=", ">="),
            ast.LtE: ("<", ">"),
            ast.Gt: (">=", "<="),
            ast.GtE: (">", "<"),
        }
        for symbol in other.get(type(node.ops[0]), ()):
            yield f"{left} {symbol} {right}"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Invert, ast.Not)):
        yield scope.text(node.operand)
    if isinstance(node, ast.Call) and called(node) in ("masked_fill", "masked_fill_") and node.args:
        args, keywords = arguments(node, scope)
        yield call_text(node, scope, [f"~({args[0]})", *args[1:]], keywords)


@rule("on the device and in the dtype of the input", 2)
def _device(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Call) and called(node) in _NEW_TENSORS and receiver(node) is None and not scope.is_init:
        args, keywords = arguments(node, scope)
        if not any(word.arg == "device" for word in node.keywords):
            for name in scope.parameters[:3]:
                yield call_text(node, scope, args, [*keywords, f"device={name}.device"])
        if not any(word.arg == "dtype" for word in node.keywords):
            for name in dict.fromkeys([*_made_by_layers(node, scope)[:2], *scope.parameters[:2]]):
                yield call_text(node, scope, args, [*keywords, f"dtype={name}.dtype"])


def _made_by_layers(node: ast.expr, scope: Scope) -> list[str]:
    """The names that a function gave what its layers returned, the last one before a node first: numbers, where a parameter may be ids."""
    given = [
        (each.lineno, target.id)
        for each in ast.walk(scope.function)
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Call) and each.lineno < node.lineno
        if scope.text(each.value.func).startswith("self.")
        for target in each.targets
        if isinstance(target, ast.Name)
    ]
    return [name for _, name in sorted(given, reverse=True)]


@rule("the number of what is real", 2)
def _number_of_real(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Call) and called(node) == "numel" and receiver(node) is not None:
        yield from (f"{mask}.sum().clamp(min=1)" for mask in scope.named(scope.names, MASKS))


@rule("rows that were counted", 4)
def _counted(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and ".max()" in scope.text(node.left):
        used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        for name in scope.parameters:
            if name not in used:
                yield f"len({name})"


@rule("all of it", 5)
def _all_of_it(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        slices = [part for part in parts if isinstance(part, ast.Slice)]
        if len(slices) == len(parts) and any(part.lower or part.upper for part in slices):
            yield scope.text(node.value)
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield scope.text(node.value)
    if isinstance(node, ast.Call) and called(node) in _RELAID and (subject := receiver(node)) is not None:
        yield scope.operand(subject)


@rule("what is made and never used", 0)
def _never_used(node: ast.AST, scope: Scope) -> Iterator[str]:
    if (
        isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Load)
        and isinstance(scope.source.parents.get(node), (ast.Return, ast.Tuple))
    ):
        names = [each for each in ast.walk(scope.function) if isinstance(each, ast.Name)]
        read = {each.id for each in names if isinstance(each.ctx, ast.Load)}
        made = dict.fromkeys(each.id for each in names if isinstance(each.ctx, ast.Store))
        yield from (name for name in made if name not in read and not name.startswith("_"))


@rule("each row repeated in its place", 0)
def _repeated_in_place(node: ast.AST, scope: Scope) -> Iterator[str]:
    """``repeat`` gives a b a b, where what belongs to each row is wanted as a a b b."""
    if isinstance(node, ast.Call) and called(node) == "repeat" and (subject := receiver(node)) is not None and node.args:
        args, _ = arguments(node, scope)
        if all(integer(each) == 1 for each in node.args[1:]):
            yield f"{scope.operand(subject)}.repeat_interleave({args[0]}, 0)"


@rule("rows that stay rows", 0)
def _rows_stay(node: ast.AST, scope: Scope) -> Iterator[str]:
    """``view(-1, size)`` makes more rows of inputs of another size, and ``squeeze()`` takes the batch of one away too."""
    if not isinstance(node, ast.Call) or (subject := subject_of(node)) is None or node.keywords:
        return
    given = node.args if receiver(node) is not None else node.args[1:]
    if called(node) in ("view", "reshape") and len(given) == 2 and integer(given[0]) == -1:
        yield f"{scope.operand(subject)}.flatten(1)"
    if called(node) == "squeeze" and not given:
        yield from (f"{scope.operand(subject)}.{other}" for other in ("flatten(1)", "squeeze(-1)", "squeeze(1)"))


@rule("the batch comes first", 0)
def _batch_first(node: ast.AST, scope: Scope) -> Iterator[str]:
    if (
        isinstance(node, ast.Call)
        and called(node) in _LENGTH_FIRST
        and not any(word.arg == "batch_first" for word in node.keywords)
    ):
        args, keywords = arguments(node, scope)
        yield call_text(node, scope, args, [*keywords, "batch_first=True"])


@rule("the device of the input", 0)
def _no_fixed_device(node: ast.AST, scope: Scope) -> Iterator[str]:
    subject = receiver(node) if isinstance(node, ast.Call) else None
    if isinstance(node, ast.Call) and subject is not None and not scope.is_init:
        is_fixed = (
            called(node) == "to" and len(node.args) == 1 and scope.text(node.args[0]).strip("'\"").startswith(("cuda", "device"))
        )
        if (called(node) == "cuda" and not node.args) or is_fixed:
            yield from (f"{scope.operand(subject)}.to({name}.device)" for name in scope.parameters[:2])
