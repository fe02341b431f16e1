"""The part of a file that its models need: what is run of a script that trains when it is imported, or of a notebook written as a file.

Classes of models are needed, functions that make one, and what these read, wherever the file assigns it. Other imports, functions, classes and
settings of packages run where they can. Constants stay. All other statements are left out; lines keep their numbers.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)
_Definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_Import = (ast.Import, ast.ImportFrom)
_TRAINS = frozenset(["backward", "fit", "step"])
_WORK = _TRAINS | {"read_csv", "parse_args"}
"""Methods that no function calls which only makes a model."""

_SETTINGS = (
    *("sys.path.", "os.environ", "warnings.", "random.seed", "np.random.seed", "numpy.random.seed"),
    *("torch.manual_seed", "torch.set_", "torch.backends."),
)
"""How statements begin that change how other code runs, and do no work."""


@dataclass(frozen=True)
class NeededPart:
    """The part of a file that its models need.

    Attributes:
        tree: What runs: statements of the file, with their lines.
        needed: The lines of what its models need; what else runs may fail.
    """

    tree: ast.Module
    needed: frozenset[int]


def needed_part(source: bytes) -> NeededPart | None:
    """The part of a file that its models need; ``None`` where it has no models.

    Args:
        source: What the file holds.

    Raises:
        SyntaxError: It is not Python.
        ValueError: It has null bytes.
    """
    tree = ast.parse(source)
    reads = _Reads(source, tree)
    models = _models(tree.body)
    if not models:
        return None
    names = {each.name for each in models}
    makers = [each for each in tree.body if isinstance(each, _Function) and _makes_one_of(each, names & reads.of(each))]
    needed = _with_what_they_read([*models, *makers], tree.body, reads)
    body: list[ast.stmt] = []
    for node in tree.body:
        if node in needed or _is_constant(node) or _is_future(node):
            body.append(node)
        elif _only_defines(node) or _is_setting(node):
            body.append(_where_it_can(node))
    lines = frozenset(line for node in needed for line in range(_first(node), (node.end_lineno or node.lineno) + 1))
    return NeededPart(ast.fix_missing_locations(ast.Module(body, [])), lines)


class _Reads:
    """What each statement of a module reads of the module's names."""

    def __init__(self, source: bytes, tree: ast.Module) -> None:
        self._tables = {(each.get_name(), each.get_lineno()): each for each in _tables(source)}
        self._known: dict[ast.stmt, frozenset[str]] = {}
        self._tree = tree

    def of(self, node: ast.stmt) -> frozenset[str]:
        if node not in self._known:
            self._known[node] = frozenset(self._of(node))
        return self._known[node]

    def _of(self, node: ast.stmt) -> Iterator[str]:
        outside: list[ast.AST] = [node]
        if isinstance(node, _Definition):
            table = self._tables.get((node.name, node.lineno))
            yield from _globals(table) if table is not None else ()
            outside = [*node.decorator_list]
            if isinstance(node, ast.ClassDef):
                outside += [*node.bases, *(each.value for each in node.keywords)]
            else:
                outside += [node.args, *([node.returns] if node.returns else [])]
        for part in outside:
            yield from (each.id for each in ast.walk(part) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load))


def _tables(source: bytes) -> list[symtable.SymbolTable]:
    return symtable.symtable(source.decode("utf-8-sig", "replace"), "file", "exec").get_children()


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    yield from (each.get_name() for each in table.get_symbols() if each.is_global() and each.is_referenced())
    for child in table.get_children():
        yield from _globals(child)


def _models(body: Iterable[ast.stmt]) -> list[ast.ClassDef]:
    """The classes that are models: with a ``forward``, or of a base that is called like one."""
    found: dict[str, ast.ClassDef] = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
            has_forward = any(isinstance(each, _Function) and each.name == "forward" for each in node.body)
            if bases and (has_forward or any(base in found or base.endswith(("Module", "Model")) for base in bases)):
                found[node.name] = node
    return list(found.values())


def _makes_one_of(function: ast.FunctionDef | ast.AsyncFunctionDef, models: Iterable[str]) -> bool:
    inner = list(ast.walk(function))
    returns = any(isinstance(each, ast.Return) and each.value is not None for each in inner)
    works = any(isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and each.func.attr in _WORK for each in inner)
    return returns and not works and any(models)


def _trains(node: ast.stmt) -> bool:
    calls = (each.func for each in ast.walk(node) if isinstance(each, ast.Call)) if not isinstance(node, _Definition) else ()
    return any(isinstance(each, ast.Attribute) and each.attr in _TRAINS for each in calls)


def _with_what_they_read(roots: Iterable[ast.stmt], body: Iterable[ast.stmt], reads: _Reads) -> set[ast.stmt]:
    """Statements, those that assign or change what they read, and so on; none that trains."""
    binding: dict[str, list[ast.stmt]] = {}
    for node in body:
        for name in {*_bound(node)} if not _trains(node) else ():
            binding.setdefault(name, []).append(node)
    needed, pending = set[ast.stmt](), list(roots)
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending += [each for name in reads.of(node).union(_bound(node)) for each in binding.get(name, ())]
    return needed


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module binds, and those of objects that it changes."""
    if isinstance(node, _Definition):
        yield node.name
    elif isinstance(node, _Import):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif not _is_main_block(node):
        for each in ast.iter_child_nodes(node):
            yield from _bound(each) if isinstance(each, ast.stmt) else _bound_in(each)
        changed = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
        if isinstance(changed, ast.Attribute):
            yield _root(changed)


def _bound_in(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.stmt):
            yield from _bound(each)
        elif isinstance(each, (ast.Name, ast.Attribute, ast.Subscript)) and isinstance(each.ctx, ast.Store):
            yield _root(each)


def _root(node: ast.expr) -> str:
    """The name that an expression begins with; empty where it begins with none."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_main_block(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _is_constant(node: ast.stmt) -> bool:
    if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
        return False
    try:
        ast.literal_eval(node.value)
    except (ValueError, TypeError):
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return all(isinstance(target, ast.Name) for target in targets)


def _only_defines(node: ast.stmt) -> bool:
    if isinstance(node, (ast.If, ast.Try)) and not _is_main_block(node):
        inner = [*node.body, *node.orelse, *getattr(node, "finalbody", ())]
        inner += [each for handler in getattr(node, "handlers", ()) for each in handler.body]
        return all(_only_defines(each) or _is_constant(each) or isinstance(each, ast.Pass) for each in inner)
    return isinstance(node, (*_Definition, *_Import))


def _is_setting(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], (ast.Attribute, ast.Subscript)) and ast.unparse(node.targets[0]).startswith(_SETTINGS)
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value).startswith(_SETTINGS)


def _where_it_can(node: ast.stmt) -> ast.Try:
    """A statement whose exceptions are ignored, as its names may be of what was left out, or of a package that is not installed."""
    handler = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [ast.Pass()])
    return ast.copy_location(ast.Try([node], [handler], [], []), node)


def _first(node: ast.stmt) -> int:
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
