"""Finding what in a Python file makes its model, and with which arguments."""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from harness.errors import FactoryError, did_you_mean
from harness.models.loading import ModelSource

_USUAL_NAMES = ("build_model", "make_model", "get_model", "create_model", "model_factory")
_SCRIPTS = ("main", "train", "fit", "run", "test", "eval", "evaluate", "predict", "plot", "download", "load_data", "parse")
"""Names that begin a function which does something, rather than make a model."""

_SETTINGS = ("config", "cfg", "args", "hparams", "params", "settings", "opt")
"""Words in the name of an argument that takes a settings object."""

_SIZES: dict[str, Any] = {
    name: value
    for names, value in (
        ("vocab_size n_vocab vocab num_tokens n_tokens ntoken num_embeddings src_vocab_size tgt_vocab_size", 256),
        ("max_seq_len max_len max_length seq_len seq_length block_size context_length n_ctx max_position_embeddings", 64),
        (
            "d_model dim embed_dim embedding_dim emb_dim emb_size embed_size n_embd ninp hidden_size hidden_dim hidden nhid width",
            64,
        ),
        ("num_heads n_heads nhead n_head heads nheads num_attention_heads", 4),
        ("num_layers n_layers nlayers n_layer depth num_blocks n_blocks num_hidden_layers layers", 2),
        ("d_ff dim_feedforward ff_dim mlp_dim intermediate_size ffn_dim", 128),
        ("num_classes n_classes nclasses num_labels n_labels classes output_dim out_dim output_size out_features n_outputs", 4),
        ("in_channels in_chans num_channels channels n_channels", 3),
        ("image_size img_size", 32),
        ("patch_size", 8),
        ("kernel_size", 3),
        ("num_features n_features in_features input_dim input_size in_dim n_inputs", 16),
        ("dropout drop_rate dropout_rate dropout_p drop p", 0.1),
        ("pad_token_id pad_idx pad_id padding_idx", 0),
        ("learning_rate lr", 1e-3),
        ("weight_decay", 0.01),
    )
    for name in names.split()
}
"""What a required argument of a usual name is tried with: small, and sizes that go together."""


@dataclass(frozen=True)
class Settings:
    """An argument that takes a settings object.

    Attributes:
        argument: Its name.
        name: The name of the object's class in the file.
        cls: The class, which needs no arguments.
    """

    argument: str
    name: str
    cls: type


@dataclass(frozen=True)
class Factory:
    """Something in a file that makes a model.

    Attributes:
        name: Its name in the file.
        target: The callable.
        kwargs: The arguments it is called with.
        guessed: Names of the arguments that nobody gave.
        settings: The argument that takes a settings object.
    """

    name: str
    target: Any
    kwargs: dict[str, Any] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()
    settings: Settings | None = None

    @property
    def source(self) -> ModelSource:
        """The factory as a way to build models."""
        if self.settings is None:
            return ModelSource(self.target, self.name, self.kwargs)
        argument, cls = self.settings.argument, self.settings.cls
        return ModelSource(lambda **kwargs: self.target(**{argument: cls()}, **kwargs), self.name, self.kwargs)

    @property
    def call(self) -> str:
        """The call, as it would be written."""
        settings = [] if self.settings is None else [f"{self.settings.argument}={self.settings.name}()"]
        return f"{self.name}({', '.join([*settings, *(f'{name}={value!r}' for name, value in self.kwargs.items())])})"


def factories(
    module: ModuleType, given: Mapping[str, Any], only: str | None = None, refused: dict[str, str] | None = None
) -> Iterator[Factory]:
    """What may make the model of a file, the likeliest first.

    ``build_model`` and names like it come first, then other functions that return something, then ``nn.Module`` classes that no other
    class of the file uses: a part of a model is not the model. Later ones come first, as a file usually builds up to its model. Required
    arguments are taken from ``given``; those of a usual name, such as ``num_classes``, get a small size; a settings object is made from
    its class where that needs no arguments itself.

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
        target = getattr(module, only, None)
        if not callable(target):
            raise FactoryError(
                f"{module.__file__} has no {only!r}.{did_you_mean(only, callables)} It defines: {', '.join(callables)}"
            )
        names, callables = [only], {only: target}
    else:
        functions = [name for name, value in callables.items() if inspect.isfunction(value) and _may_make_a_model(value)]
        classes = {name: value for name, value in callables.items() if inspect.isclass(value)}
        names = [*(name for name in _USUAL_NAMES if name in callables), *reversed(functions), *reversed(_not_parts(classes))]
    for name in dict.fromkeys(names):
        factory = _with_arguments(module, name, callables[name], given)
        if isinstance(factory, Factory):
            yield factory
        else:
            refused[name] = factory


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
    return [name for name in classes if name not in used] or list(classes)


def _names_in(cls: type) -> set[str]:
    """The global names that a class's methods use."""
    codes = [value.__code__ for value in vars(cls).values() if inspect.isfunction(value)]
    names: set[str] = set()
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes.extend(constant for constant in code.co_consts if isinstance(constant, CodeType))
    return names


def _with_arguments(module: ModuleType, name: str, target: Any, given: Mapping[str, Any]) -> Factory | str:
    """The factory with its arguments, or why it cannot be called."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError) as error:
        return f"cannot be looked at: {error}"
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    kwargs = {key: value for key, value in given.items() if takes_any or key in parameters}
    guessed: list[str] = []
    missing: list[str] = []
    settings: Settings | None = None
    for parameter in parameters.values():
        if parameter.name in kwargs or not _is_required(parameter):
            continue
        found = None if settings else _settings(module, target, parameter)
        if found is not None:
            settings = found
        elif parameter.name in _SIZES and parameter.kind is not parameter.POSITIONAL_ONLY:
            kwargs[parameter.name] = _SIZES[parameter.name]
            guessed.append(parameter.name)
        else:
            missing.append(parameter.name)
    if missing:
        return f"needs {', '.join(f'`{argument}`' for argument in missing)}"
    return Factory(name, target, kwargs, tuple(guessed), settings)


def _settings(module: ModuleType, target: Any, parameter: inspect.Parameter) -> Settings | None:
    """The settings object that an argument takes, where the file can make one without arguments."""
    here = {name: value for name, value in vars(module).items() if inspect.isclass(value) and not issubclass(value, nn.Module)}
    likely = [_annotated(target, parameter.name)]
    if any(word in parameter.name.lower() for word in _SETTINGS):
        own = [cls for cls in here.values() if cls.__module__ == module.__name__]
        likely += [getattr(target, "config_class", None), *(cls for cls in own if is_dataclass(cls) or "onfig" in cls.__name__)]
    usable = [(name, cls) for wanted in likely for name, cls in here.items() if cls is wanted and _needs_nothing(cls)]
    return Settings(parameter.name, *usable[0]) if usable else None


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _annotated(target: Any, name: str) -> Any:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target).get(name)
    except Exception:  # names that only a type checker imports
        return None


def _needs_nothing(cls: Any) -> bool:
    try:
        cls()
    except Exception:
        return False
    return True
