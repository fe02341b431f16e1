"""The scan of one file of Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from harness.scan.names import FUNCTIONS, Names, bound_in, folded
from harness.scan.rules import ATTRIBUTES, BUILTINS, METHODS, NAMES, PARTLY, ROUNDABOUT, WHOLE_MODULES, Finding

_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.MULTILINE)
_PLAIN_CODINGS = (b"utf-8", b"utf8", b"ascii", b"us-ascii", b"latin-1", b"iso-8859-1")
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")
_WRITE_MODE = re.compile(r"[rbt]*[wax+][rwabxt+]*")
_LOOK_UPS = ("globals", "locals", "vars")
_BYTES = ("bytes", "bytearray")
_MANY = 100


def scan_source(source: bytes, file: str) -> list[Finding]:
    """What a file would do that a model has no need to do, each line and kind once."""
    coding = _CODING.search(b"\n".join(source.splitlines()[:2]))
    if coding and coding.group(1).lower() not in _PLAIN_CODINGS:
        return [Finding("unreadable", file, 1, f"the encoding {coding.group(1).decode()}")]
    try:
        tree = ast.parse(source)
        scanner = _Scanner(tree, file, source.decode("utf-8", "replace").splitlines())
        scanner.visit(tree)
    except SyntaxError as error:
        return [Finding("unreadable", file, error.lineno or 0, "a syntax error", detail=error.msg)]
    except (ValueError, RecursionError, MemoryError) as error:
        return [Finding("unreadable", file, 0, "the file", detail=str(error) or type(error).__name__)]
    return sorted(scanner.found.values(), key=lambda finding: finding.line)[:_MANY]


class _Scanner(ast.NodeVisitor):
    """Walks over a file and notes what it finds."""

    def __init__(self, tree: ast.AST, file: str, lines: list[str]) -> None:
        self.file = file
        self.lines = lines
        self.names = Names(tree)
        self.found: dict[tuple[int, str], Finding] = {}
        self._local: list[set[str]] = []
        for number, line in enumerate(lines, 1):
            if _REORDERING.search(line):
                self._note("obfuscation", number, "a character that reorders the line on the screen")

    def visit(self, node: ast.AST) -> None:
        """Visits a node; a function's own names hide the builtin ones inside it."""
        if not isinstance(node, FUNCTIONS):
            super().visit(node)
            return
        for outside in (*getattr(node, "decorator_list", ()), *node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(outside)
        self._local.append(bound_in(node))
        for inside in [node.body] if isinstance(node, ast.Lambda) else node.body:
            self.visit(inside)
        self._local.pop()

    def visit_Import(self, node: ast.Import) -> None:
        """Imports of modules."""
        for alias in node.names:
            self._import(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Imports of names; ``from os import *`` brings all of them."""
        if node.level or not node.module:
            return
        self._import(node.module, node)
        for alias in node.names:
            if alias.name == "*" and node.module in PARTLY:
                self._note("obfuscation", node, f"from {node.module} import *")
            else:
                self._dotted(f"{node.module}.{alias.name}", node, imported=True)

    def visit_Name(self, node: ast.Name) -> None:
        """Names by themselves: dangerous builtins, and modules handed on to where their use cannot be seen."""
        if not isinstance(node.ctx, ast.Load):
            return
        if node.id in BUILTINS and not any(node.id in names for names in self._local):
            self._note(BUILTINS[node.id], node, node.id)
        if node.id in self.names.aliases:
            for name in self.names.all_of(node):
                self._dotted(name, node, imported=True, handed_on=True)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Attributes: of modules by their dotted name, of other objects where the name says enough."""
        self._attribute(node.attr, node)
        for name in self.names.all_of(node):
            self._dotted(name, node, imported=self.names.is_import(node))
        if not _is_chain(node):
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        """``o = os`` only gives a module another name, which is followed."""
        only_names = isinstance(node.value, ast.Name) and all(isinstance(target, ast.Name) for target in node.targets)
        if not (only_names and self.names.is_import(node.value)):
            self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """``globals()["..."]``, ``sys.modules["..."]``, ``torch.__dict__["os"]``."""
        if "sys.modules" in self.names.all_of(node.value) and isinstance(node.slice, ast.Name) and node.slice.id == "__name__":
            return
        if self._is_look_up(node.value):
            self._looked_up(node.slice, node)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Strings that name what leads to the interpreter."""
        if isinstance(node.value, str) and len(node.value) < 1000:
            for name, rule in ATTRIBUTES.items():
                # A docstring may mention it; a string that consists of it, or formats it, is on its way to getattr.
                if node.value == name or (f".{name}" in node.value and "{" in node.value):
                    self._note(rule, node, repr(name))

    def visit_Call(self, node: ast.Call) -> None:
        """Calls, whose arguments may make them harmless or not."""
        called = self.names.all_of(node.func)
        if self._is_harmless_import(called, node) or self._is_reading(called, node):
            self._visit_all([*node.args, *(keyword.value for keyword in node.keywords)])
            return
        if "importlib.import_module" in called:
            self._note("dynamic_import", node, "importlib.import_module")
        if "getattr" in called and len(node.args) > 1:
            self._getattr(node)
            return
        self._arguments(called, node)
        if isinstance(node.func, ast.Attribute):
            self._method(node.func, node)
        self.generic_visit(node)

    def _getattr(self, node: ast.Call) -> None:
        """``getattr(x, "name")`` is ``x.name``; with a name that is not seen, it is enough that ``x`` is a dangerous module."""
        owner, wanted = node.args[0], folded(node.args[1])
        if wanted is None:
            self._visit_all([owner, *node.args[1:]])
            return
        self._attribute(wanted, node)
        for base in self.names.all_of(owner):
            self._dotted(f"{base}.{wanted}", node, imported=self.names.is_import(owner))
        if wanted in METHODS and not self._is_self(owner):
            self._note("obfuscation", node, f"getattr(…, {wanted!r})")
        self._visit_all(node.args[2:] if isinstance(owner, ast.Name) else [owner, *node.args[2:]])

    def _arguments(self, called: tuple[str, ...], node: ast.Call) -> None:
        """Arguments that allow what is otherwise refused."""
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if "weights_only" in given and not _is(given["weights_only"], True):
            self._note("unpickling", node, "weights_only=False")
        if "allow_pickle" in given and not _is(given["allow_pickle"], False):
            self._note("unpickling", node, "allow_pickle=True")
        if "trust_remote_code" in given and not _is(given["trust_remote_code"], False):
            self._note("dynamic_code", node, "trust_remote_code=True")
        if "types.FunctionType" in called:
            self._note("tampering", node, "types.FunctionType(…)")

    def _method(self, func: ast.Attribute, node: ast.Call) -> None:
        """Methods that say enough by their name, on an object of which nothing is known."""
        imported = self.names.is_import(func)
        if func.attr in METHODS and not imported and not self._is_self(func.value):
            self._note(METHODS[func.attr], node, f".{func.attr}()")
        if func.attr == "open" and not imported and node.args and _WRITE_MODE.fullmatch(folded(node.args[0]) or ""):
            self._note("writing", node, ".open()")
        if func.attr in ("get", "pop", "__getitem__") and self._is_look_up(func.value) and node.args:
            self._looked_up(node.args[0], node)

    def _is_look_up(self, node: ast.AST) -> bool:
        """Whether an expression is a table of names: ``globals()``, ``sys.modules``, or the ``__dict__`` of something imported."""
        if isinstance(node, ast.Call):
            called = self.names.all_of(node.func)
            of_object = bool(node.args) and not self.names.is_import(node.args[0])
            return any(name in _LOOK_UPS for name in called) and not of_object
        return isinstance(node, ast.Attribute) and node.attr == "__dict__" and self.names.is_import(node)

    def _looked_up(self, key: ast.expr, node: ast.AST) -> None:
        name = folded(key)
        if name is None or name in ROUNDABOUT or name in BUILTINS:
            self._note("obfuscation", node, "a name looked up" if name is None else f"the name {name!r} looked up")

    def _is_harmless_import(self, called: tuple[str, ...], node: ast.Call) -> bool:
        """Whether a call imports a module whose name is seen; the module is noted where it is a dangerous one."""
        if not node.args or not {"__import__", "importlib.import_module"} & set(called):
            return False
        name = folded(node.args[0])
        if name is None:
            # A module beside this one, which is scanned as well.
            return len(node.args) > 1 and isinstance(node.args[1], ast.Name) and node.args[1].id == "__package__"
        if name:
            self._import(name.lstrip("."), node)
            self._dotted(name, node, imported=True, handed_on=True)
        return name is not None

    def _is_reading(self, called: tuple[str, ...], node: ast.Call) -> bool:
        """Whether a call opens a file to read it."""
        if not {"open", "io.open", "codecs.open", "gzip.open"} & set(called) or any("open" in names for names in self._local):
            return False
        given = [keyword.value for keyword in node.keywords if keyword.arg == "mode"] + node.args[1:2]
        if any(keyword.arg is None for keyword in node.keywords) or any(isinstance(arg, ast.Starred) for arg in node.args):
            return False
        mode = folded(given[0]) if given else "r"
        return mode is not None and not set(mode) & set("wax+")

    def _import(self, module: str, node: ast.AST) -> None:
        parts = module.split(".")
        rule = WHOLE_MODULES.get(parts[0])
        if rule:
            self._note(rule, node, f"the module {module}")
        elif len(parts) > 1:
            self._dotted(module, node, imported=True)

    def _dotted(self, name: str, node: ast.AST, imported: bool, handed_on: bool = False) -> None:
        """Judges a dotted name."""
        for candidate in candidates(name, imported):
            rule = rule_of(candidate)
            if rule:
                self._note(rule, node, candidate)
            elif handed_on and candidate in PARTLY:
                self._note("obfuscation", node, f"the module {candidate}, handed on as a value,")
            elif candidate != name and candidate in ROUNDABOUT:
                self._note("obfuscation", node, name)

    def _attribute(self, name: str, node: ast.AST) -> None:
        if name in ATTRIBUTES:
            self._note(ATTRIBUTES[name], node, name)

    def _is_self(self, node: ast.AST) -> bool:
        return (isinstance(node, ast.Name) and node.id in ("self", "cls")) or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
        )

    def _visit_all(self, nodes: list[ast.expr]) -> None:
        for node in nodes:
            self.visit(node)

    def _note(self, rule: str, node: ast.AST | int, subject: str) -> None:
        line = node if isinstance(node, int) else getattr(node, "lineno", 0)
        code = self.lines[line - 1].strip() if 0 < line <= len(self.lines) else ""
        self.found.setdefault((line, rule), Finding(rule, self.file, line, subject, code))


def candidates(name: str, imported: bool) -> Iterator[str]:
    """A dotted name, and what it is when it goes through another module: ``torch.os.system`` is ``os.system``."""
    parts = name.split(".")
    if imported or parts[0] in _BYTES:
        yield name
    for start in range(1, len(parts)):
        if parts[start] in ROUNDABOUT and (imported or start + 1 < len(parts)):
            yield ".".join(parts[start:])


def rule_of(name: str) -> str | None:
    """The rule a dotted name breaks."""
    parts = name.split(".")
    if parts[0] in WHOLE_MODULES:
        return WHOLE_MODULES[parts[0]]
    for length in range(len(parts), 0, -1):
        if (prefix := ".".join(parts[:length])) in NAMES:
            return NAMES[prefix]
    if parts[0] in PARTLY and len(parts) > 1:
        rule, harmless = PARTLY[parts[0]]
        return None if {parts[1], ".".join(parts[1:3])} & set(harmless.split()) else rule
    return None


def _is_chain(node: ast.expr) -> bool:
    """Whether an expression is a name with attributes, all of which are judged together."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id not in BUILTINS


def _is(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
