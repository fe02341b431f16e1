"""Whether weight decay and learning rates go to the parameters that they are meant for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import nn
from torch.optim import Optimizer

from harness.compat import BatchNorm, NormBase
from harness.evidence import Evidence
from harness.training.trial import MOST_BATCHES, Trial, TrialOptions
from harness.wording import and_others, counted

_NAME = "parameter_groups"
_STEPS = 4
_STRONG = 0.05
"""Decay from which one that all parameters share counts as chosen, and shrinks the scales of norms noticeably; PyTorch's default is 0.01."""

_APART = 1.01
"""Ratio from which two learning rates are not the same."""

_FACTOR = re.compile(r"scale|mult|factor", re.IGNORECASE)
_OUR_OWN = "the optimizer is the suite's own, which spares biases and norms and has one learning rate"
_NORMS = (NormBase, BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Held:
    """A parameter as an optimizer holds it.

    Attributes:
        name: Its first name.
        kind: ``scale`` of a norm, ``bias``, ``embedding``, ``matrix`` of a layer that multiplies, or ``other``.
        shape: Its shape; blocks are equal where their parameters have the same.
        decay: The weight decay of its group.
        rate: The learning rate that its group was made with.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    decay: float
    rate: float


@dataclass
class _Watch:
    """What was seen of the groups of the optimizers.

    Attributes:
        configured: The rate of each group when it was made, by the id of its first parameter.
        held: Each parameter of the model that an optimizer holds, by name.
        rates: Rates at each step, by parameter.
        factors: What groups say of a factor on the rate under a name that the optimizer does not know, by that name and by parameter.
        groups: Of each optimizer, the first parameter of each group.
        has_empty_spare: Whether a group without weight decay holds no parameter.
        has_own_shapes: Whether a schedule gives each group its own shape.
    """

    configured: dict[int, float] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    rates: list[dict[str, float]] = field(default_factory=list)
    factors: dict[str, dict[str, float]] = field(default_factory=dict)
    groups: list[list[str]] = field(default_factory=list)
    has_own_shapes: bool = False
    has_empty_spare: bool = False

    def listen(self, model: Any) -> None:
        """Notes the rates that groups are made with: a schedule may change them as soon as it is made."""
        configure = model.configure_optimizers

        def configure_optimizers() -> Any:
            with _noting_groups(self.configured):
                return configure()

        model.configure_optimizers = configure_optimizers

    def look(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """A step is about to be taken."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        rates: dict[str, float] = {}
        for optimizer in optimizers:
            firsts = []
            for group in optimizer.param_groups:
                own = [names[id(parameter)] for parameter in group["params"] if id(parameter) in names]
                self.has_empty_spare |= not group["params"] and group.get("weight_decay") == 0
                if own and group.get("lr") is not None:
                    firsts.append(own[0])
                    rates |= dict.fromkeys(own, float(group["lr"]))
                    self._note(model, group, own, optimizer.defaults)
            if firsts not in self.groups:
                self.groups.append(firsts)
        self.rates.append(rates)

    def _note(self, model: nn.Module, group: dict[str, Any], names: list[str], known: dict[str, Any]) -> None:
        rate = self.configured.get(id(group["params"][0]), float(group["lr"]))
        for name in names:
            if name not in self.held:
                shape = tuple(model.get_parameter(name).shape)
                self.held[name] = Held(name, kind_of(model, name), shape, float(group.get("weight_decay") or 0.0), rate)
        for key, value in group.items():
            if _FACTOR.search(key) and isinstance(value, (int, float)) and key not in known:
                self.factors.setdefault(key, {}).update(dict.fromkeys(names, float(value)))

    def seen(self, name: str) -> list[float]:
        """The rates that a parameter had."""
        return [rates[name] for rates in self.rates if name in rates]

    def differ_at_a_step(self, names: Iterable[str]) -> bool:
        """Whether some parameters had different rates at any step."""
        named = list(names)
        return any(_differ(rates[name] for name in named if name in rates) for rates in self.rates)


@contextmanager
def _noting_groups(rates: dict[int, float]) -> Iterator[None]:
    """A block in which the rate of every group that an optimizer is given is noted."""
    add = Optimizer.add_param_group

    def add_param_group(optimizer: Optimizer, group: dict[str, Any]) -> None:
        add(optimizer, group)
        added = optimizer.param_groups[-1]
        if added["params"] and added.get("lr") is not None:
            rates[id(added["params"][0])] = float(added["lr"])

    setattr(Optimizer, "add_param_group", add_param_group)  # noqa: B010  # mypy takes no assignment to a method
    try:
        yield
    finally:
        setattr(Optimizer, "add_param_group", add)  # noqa: B010


def kind_of(model: nn.Module, name: str) -> str:
    """What a parameter is, by its module and its name; see ``Held``.

    Args:
        model: The model.
        name: The parameter's name.
    """
    path, _, leaf = name.rpartition(".")
    owner, parameter = model.get_submodule(path), model.get_parameter(name)
    if "bias" in leaf and parameter.ndim <= 1:
        return "bias"
    called = f"{type(owner).__name__} {path.rpartition('.')[2]}".lower()
    if (isinstance(owner, _NORMS) or "norm" in called) and parameter.ndim <= 1:
        return "scale"
    users = [module for module in model.modules() if any(p is parameter for p in module.parameters(recurse=False))]
    if any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in users):
        return "embedding" if len(users) == 1 else "other"  # one that is tied to a head is both
    multiplies = isinstance(owner, (nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)) or hasattr(
        owner, "kernel_size"
    )
    return "matrix" if multiplies and parameter.ndim >= 2 else "other"


