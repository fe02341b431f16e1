"""Saved weights loaded into a second instance: by copying, by assignment, in another dtype.

What is saved are never the weights a factory makes: those of a copy are moved first, so that a weight which loading leaves out, or makes again,
differs even where every instance starts with the same zeros or ones.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from harness.compat import is_shared_until_written, storage_key
from harness.errors import ProbeUnsupportedError, UserError
from harness.evidence import Blame, Evidence, Status
from harness.models.copies import is_large_tensor, share_again
from harness.models.structure import kept_beside, unsaved
from harness.models.weights import load_state
from harness.owners import failing_owner, owned_by
from harness.properties.calling import ModelRaisedError
from harness.properties.large_tensors import RepeatedDraws, is_widened, may_be_constant, saved_in_dtype, through_a_file, widened
from harness.properties.model_variants import move
from harness.properties.noise import first_failure, is_packed, judge_equal, quantised_part
from harness.properties.places import line_that_sets
from harness.properties.subject import Subject, in_dtype_of
from harness.properties.tracing import calls_of, first_divergence, whole
from harness.user_code import raised

NAME = "serialisation"

State = dict[str, Tensor]

Load = Callable[[nn.Module, nn.Module], nn.Module]
"""From the model that is saved and an untouched second instance to the model that is loaded."""

_ANOTHER = 1_000_003
"""How far the seed of a second instance is from the first one's."""

_SHARE = 0.05
"""By how much of themselves loaded weights are moved, which are trained and must stay in their range."""

