"""Finding what in a Python file makes its model, and with which arguments."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from harness.errors import FactoryError, did_you_mean
from harness.models.instantiated import instantiated
from harness.models.loading import ModelSource
from harness.models.settings import (
    ObjectArgument,
    compared_word,
    found_settings,
    makes_something,
    read_settings,
    reads_from,
    reads_settings,
    takes_settings,
)
from harness.models.usual_values import snake_case, usual_value
from harness.models.wrapped import call_by
from harness.models.written_calls import WrittenCalls

_USUAL_NAMES = ("build_model", "make_model", "get_model", "create_model", "model_factory")
_SAYS_MUCH = 5
"""Letters of an argument's name from which on a class that has them in its name is taken for what it means."""

_SCRIPTS = ("main", "train", "fit", "run", "test", "eval", "evaluate", "predict", "plot", "download", "load_data", "parse")
"""Names that begin a function which does something, rather than make a model."""


@dataclass(frozen=True)
class Factory:
    """Something in a file that makes a model.

    Attributes:
        name: Its name in the file.
        target: The callable.
        kwargs: The arguments it is called with.
        guessed: Names of the arguments that nobody gave.
        objects: The arguments that take an object of settings, or a part of the model.
        place: The file and line whose call the arguments were read from.
        through: The submodule that is called, where the model has no ``forward``.
        method: The method that is called in its place.
    """

    name: str
    target: Any
    kwargs: dict[str, Any] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()
    objects: tuple[ObjectArgument, ...] = ()
    place: str = ""
    through: str = ""
    method: str = ""

    @property
    def source(self) -> ModelSource:
        """The factory as a way to build models."""
        return ModelSource(self._made, self.name, self.kwargs)

    @property
    def call(self) -> str:
        """The call, as it would be written."""
        objects = [f"{each.argument}={each.expression}" for each in self.objects]
        return f"{self.name}({', '.join([*objects, *(f'{name}={value!r}' for name, value in self.kwargs.items())])})"

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments, with the settings of an object of settings by their names."""
        settings = [vars(made) for each in self.objects if isinstance(made := each.make(), SimpleNamespace)]
        return {**{name: value for each in settings for name, value in each.items()}, **self.kwargs}

    def outline(self) -> Any:
        """What the factory returns, as it is."""
        return self._made(**self.kwargs)

    def _made(self, **kwargs: Any) -> Any:
        model = self.target(**{each.argument: each.make() for each in self.objects}, **kwargs)
        if self.method:
            call_by(model, self.method, self.name)
        return called_through(model, self.through) if self.through else model


def called_through(model: nn.Module, name: str) -> nn.Module:
    """A model without a ``forward``, such as a LightningModule that is only trained, with that of one of its submodules."""
    cls = type(model)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.get_submodule(name)(*args, **kwargs)

    inner = inspect.signature(model.get_submodule(name).forward)
    owner = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    forward.__signature__ = inner.replace(parameters=[owner, *inner.parameters.values()])  # type: ignore[attr-defined]
    model.__class__ = type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__})
    return model


def has_forward(model: nn.Module) -> bool:
    """Whether a model has a ``forward`` that does something."""
    cls = type(model)
    if cls.forward is nn.Module.forward or _is_lightning_default(cls):
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls.forward)))
    except (OSError, TypeError, SyntaxError):
        return True
    body = getattr(tree.body[0], "body", [])
    done = [each for each in body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
    return not (len(done) == 1 and (isinstance(done[0], ast.Pass) or "NotImplementedError" in ast.unparse(done[0])))


def inner_model(model: nn.Module) -> str:
    """The submodule that holds most of the parameters of a model without a ``forward``; empty where it has one, or where none does."""
    if type(model).forward is not nn.Module.forward and not _is_lightning_default(type(model)):
        return ""
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    whole = sum(sizes.values())
    has_forward = bool(largest) and type(model.get_submodule(largest)).forward is not nn.Module.forward
    return largest if has_forward and sizes[largest] * 2 > whole else ""


def _is_lightning_default(cls: type[nn.Module]) -> bool:
    """Whether ``forward`` is Lightning's own, which calls the one of ``nn.Module``."""
    return getattr(cls.forward, "__module__", "").startswith(("lightning.", "pytorch_lightning."))


