"""``modeltiers init``: a config for a model file, written by looking at the model."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from harness.errors import ConfigError, FactoryError, ModelSourceError, UserError
from harness.files import write_whole
from harness.models.attempts import Patience
from harness.models.factories import factories
from harness.models.factory import Factory
from harness.models.factory_arguments import called_as_elsewhere, with_arguments
from harness.models.inspection import Guess, signature_of
from harness.models.loading import refuse_dangerous
from harness.models.settings import makes_something, takes_settings
from harness.models.usual_values import A_NUMBER
from harness.models.written_calls import WrittenCalls
from harness.partial_import import MISSING
from harness.scaffold.bridge import Source, bridge_path, bridge_text, import_model, needs_bridge, refuse_elsewhere
from harness.scaffold.building import agreeing, built, untold, untrained, with_other_numbers
from harness.scaffold.config_text import config_text
from harness.scaffold.declared import Declared, with_near_classes
from harness.scaffold.task import Told, task_of
from harness.scan import training_calls
from harness.user_code import raised
from harness.wording import listed

_SHOWN_ARGUMENTS = 8
_SHOWN = 2
"""Names of a file of which a message says what was wrong with each."""

_LONGEST_CALL = 200
"""Letters of a call that a message has room for."""

_ABOVE = 3
"""Folders from which a script may import: its own, and those above it, as of an editor that runs it from the root."""

_MAKES = ("from_name", "from_config", "make_default", "make_", "build", "create")

_OR_A_FUNCTION = "a function build_model() in the file that returns the model"
"""What helps with any file."""


@dataclass(frozen=True)
class Scaffold:
    """What was written, and from which findings.

    Attributes:
        config: The config file.
        source: The model's file.
        bridge: The Python file beside the model that calls it, where the config cannot say how.
        factory: What makes the model.
        guess: The task, with reasons; ``None`` where no task type stands for it.
        declared: The signature that the config declares instead.
        signature: The model's ``forward``.
        others: Other names in the file that may make a model.
        trusted: Whether the config says that the file may do what the scan refuses.
        written_by: The command that writes the config.
        note: A sentence that the config begins with.
        more: Further keys, each with its value and a comment.
        files: Further files that were written.
    """

    config: Path
    source: Source
    bridge: Path | None
    factory: Factory
    guess: Guess | None
    declared: Declared | None
    signature: str
    others: tuple[str, ...]
    trusted: bool = False
    written_by: str = ""
    note: str = ""
    more: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @property
    def called(self) -> str:
        """How ``forward`` was called, for people."""
        return self.guess.called if self.guess else self.declared.called if self.declared else ""


@dataclass(frozen=True)
class _Found:
    """A model and its task."""

    factory: Factory
    model: nn.Module
    guess: Guess | None
    declared: Declared | None
    others: tuple[str, ...]


def scaffold(
    model_file: Path,
    target: Path | None = None,
    told: Told | None = None,
    *,
    overwrite: bool = False,
    patience: Patience | None = None,
    apart: bool = False,
) -> Scaffold:
    """Writes a config for a model file.

    Args:
        model_file: The ``.py`` file.
        target: Where the config goes, as TOML or, by its ending, JSON; ``modeltiers.toml`` beside the model by default, or beside the
            package that the model's file can only be imported as part of.
        told: What the user says of the model.
        overwrite: Whether existing files are replaced.
        patience: The time there is, and who is told what is being done.
        apart: Whether the config lies away from the model, whose folder the caller puts on the path; all that is written lies with it.

    Raises:
        UserError: The file does not import, makes no model, fits no task, or the config exists already.
    """
    _refuse_kind(model_file, target)
    if target is not None:
        _refuse_existing(target, overwrite)
    told, patience = told or Told(), patience or Patience()
    if not told.trust:
        refuse_dangerous(model_file.resolve(), model_file.name)
    _refuse_training(model_file.resolve())
    patience.stage(f"importing {model_file.name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the model's own code; the suite shows them
        source = import_model(model_file)
        target = target or source.folder / "modeltiers.toml"
        if not apart:
            refuse_elsewhere(source, target)
        _refuse_existing(target, overwrite)
        patience.start()
        found = _find(source, told, patience)
    signature, bridge = signature_of(found.model), None
    if needs_bridge(found.factory, found.guess):
        bridge = bridge_path(target.parent if apart else source.folder)
        _refuse_existing(bridge, overwrite)
        write_whole(bridge, bridge_text(source, found.factory, found.guess, signature, found.model))
    declared = found.declared
    if declared is not None:
        near = (source.file, source.dotted) if bridge is None else None
        declared = replace(declared, keys=with_near_classes(declared.keys, target, near))
    written = Scaffold(target, source, bridge, found.factory, found.guess, declared, signature, found.others, told.trust)
    write_whole(target, config_text(written))
    return written


def _find(source: Source, told: Told, patience: Patience) -> _Found:
    """The first thing in the file that makes a model which fits a task, or which a call was found of."""
    tried: dict[str, str] = {}
    possible = list(factories(source.module, told.arguments, told.factory, tried))
    shapes = WrittenCalls.of(source.module).shapes
    for index, made in enumerate(possible):
        others = tuple(other.name for other in possible[index + 1 :] if not _is_loss(other.name))
        found = _looked_at(source, made, told, shapes, patience)
        if isinstance(found, _Found):
            return replace(found, others=others)
        tried[_shortened(made.call) if made.kwargs or made.objects else made.name] = found.removeprefix(
            f"{made.name} "
        ) + _makers(made)
        if patience.is_over and index + 1 < len(possible):
            left = ", ".join(other.name for other in possible[index + 1 :])
            tried[left] = f"not tried: stopped after {patience.seconds:g} s; --factory NAME takes one of them"
            break
    tried = dict(
        sorted(tried.items(), key=lambda item: "expected an nn.Module" in item[1])
    )  # such as a function that makes weights
    tried |= dict.fromkeys(_instances(source.module), "is made when the file is imported; return it from a function")
    if any(isinstance(getattr(source.module, name.partition("(")[0], None), type) for name in tried):
        # Where there are classes, a function that needs an argument of no usual name is no factory.
        functions = {name for name in tried if isinstance(getattr(source.module, name, None), FunctionType)}
        tried = {
            name: why
            for name, why in tried.items()
            if name == told.factory or name not in functions or not why.startswith("needs ")
        }
    lines = [why if why.startswith(name) else f"{name} {why}" for name, why in tried.items()]
    if len(lines) > _SHOWN:
        rest = [name.partition("(")[0] for name in [*tried][1:]]
        lines = [lines[0], f"{len(rest)} more: {', '.join(rest)}; --factory NAME says what is wrong with one of them"]
    found = "".join(f"\n  {line}" for line in lines) or "\n  no function and no nn.Module class"
    raise FactoryError(
        f"{source.file.name}: nothing here is a model that a suite can be written for. Tried:{found}\n{_what_to_add(source, tried)}"
    )


def _shortened(call: str) -> str:
    """A call as a message has room for it."""
    return call if len(call) <= _LONGEST_CALL else f"{call[:_LONGEST_CALL]}…)"


def _what_to_add(source: Source, tried: Mapping[str, str]) -> str:
    """The command that says what was missing of the likeliest model, with an example of each value."""
    if MISSING and (not tried or "No module named" in next(iter(tried.values()))):
        return f"Install what is not installed here and other files of it import: {', '.join(f'`{each}`' for each in sorted(MISSING))}"
    if not tried:
        return f"Add {_OR_A_FUNCTION}"
    names = [*dict.fromkeys(name.partition("(")[0] for name in tried)]
    name, why = names[0], next(iter(tried.values()))
    factory = f" --factory {name}" if len(names) > 1 else ""
    if "there is no network here" in why and not re.search(r"pretrain|weights", str(_parameters_of(source, name))):
        return f"Run it where there is network, which gives the file what it downloads; or add {_OR_A_FUNCTION}"
    if at := re.search(r"raised TypeError: \w+\.__init__\(\) missing .*\(([\w.]+, line \d+)", why):
        return f"Correct the call in {at[1]}, which no argument of {name} changes; or add {_OR_A_FUNCTION}"
    missing = re.match(r"needs ((?:`\w+`(?:, )?)+)", why)
    options, more = re.findall(r"--(?:input|arg) [^\s=]+=[^\s;]+", why), ""
    named = re.findall(r"\w+", missing[1]) if missing else []
    was_tried = f": with {A_NUMBER} " in why and not re.search(r"\bint\b", why)
    if named and not was_tried and not _builds(source, name, named):
        return f"Add {_OR_A_FUNCTION}: {listed(named, len(named))} take{'s' if len(named) == 1 else ''} more than a number"
    for each in named:
        is_object = takes_settings(each)
        options.append("--arg NAME=VALUE" if is_object else f"--arg {each}={A_NUMBER}")
        more += f" (for each entry of `{each}` that the model reads)" if is_object else ""
    takes = [] if options else _parameters_of(source, name)
    if takes:
        options, rest = ["--arg NAME=VALUE"], ", …" if len(takes) > _SHOWN_ARGUMENTS else ""
        more = f" (it takes {', '.join(takes[:_SHOWN_ARGUMENTS])}{rest})"
    if not options and not factory:
        return f"Add {_OR_A_FUNCTION}"
    command = " ".join(["modeltiers init", f"{source.file.name}{factory}", *options])
    return f"Say it, with your values: {command}{more}; or add {_OR_A_FUNCTION}"


def _parameters_of(source: Source, name: str) -> list[str]:
    target = getattr(source.module, name, None)
    taken = inspect.signature(target).parameters if inspect.isclass(target) or inspect.isfunction(target) else {}
    return [name for name, p in taken.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _builds(source: Source, name: str, arguments: Sequence[str]) -> bool:
    """Whether a class makes a model when each argument that it lacks is a number; a function, and settings, are not tried."""
    target = getattr(source.module, name, None)
    plain = {each: A_NUMBER for each in arguments if not takes_settings(each)}
    if len(plain) < len(arguments) or not inspect.isclass(target):
        return True
    made = with_arguments(source.module, name, target, plain, WrittenCalls.of(source.module))
    return isinstance(made, Factory) and makes_something(made.outline)


def _looked_at(
    source: Source, made: Factory, told: Told, shapes: tuple[tuple[int, ...], ...], patience: Patience
) -> _Found | str:
    """A model of a factory and its task, with guessed sizes that agree where those that were guessed first do not; or why there is none."""
    attempts, why = [replace(made, method=told.call)], ""
    for attempt in attempts:
        try:
            if not told.trust:
                refuse_dangerous(source.file, source.file.name, attempt.name, attempt.kwargs)
            patience.stage(f"building {attempt.call}")
            whole, model = built(attempt)
            guess, declared = task_of(whole, model, source.module, told, shapes, patience)
        except (Exception, SystemExit) as error:  # a model may do anything while it is looked at
            if not why:
                why = str(error) if isinstance(error, UserError) else f"cannot be looked at: {raised(error)}"
                off = untrained(attempt) if isinstance(error, ModelSourceError) else None  # which reaches the network
                attempts += [] if off is None else [off]
                attempts += [*agreeing(attempt, why), *called_as_elsewhere(attempt, source.module), *with_other_numbers(attempt)]
        else:
            return _Found(whole, model, guess, declared, ())
    names = ", ".join(f"`{name}`" for name in untold(made))
    return (
        f"needs {names}: with {A_NUMBER} {'for each ' if ',' in names else ''}it {why.removeprefix(f'{made.name} ')}"
        if names
        else why
    )


def _makers(made: Factory) -> str:
    """The methods of a class that make an instance another way."""
    if not isinstance(made.target, type):
        return ""
    methods = [name for name, value in vars(made.target).items() if isinstance(value, classmethod) and name.startswith(_MAKES)]
    return f" (another way: --factory {made.name}.{methods[0]})" if methods else ""


def _instances(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, nn.Module)]


def _is_loss(name: str) -> bool:
    return name.lower().endswith(("loss", "criterion"))


def _refuse_training(model_file: Path) -> None:
    """Refuses a file whose model needs what is trained when the file is imported, which might take hours, and one that imports such a file."""
    finding = next(training_calls(model_file), None)
    if finding is None:
        return
    home, name = _model_elsewhere(model_file)
    if home is not None:
        raise ModelSourceError(f"{finding}. Its model is `{name}` of {home.name}: modeltiers init {home} --factory {name}")
    raise ModelSourceError(
        f'{finding}. Importing it would run that: move what is not the model below `if __name__ == "__main__":`, or the model into a '
        "separate file"
    )


def _model_elsewhere(script: Path) -> tuple[Path | None, str]:
    """The file of the class that a script makes its model of, and the class; ``None`` where the script has it, or no file beside it does."""
    tree = ast.parse(script.read_bytes())
    homes: dict[str, tuple[Path, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            homes |= {each.asname or each.name: (_home(script, node.module), each.name) for each in node.names}
        elif isinstance(node, ast.Import):
            homes |= {each.asname or each.name: (_home(script, each.name), "") for each in node.names}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        owner, _, name = ast.unparse(call.func).rpartition(".")
        home, original = homes.get(owner or name, (script, ""))
        cls = name if owner else original
        if home != script and _is_module_in(home, cls) and next(training_calls(home), None) is None:
            return home, cls
    return None, ""


def _home(script: Path, module: str) -> Path:
    """The file of a module that a script imports from its own folder, or from one above it."""
    files = [folder.joinpath(*module.split(".")).with_suffix(".py") for folder in script.parents[:_ABOVE]]
    return next((file for file in files if file.is_file()), script)


def _is_module_in(file: Path, name: str) -> bool:
    """Whether a file defines a class with a ``forward``."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        return False
    methods = [inner for node in body if isinstance(node, ast.ClassDef) and node.name == name for inner in node.body]
    return any(isinstance(each, ast.FunctionDef) and each.name == "forward" for each in methods)


def _refuse_kind(model_file: Path, target: Path | None) -> None:
    """Refuses what is no file of Python, and a config of another kind."""
    if target is not None and target.suffix not in (".toml", ".json"):
        raise ConfigError(f"{target}: a config ends in .toml or .json")


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists already; --force replaces it, --output writes the config elsewhere")