def decay(trial: Trial) -> Evidence:
    """Weight decay spares alike what is alike: no scale of a norm is decayed where others or biases are spared, no block differs from its like.

    A scale that is decayed is pulled towards 0, where its norm lets nothing through. What one group decays as a whole is a choice, and only
    of scales under a strong decay is it warned.
    """
    if not trial.is_own:
        return Evidence.skipped(_NAME, _OUR_OWN)
    if not any(parameter.requires_grad for parameter in trial.subject.model.parameters()):
        return Evidence.skipped(_NAME, "the model has no trainable parameter")
    watch = _watch(trial, 1)
    held = list(watch.held.values())
    decayed, spared = [each for each in held if each.decay > 0], [each for each in held if not each.decay]
    if not held:
        return Evidence.skipped(_NAME, f"no optimizer step in {MOST_BATCHES} batches, or none with a learning rate")
    if not decayed:
        return Evidence.ok(_NAME, "no parameter has weight decay")
    found = _spares_none(watch, decayed) or _uneven_blocks(held) or _leaks(decayed, spared) or _strong(decayed, spared)
    if found is None:
        message = f"weight decay goes to {counted(len(decayed), 'parameter')}, and spares {len(spared)}"
        return Evidence.ok(_NAME, message, (0, 0, "parameters"))
    names, message, cause, code = found
    facts = {"parameters": names}
    return Evidence.warned(_NAME, message, (len(names), 0, "parameters"), module=names[0], cause=cause, details=facts, code=code)


_Found = tuple[list[str], str, str, str]
"""Names, message, cause and code."""


def _spares_none(watch: _Watch, decayed: Sequence[Held]) -> _Found | None:
    """Norms and biases that are decayed though there is a group for what is to be spared, which is empty."""
    names = [each.name for each in decayed if each.kind in ("scale", "bias")]
    if not watch.has_empty_spare or not names:
        return None
    return (
        names,
        f"the group without weight decay is empty, and `{names[0]}`{and_others(len(names) - 1, 'parameter')} is decayed",
        "a filter that no name passes, such as a whole name looked up in a list of endings, or both branches that add to one list",
        "empty_group",
    )