_OTHER_DTYPES = (torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Loaded:
    """A model, and another one that was loaded with what was saved of it.

    Attributes:
        source: The first.
        other: The second.
        logits: Logits of the first.
        loaded_logits: Logits of the second.
    """

    source: nn.Module
    other: nn.Module
    logits: Tensor
    loaded_logits: Tensor


class NotLoadedError(Exception):
    """What was saved cannot be loaded; the message is for people.

    Attributes:
        module: The module or parameter that is at fault; empty where none is known.
    """

    def __init__(self, told: str, module: str = "") -> None:
        super().__init__(told)
        self.module = module


def state_dict_round_trip(subject: Subject, seed: int = 0) -> Evidence:
    """Another instance, built from another seed and given the saved state dict, gives the same logits."""

    def load(source: nn.Module, other: nn.Module) -> nn.Module:
        load_into(other, through_a_file(source))
        return other

    found = judge_loading(
        subject,
        load,
        "a second instance with the loaded state dict gives different logits: part of the model is missing from it",
        "a tensor that is neither parameter nor persistent buffer (a plain attribute, persistent=False) drawn at random in __init__",
        "state_dict_incomplete",
        seed,
    )
    if found.status is Status.FAIL and tied_groups(subject.copies.model) - tied_groups(subject.fresh()):
        return replace(found, details=owned_by("serialisation[tied_weights]"), investigate=None)  # what was saved is a copy
    return found


def assigned_state_dict(subject: Subject, seed: int = 0) -> Evidence:
    """``load_state_dict(assign=True)``, which puts new tensors in the place of the old ones, gives the same logits."""

    def load(source: nn.Module, other: nn.Module) -> nn.Module:
        try:
            load_into(other, through_a_file(source), assign=True)
        except TypeError as error:
            raise ProbeUnsupportedError(f"load_state_dict does not take `assign`: {error}") from None
        tie_again(other)
        return other

    found = judge_loading(
        subject,
        load,
        "after load_state_dict(assign=True) the model still computes with weights from before",
        "a parameter or buffer that is kept a second time, in a list, a closure or an attribute, and used from there; use the registered one",
        "uses_old_weights",
        seed,
    )
    return unless_owned(subject, "assign", found)


def other_dtype(subject: Subject, seed: int = 0) -> Evidence:
    """A state dict in another dtype gives its own values, and leaves the model in the dtype it has."""
    if part := quantised_part(subject.model):
        return Evidence.skipped(NAME, f"`{part}` is quantised: its integers are in one dtype only")
    found = first_failure(_from_dtype(subject, dtype, seed, in_parts=subject.is_large) for dtype in _OTHER_DTYPES)
    if subject.is_large and found.status is not Status.OK:  # some methods that load take a whole state dict only
        found = first_failure(_from_dtype(subject, dtype, seed) for dtype in _OTHER_DTYPES)
    return unless_owned(subject, "dtype", found)


def _from_dtype(subject: Subject, dtype: torch.dtype, seed: int, in_parts: bool = False) -> Evidence:
    label = str(dtype).removeprefix("torch.")
    changed: list[str] = []

    def load(source: nn.Module, other: nn.Module) -> nn.Module:
        own = source.state_dict()
        for part in saved_in_dtype(source, dtype, in_parts):
            load_into(other, part, strict=not in_parts)
            with torch.no_grad():
                for name, value in part.items():
                    # As what is loaded was; else its memory stays shared.
                    if _is_floating(value) and (
                        value.layout is not torch.strided or not torch.equal(value.to(own[name]), own[name])
                    ):
                        own[name].copy_(value)
        dtypes = {name: value.dtype for name, value in source.state_dict().items() if isinstance(value, Tensor)}
        changed[:] = [name for name, value in other.state_dict().items() if dtypes.get(name, value.dtype) != value.dtype]
        return other

    evidence = judge_loading(
        subject,
        load,
        f"with a state dict in {label} the model computes something else than its values say",
        "a _load_from_state_dict or a hook that takes tensors as they come, or compares their dtype",
        "differs",
        seed,
    )
    if not changed or evidence.status is not Status.OK:
        return evidence
    return Evidence.failed(
        NAME,
        f"`{changed[0]}` takes the dtype of the state dict, {label}, while the rest of the model keeps its own",
        module=changed[0],
        cause="a _load_from_state_dict, a hook or a setter that puts the loaded tensor in the place of the parameter instead of copying it",
        code="takes_loaded_dtype",
    )


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def judge_loading(
    subject: Subject,
    load: Load,
    wrong: str | Callable[[], str],
    cause: str | Callable[[], str],
    code: str,
    seed: int,
    second: Callable[[], nn.Module] | None = None,
    call: Callable[[nn.Module], Tensor] | None = None,
) -> Evidence:
    """Saves a model with moved weights, loads what was saved, and compares the logits.

    Args:
        subject: The model.
        load: Saves and loads. It raises ``NotLoadedError``, or what ``load_state_dict`` raises, where that fails.
        wrong: What is wrong where they differ.
        cause: What usually causes it.
        code: What kind of finding a difference is.
        seed: Seed of the inputs.
        second: Makes the second instance; by default the factory does.
        call: What is compared; by default the logits.
    """
    if second is None and subject.rebuild is None:
        return Evidence.skipped(NAME, "the model has no factory, so a second instance cannot be built")
    second = second or partial(second_instance, subject)
    pairs = _Pairs(subject, load, second, call or partial(subject.logits, subject.batch(seed=seed)))
    try:
        pairs.of(subject.model)
    except (UserError, ProbeUnsupportedError):
        raise
    except (NotLoadedError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        told = str(error) if isinstance(error, NotLoadedError) else f"the saved state dict does not load: {raised(error)}"
        return Evidence.failed(
            NAME,
            told,
            module=getattr(error, "module", ""),
            cause="parameters made during forward, or a factory that builds another architecture each time",
            code="does_not_load",
        )
    counterexample = f"{subject.typical.describe(subject.task)}, seed={seed}"
    return judge_equal(subject, NAME, pairs.logits, wrong, counterexample, cause, pairs.culprit, code=code)


class _Pairs:
    """A model and what was loaded of it, made when it is first asked for: of the subject's model, and of its copy in float64."""

    def __init__(
        self, subject: Subject, load: Load, second: Callable[[], nn.Module], call: Callable[[nn.Module], Tensor]
    ) -> None:
        self._subject, self._load, self._second, self._call = subject, load, second, call
        self._made: dict[int, Loaded] = {}

    def of(self, judge: nn.Module) -> Loaded:
        """The pair of a model."""
        if id(judge) not in self._made:
            subject = self._subject
            self._made[id(judge)] = self._loaded() if judge is subject.model else self._in_float64(self.of(subject.model))
        return self._made[id(judge)]

    def logits(self, judge: nn.Module) -> tuple[Tensor, Tensor]:
        """What both of a pair compute."""
        both = self.of(judge)
        return both.logits, both.loaded_logits

    def culprit(self, judge: nn.Module) -> str:
        """What was not saved or loaded, or else the first module that computes something else."""
        both = self.of(judge)
        if name := next(_differing(both), "") or unsaved(both.source, both.other):
            return name
        if name := kept_beside(both.source, both.other):
            return Blame(name, line_that_sets(both.source, name))
        return first_divergence(calls_of(both.source, self._call), calls_of(both.other, self._call), whole)

    def _loaded(self) -> Loaded:
        for is_moved in (True, False):  # some that were moved cannot compute
            other = self._second()
            source = _to_be_saved(self._subject, other) if is_moved else self._subject.fresh()
            loaded = share_again(self._load(source, other).eval(), share_again(source, self._subject.model))
            try:
                pair = Loaded(source, loaded, self._call(source), self._call(loaded))
            except ModelRaisedError as error:
                told = f"what was saved is loaded, and then forward raises: {error}"
                raise NotLoadedError(told, kept_beside(source, loaded) or error.module) from error
            if bool(pair.logits.isfinite().all()):
                break
        return pair

    def _in_float64(self, both: Loaded) -> Loaded:
        # What was loaded is moved, and not loaded once more: a move makes copies, which may hide what loading does to shared memory.
        try:
            double = self._subject.double
            wide = widened if double is not None and is_widened(double) else nn.Module.double
            source, other = (wide(self._subject.copies.of(model)).eval() for model in (both.source, both.other))
            return Loaded(source, other, self._call(source), self._call(other))
        except Exception:  # as of what training leaves on a model
            return both  # which have the same weights, so that a difference is not rounding


def unless_owned(subject: Subject, case: str, evidence: Evidence) -> Evidence:
    """A finding of a case, left to the one that explains it where that fails: what no state dict holds, no way of loading brings back."""
    if evidence.status not in (Status.FAIL, Status.WARN):
        return evidence
    owner = failing_owner(NAME, subject, case, (Status.FAIL,))
    return replace(evidence, details=owned_by(owner), investigate=None) if owner else evidence


def same_logits(
    subject: Subject, other: nn.Module, wrong: str, cause: str, code: str, seed: int, reference: nn.Module | None = None
) -> Evidence:
    """Holds the logits of another model to those of the subject's, or of a reference."""
    batch = subject.batch(seed=seed)
    other.eval()

    def compare(_model: nn.Module) -> tuple[Tensor, Tensor]:
        return subject.logits(batch, reference), subject.logits(batch, other)

    return judge_equal(
        subject,
        NAME,
        compare,
        wrong,
        f"{subject.typical.describe(subject.task)}, seed={seed}",
        cause,
        lambda _judge: unsaved(subject.model, other),
        code=code,
    )


def load_into(model: nn.Module, state: State, assign: bool = False, strict: bool = True) -> None:
    """Loads a state dict.

    Raises:
        NotLoadedError: It does not fit; it names a weight that only the file has, or else one that only the model has.
    """
    try:
        load_state(model, state, strict=strict, assign=assign)
    except RuntimeError as error:
        lacking = {name for name, _ in model.named_parameters()} - set(state)
        told = f"the saved state dict does not load into a second instance: {_first_line(error)}"
        raise NotLoadedError(told, min(set(state) - set(model.state_dict()) or lacking, default="")) from error


def tie_again(model: nn.Module) -> None:
    """Has a model tie its weights, where it has a method for that, as whoever puts new tensors in their place must.

    Raises:
        ProbeUnsupportedError: It cannot, as where adapters were put in the place of tied weights.
    """
    tie = getattr(model, "tie_weights", None)
    if callable(tie):
        try:
            tie()
        except Exception as error:
            raise ProbeUnsupportedError(f"tie_weights, which is called after loading, raises {raised(error)}") from None


def tied_groups(model: nn.Module) -> set[frozenset[str]]:
    """Names of the parameters that share their memory."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.numel():
            is_shared = is_shared_until_written(parameter)  # of which `data_ptr` would make an end
            place = (storage_key(parameter), parameter.storage_offset()) if is_shared else parameter.data_ptr()
            groups.setdefault((place, parameter.shape, parameter.stride()), []).append(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


def tied_and_changed(before: nn.Module, after: nn.Module) -> str:
    """Name of a weight that is not what it was, and that another layer uses too; empty where there is none."""
    own, theirs = (dict(each.named_parameters(remove_duplicate=False)) for each in (before, after))
    names = (name for group in tied_groups(before) for name in sorted(group) if name in theirs)
    return next((name for name in names if not torch.equal(own[name], theirs[name])), "")


@torch.no_grad()
def _to_be_saved(subject: Subject, other: nn.Module) -> nn.Module:
    """A copy with weights that its factory neither makes nor loads.

    Of a large model those large tensors stay that a second instance has other values of, so that no second set of them is made.
    """
    theirs = {} if other is subject.model else dict(other.named_parameters())

    def may_be_alike(name: str, own: Tensor) -> bool:
        if not is_large_tensor(own) or may_be_constant(own):
            return True
        value = theirs.get(name)
        return value is not None and not value.is_meta and value.shape == own.shape and torch.equal(value, own)

    model = subject.fresh()
    loses_ties = bool(tied_groups(subject.copies.model) - tied_groups(model))  # as is seen once each weight has its own values
    move(model, may_be_alike if subject.is_large and not loses_ties else None, share=0.0 if subject.fresh_weights else _SHARE)
    for name, value in _constants(subject, other).items():
        model.get_parameter(name).copy_(value)
    return model


def _constants(subject: Subject, other: nn.Module) -> dict[str, Tensor]:
    """Frozen parameters that every instance makes alike, as a table of sines: what saves need not hold them, and nothing trains them."""
    frozen = {name: value for name, value in subject.model.named_parameters() if not value.requires_grad and not is_packed(value)}
    if not frozen or subject.rebuild is None:
        return {}
    has_values = other is not subject.model and not any(each.is_meta for each in other.parameters())
    others = dict((other if has_values else second_instance(subject)).named_parameters())
    return {name: value for name, value in frozen.items() if name in others and torch.equal(value, others[name])}


def second_instance(subject: Subject, judge: nn.Module | None = None) -> nn.Module:
    """Another instance with other weights, in the dtype of the model that judges."""
    assert subject.rebuild is not None
    with RepeatedDraws() if subject.is_large else nullcontext():
        other = subject.rebuild(subject.seed + _ANOTHER)
    return other if judge is None or judge is subject.model else in_dtype_of(judge, other)


def _differing(pair: Loaded) -> Iterator[str]:
    """Names of what both state dicts hold with different values."""
    theirs = pair.other.state_dict()
    for name, value in pair.source.state_dict().items():
        found = theirs.get(name)
        if not isinstance(value, Tensor) or not isinstance(found, Tensor) or is_packed(value):
            continue
        # What was saved in another precision on the way is rounded.
        if value.shape != found.shape or not torch.allclose(value, found.to(value.dtype), rtol=1e-5, atol=1e-6, equal_nan=True):
            yield name


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