def factories(
    module: ModuleType, given: Mapping[str, Any], only: str | None = None, refused: dict[str, str] | None = None
) -> Iterator[Factory]:
    """What may make the model of a file, the likeliest first.

    ``build_model`` and names like it come first, then other functions that return something, then ``nn.Module`` classes that no other
    class of the file uses: a part of a model is not the model. Later ones come first, as a file usually builds up to its model. Required
    arguments are taken from ``given``, or else from a call with literal arguments in the file or beside it, or from a constant of the
    file; those of a usual name, such as ``num_classes``, get a small size. A settings object is one that the file has or makes without
    arguments, or else a namespace of what the model reads from it.

    Args:
        module: The imported file.
        given: Arguments by name.
        only: The one name to look at.
        refused: Takes the reason for each callable that is left out.

    Raises:
        FactoryError: There is no ``only`` in the file.
    """
    refused = {} if refused is None else refused
    callables = {
        name: value
        for name, value in vars(module).items()
        if (name in _USUAL_NAMES or getattr(value, "__module__", None) == module.__name__)
        and (inspect.isfunction(value) or _is_model_class(value))
    }
    if only is not None:
        target: Any = module
        for part in only.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            raise FactoryError(
                f"{module.__file__} has no {only!r}.{did_you_mean(only, callables)} It defines: {', '.join(callables)}"
            )
        names, callables = [only], {only: target}
    else:
        functions = [name for name, value in callables.items() if inspect.isfunction(value) and _may_make_a_model(value)]
        classes = {name: value for name, value in callables.items() if inspect.isclass(value)}
        used = {name for cls in classes.values() for name in _names_in(cls)}  # such as a block of layers
        whole = [name for name in functions if name not in used] if classes else functions
        inner = {name for part in set(functions) & used for name in callables[part].__code__.co_names}  # one that chooses a layer
        models = [name for name in _not_parts(classes) if name not in inner or len(classes) == 1]
        names = [*(name for name in _USUAL_NAMES if name in callables), *reversed(whole), *reversed(models)]
        names = sorted(names, key=is_only_for_training)
    written = WrittenCalls.of(module)
    for name in dict.fromkeys(names):
        factory = _with_arguments(module, name, callables[name], given, written)
        if isinstance(factory, Factory):
            yield factory
        else:
            refused[name] = factory


_FOR_TRAINING = re.compile(r"discriminator|critic(?!s)|loss|criterion|(?:^|_)ema(?:_|$)", re.IGNORECASE)


def is_only_for_training(name: str) -> bool:
    """Whether a name is that of something by which the model of a file is trained, such as the discriminator beside a generator."""
    return _FOR_TRAINING.search(name) is not None and "actor" not in name.lower()


def _is_model_class(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)


def _may_make_a_model(function: FunctionType) -> bool:
    """Whether a function returns something, and is not called like a script's steps: ``main()`` might train for hours."""
    if function.__name__.startswith("_") or function.__name__.lower().startswith(_SCRIPTS):
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        return True
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    return function.__name__ == "<lambda>" or any(value is not None for value in returned)


def _not_parts(classes: dict[str, type]) -> list[str]:
    """Names of the classes that no other one uses; all of them where they use each other in a circle."""
    used = {part for name, cls in classes.items() for part in _names_in(cls) - {name}}
    used |= {base.__name__ for name in used & classes.keys() for base in classes[name].__mro__[1:]}  # what parts have in common
    return [name for name in classes if name not in used] or list(classes)


def _names_in(cls: type) -> set[str]:
    """The global names that a class's methods use."""
    methods = (getattr(value, "__func__", value) for value in vars(cls).values())  # of static and class methods too
    codes = [value.__code__ for value in methods if inspect.isfunction(value)]
    names: set[str] = set()
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes.extend(constant for constant in code.co_consts if isinstance(constant, CodeType))
    return names