def _leaks(decayed: Sequence[Held], spared: Sequence[Held]) -> _Found | None:
    """Parameters that are decayed though the optimizer spares their kind: a filter by name or type that misses some."""
    if not spared or any(each.kind == "matrix" for each in spared):
        return None  # what is spared is a part of the model, not a kind of parameter
    kinds = {each.kind for each in spared}
    tables = [each for each in spared if each.kind == "embedding" and not re.search("bias|pos", each.name)]
    for kind, what, is_meant in (
        ("scale", "the scale of a norm", bool(kinds & {"scale", "bias"})),
        ("bias", "a bias", "bias" in kinds),
        ("embedding", "an embedding", bool(tables)),
    ):
        names = [each.name for each in decayed if each.kind == kind]
        if names and is_meant:
            like = next((each.name for each in spared if each.kind == kind), spared[0].name)
            return (
                names,
                f"`{names[0]}`{and_others(len(names) - 1, 'parameter')} has weight decay, {what}, though `{like}` and "
                f"{_number(len(spared) - 1)} are spared",
                "a filter by name or by class that misses some: norms of another class or name, such as RMSNorm beside nn.LayerNorm; spare "
                "every parameter with fewer than two axes",
                "decay_misses_its_kind",
            )
    return None


def _number(others: int) -> str:
    return counted(others, "other") if others else "no other"


def _strong(decayed: Sequence[Held], spared: Sequence[Held]) -> _Found | None:
    """Scales of norms under a strong decay that all parameters share."""
    names = [each.name for each in decayed if each.kind == "scale" and each.decay >= _STRONG]
    if spared or not names:
        return None
    strength = max(each.decay for each in decayed if each.kind == "scale")
    return (
        names,
        f"weight decay {strength:g} pulls the scales of norms towards 0: `{names[0]}`{and_others(len(names) - 1, 'parameter')}",
        "one group for all parameters; give norms and biases a group with weight_decay=0",
        "norms_decayed",
    )


def _uneven_blocks(held: Sequence[Held]) -> _Found | None:
    """Parameters of a block that are decayed though the same ones of other blocks are spared."""
    for blocks in _equal_blocks(held):
        decays = [each.decay for each in blocks]
        usual = max(decays, key=decays.count)
        names = [each.name for each in blocks if each.decay != usual]
        if names:
            other = next(each for each in blocks if each.decay == usual)
            strength = next(each.decay for each in blocks if each.name == names[0])
            return (
                names,
                f"`{names[0]}`{and_others(len(names) - 1, 'parameter')} has weight decay {strength:g}, and `{other.name}` has {usual:g}",
                "a filter by name that fits some of several equal blocks only",
                "blocks_differ",
            )
    return None


def _equal_blocks(held: Iterable[Held]) -> list[list[Held]]:
    """Parameters that differ in the number of a block only, in the order of the blocks."""
    found: dict[tuple[str, tuple[int, ...]], list[Held]] = defaultdict(list)
    for each in held:
        if _NUMBER.search(f".{each.name}"):
            found[_NUMBER.sub("*", f".{each.name}", count=1), each.shape].append(each)
    return [sorted(blocks, key=_place) for blocks in found.values() if len(blocks) > 1]


def _place(held: Held) -> int:
    found = _NUMBER.search(f".{held.name}")
    return int(found.group()) if found else 0


def rates(trial: Trial) -> Evidence:
    """Learning rates by group stay apart as they were configured, and rise or fall from block to block.

    A schedule may set all groups to one rate, or move one group and forget the others; a factor on the rate that the optimizer does not know
    may be applied by nobody; and a filter by prefix may take block 10 for block 1.
    """
    if not trial.is_own:
        return Evidence.skipped(_NAME, _OUR_OWN)
    if not any(parameter.requires_grad for parameter in trial.subject.model.parameters()):
        return Evidence.skipped(_NAME, "the model has no trainable parameter")
    watch = _watch(trial, _STEPS)
    if not watch.held:
        return Evidence.skipped(_NAME, f"no optimizer step in {MOST_BATCHES} batches, or none with a learning rate")
    found = _judge_lost(watch) or _judge_factors(watch) or _judge_parts(watch) or _judge_order(watch)
    if found is not None:
        names, message, cause, code = found
        return Evidence.warned(_NAME, message, module=names[0], cause=cause, details={"parameters": names}, code=code)
    distinct = len({round(each.rate, 12) for each in watch.held.values()})
    total = counted(len(watch.held), "parameter")
    message = f"{total} with {distinct} learning rates, which stay apart" if distinct > 1 else f"one learning rate for {total}"
    return Evidence.ok(_NAME, message)