def _with_arguments(
    module: ModuleType, name: str, target: Any, given: Mapping[str, Any], written: WrittenCalls, has_parts: bool = True
) -> Factory | str:
    """The factory with its arguments, or why it cannot be called.

    Args:
        module: The model's file.
        name: The factory's name in it.
        target: The factory.
        given: Arguments by name.
        written: What the files around the model say.
        has_parts: Whether parts of the model may be arguments.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError) as error:
        return f"cannot be looked at: {error}"
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    kwargs = {key: value for key, value in given.items() if takes_any or key in parameters}
    required = [p for p in parameters.values() if _is_required(p) and p.name not in kwargs]
    made = instantiated(name, parameters, kwargs, written) if required else None
    if made is not None:
        return Factory(name, target, _on_this_machine(parameters, {**made.kwargs, **kwargs}), (), made.objects, made.place)
    call = written.first(name)
    says_more = call is not None and (bool(required) or takes_any or (call.is_own and bool(call.kwargs)))
    if call is not None and says_more and all(p.name in call.kwargs for p in required):
        return Factory(name, target, _on_this_machine(parameters, {**call.kwargs, **kwargs}), place=call.place)
    kwargs = _on_this_machine(parameters, kwargs)
    plain = [p.name for p in required if not takes_settings(p.name)]
    table = written.table(plain) if len(plain) == len(required) else None
    if table is not None:
        said = {key: value for key, value in table.values.items() if key in parameters}
        return Factory(name, target, _on_this_machine(parameters, {**said, **kwargs}), place=table.place)
    wants, guessed = _fill(module, target, required, kwargs, written.defaults)
    if not wants:
        return Factory(name, target, kwargs, tuple(guessed), place="" if table is None else table.place)
    objects = _objects(module, target, wants, given, kwargs, written, has_parts)
    if isinstance(objects, str):
        return objects + _written(name, written)
    found, place = objects
    return Factory(name, target, kwargs, (*guessed, *(each for one in found for each in one.guessed)), tuple(found), place)


def _objects(
    module: ModuleType,
    target: Any,
    wants: list[inspect.Parameter],
    given: Mapping[str, Any],
    kwargs: Mapping[str, Any],
    written: WrittenCalls,
    has_parts: bool,
) -> tuple[list[ObjectArgument], str] | str:
    """What is passed for arguments that no plain value does for, and the file that says it; or why there is nothing."""
    found: dict[str, ObjectArgument] = {}
    for parameter in wants:
        settings = found_settings(module, target, parameter, given)
        part = _part(module, target, parameter.name, written) if has_parts and settings is None else None
        if settings is not None or part is not None:
            found[parameter.name] = settings or part  # type: ignore[assignment]
    rest = [p.name for p in wants if p.name not in found]
    missing = [name for name in rest if not takes_settings(name) and not reads_settings(name, target)]
    if missing:
        return f"needs {', '.join(f'`{name}`' for name in missing)}"
    if not rest:
        return list(found.values()), ""
    table = written.table([name for argument in rest for name in reads_from(argument, target)])
    said = {} if table is None else {**table.values, **given}
    passed = {**kwargs, **{name: each.make() for name, each in found.items()}}
    read = read_settings(rest, target, said or given, passed, written.defaults)
    if isinstance(read, str):
        return read
    return [*found.values(), *read], "" if table is None else table.place


def _part(module: ModuleType, target: Any, argument: str, written: WrittenCalls) -> ObjectArgument | None:
    """A part of the model that it is given, such as an encoder: an instance of the class in the file that is called like the argument."""
    wanted = _letters(argument)
    classes = {
        name: value
        for name, value in vars(module).items()
        if _is_model_class(value) and value is not target and not value.__module__.startswith("torch.")
    }
    same = [name for name in classes if _letters(name) == wanted]
    like = [name for name in classes if wanted in _letters(name) and len(wanted) >= _SAYS_MUCH]
    for name in same or like:
        made = _with_arguments(module, name, classes[name], {}, written, has_parts=False)
        if isinstance(made, Factory) and makes_something(made.outline):
            names = (name, *(each for one in made.objects for each in one.names))
            return ObjectArgument(argument, made.call, made.outline, names, made.guessed)
    return None


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _on_this_machine(parameters: Mapping[str, inspect.Parameter], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the CPU for a device that this machine has not."""
    found = dict(kwargs)
    for parameter in parameters.values():
        is_cuda = str(found.get(parameter.name, parameter.default)).startswith("cuda")
        if "device" in parameter.name and is_cuda and not torch.cuda.is_available():
            found[parameter.name] = "cpu"
    return found


def _fill(
    module: ModuleType, target: Any, required: list[inspect.Parameter], kwargs: dict[str, Any], defaults: Mapping[str, Any]
) -> tuple[list[inspect.Parameter], list[str]]:
    """Gives required arguments a constant of the file, a word that they are compared with, a usual size, or an option's default.

    Returns those that get none of these, and the guesses.
    """
    constants = {snake_case(name): value for name, value in vars(module).items() if type(value) in (bool, int, float, str)}
    options = {snake_case(name): value for name, value in defaults.items()}
    wants: list[inspect.Parameter] = []
    guessed: list[str] = []
    for parameter in required:
        name = parameter.name
        if parameter.kind is parameter.POSITIONAL_ONLY:
            wants.append(parameter)
        elif snake_case(name) in constants:
            kwargs[name] = constants[snake_case(name)]
        elif (usual := usual_value(name)) is not None and _may_hold(parameter, usual):
            kwargs[name] = usual
            guessed.append(name)
        elif (word := compared_word(name, target)) is not None:
            kwargs[name] = word
            guessed.append(name)
        elif snake_case(name) in options:
            kwargs[name] = options[snake_case(name)]
            guessed.append(name)
        else:
            wants.append(parameter)
    return wants, guessed


def _may_hold(parameter: inspect.Parameter, value: Any) -> bool:
    """Whether the annotation of a parameter allows a list, or a single value."""
    annotation = str(parameter.annotation).lower()
    if isinstance(value, list):
        return not re.search(r"\bint'?>?$|^float$|^str$", annotation)
    single = re.search(r"list|tuple|sequence|dict|callable|module|str\b", annotation) is None
    return (
        parameter.annotation is parameter.empty
        or single
        or re.search(r"\bint\]$|, int\b|\| int\b|\bint \|", annotation) is not None
    )


def _written(name: str, written: WrittenCalls) -> str:
    """Where a name is called that cannot be called here."""
    places = written.places(name)
    return f" (it is called in {places[0]})" if places else ""


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