def _judge_lost(watch: _Watch) -> _Found | None:
    """Rates that are configured apart, and are the same at every step."""
    for names in watch.groups:
        groups = sorted((watch.held[name] for name in names), key=lambda held: held.rate)
        if _differ(held.rate for held in groups) and not watch.differ_at_a_step(names):
            low, high = groups[0], groups[-1]
            return (
                [low.name],
                f"`{low.name}` is given learning rate {low.rate:g} and `{high.name}` {high.rate:g}, and at each step both have the same "
                f"({watch.seen(low.name)[-1]:.3g})",
                "a schedule that sets one rate for all groups: OneCycleLR takes a list for max_lr, and a schedule by hand multiplies each "
                'group\'s own "initial_lr"',
                "rates_overwritten",
            )
    return None


def _judge_factors(watch: _Watch) -> _Found | None:
    """Factors that groups carry and nobody applies."""
    for key, factors in watch.factors.items():
        if _differ(factors.values()) and not watch.differ_at_a_step(factors):
            name = min(factors, key=lambda name: factors[name])
            return (
                [name],
                f"the group of `{name}` has `{key}` {factors[name]:g}, and the same learning rate as all others at each of "
                f"{counted(len(watch.rates), 'step')}",
                f"`{key}` is not an option of the optimizer, so nothing applies it: set the group's `lr`, or multiply by it in the schedule",
                "rate_factor_unused",
            )
    return None


def _judge_parts(watch: _Watch) -> _Found | None:
    """A schedule that moves the first group and leaves others where they were made."""
    for names in watch.groups if not watch.has_own_shapes else ():
        moving = [name for name in names if _differ(watch.seen(name))]
        still = [name for name in names if name not in moving and watch.held[name].rate > 0]
        if moving and still and names[0] in moving:
            return (
                still,
                f"the schedule changes the learning rate of `{moving[0]}`{and_others(len(moving) - 1, 'group')}, and leaves that of "
                f"`{still[0]}`{and_others(len(still) - 1, 'group')} at {watch.held[still[0]].rate:g}",
                "a schedule by hand that sets optimizer.param_groups[0] only",
                "schedule_on_part",
            )
    return None


def _judge_order(watch: _Watch) -> _Found | None:
    """Rates that neither rise nor fall from block to block."""
    for blocks in _equal_blocks(watch.held.values()):
        pairs = list(pairwise(blocks))
        ups = [pair for pair in pairs if pair[1].rate > pair[0].rate * _APART]
        downs = [pair for pair in pairs if pair[1].rate < pair[0].rate / _APART]
        if ups and downs:
            before, odd = min(ups, downs, key=len)[0]
            return (
                [odd.name],
                f"learning rates by block neither rise nor fall: `{odd.name}` has {odd.rate:.3g} after {before.rate:.3g}",
                "a block that is found by a part of its name: `blocks.1` is also the start of `blocks.10`",
                "block_rates_out_of_order",
            )
    return None


def _differ(values: Iterable[float]) -> bool:
    found = list(values)
    return bool(found) and max(found) > min(found) * _APART and max(found) > min(found)


def _watch(trial: Trial, steps: int) -> _Watch:
    """Takes a few steps, and looks at the groups before each."""
    watch = _Watch()
    batch = trial.subject.batch()
    count = steps * max(1, trial.batches_per_step)
    training = trial.train([batch] * count, TrialOptions(limit=steps), prepare=watch.listen, on_gradients=watch.look)
    shapes = (getattr(each.scheduler, "lr_lambdas", ()) for each in training.schedules)
    watch.has_own_shapes = any(len(set(map(id, functions))) > 1 for functions in shapes)
    return watch
