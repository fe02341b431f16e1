"""The same call gives the same answer: no hidden randomness, no memory of earlier calls, no mode that sticks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes
from harness.evidence import WHOLE, Blame, Evidence, Status
from harness.models.wrapped import forgets_to_return
from harness.properties.calling import BackwardRaisedError, ModelRaisedError, NoGradientError, mode
from harness.properties.large_tensors import keeping_state, reading_gradients
from harness.properties.noise import difference, judge_equal
from harness.properties.padding import padded, placed, tells_padding
from harness.properties.places import method_of
from harness.properties.prerequisites import REPEATS
from harness.properties.state import out_of_reach_of_eval
from harness.properties.subject import Subject
from harness.properties.tracing import calls_of, first_divergence, path_of, probing, whole
from harness.properties.watched_lines import drawing_line, switching_line
from harness.runtime import RandomState, seed_everything, seeded

_APART = 50
"""How far the seeds of two calls of one shape are apart."""

_STARTS = (11, 12)
"""Two seeds to start from."""


def eval_deterministic(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """In eval mode the same input gives the same logits, whatever the global random state."""
    batch = subject.batch(sizes, seed)
    # What is random only now and then is so at typical sizes too, where fresh copies were called as often.
    often = REPEATS if (sizes, seed) == subject.reach.anchors[0] and subject.prerequisite_failure.random else 1

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        first = _under_seed(1, subject, batch, model)
        repeats = [_under_seed(2 + n, subject, batch, model) for n in range(often)]
        return first, max(repeats, key=lambda other: difference(first, other))

    def unreached(model: nn.Module) -> str:
        """Path of a module that eval() does not reach, where with it in eval mode the logits are the same."""
        found = out_of_reach_of_eval(model)
        for module in found.values():
            module.eval()
        left, right = compare(model)
        for module in found.values():
            module.train()
        return next(iter(found), "") if difference(left, right) <= subject.floor.repeat_bound else ""

    def culprit(model: nn.Module) -> str:
        if path := unreached(model):
            return path
        first, *others = (partial(_under_seed, draw, subject, batch) for draw in range(1, 9))
        calls = calls_of(model, first)
        for run in others:
            if module := first_divergence(calls, calls_of(model, run), whole):
                return Blame(module, drawing_line(lambda: subject.raw_logits(batch, model)))
        return ""

    return judge_equal(
        subject,
        "eval_deterministic",
        compare,
        "the same input gives different logits after eval() is called again",
        f"{sizes.describe(subject.task)}, seed={seed}",
        lambda: (
            f"`{path}` is not registered, so eval() does not reach it: use nn.ModuleList or nn.ModuleDict instead of a list or dict"
            if (path := unreached(subject.model))
            else "F.dropout without training=self.training, noise or sampling outside `if self.training`"
        ),
        culprit,
        bound=subject.floor.repeat_bound,
        code="differs_when_repeated",
    )


def mode_round_trip(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """train() and eval() reach every module, forward leaves the mode alone, and a round trip changes nothing.

    The round trip includes a forward in train mode, whose effect on buffers (running statistics) is undone.
    """
    name = "mode_round_trip"
    model, batch = subject.model, subject.batch(sizes, seed)
    counterexample = f"{sizes.describe(subject.task)}, seed={seed}"
    model.eval()
    if stuck := [path_of(path) for path, module in model.named_modules() if module.training]:
        return _stuck_in_train_mode(model, stuck, counterexample)
    before, again = subject.logits(batch), list[Tensor]()
    if flipped := _flipped(model, lambda: again.append(subject.logits(batch)), expected=False):
        place = switching_line(lambda: subject.logits(batch), model.eval(), flipped)
        return _flip_evidence(flipped, "train", counterexample).at(place)
    moved = difference(before, again[0])
    if subject.bound(name) < moved < float("inf"):
        return Evidence.warned(
            name,
            "the logits change from call to call, so the effect of train() and eval() cannot be measured (see stateless)",
            (moved, subject.bound(name), ""),
            counterexample=counterexample,
            cause="a hidden state, key/value cache, mask or counter kept on the module between calls",
            code="depends_on_earlier_calls",
        )
    with keeping_state(model):
        model.train()
        if not model.training:
            return Evidence.failed(
                name,
                "train() leaves the model in eval mode",
                counterexample=counterexample,
                cause="an overridden train()",
                place=method_of(model, "train"),
                code="stays_in_eval_mode",
            )
        frozen = {module for module in model.modules() if not module.training}
        if flipped := _flipped(model, lambda: _under_seed(0, subject, batch, model), expected=True, ignoring=frozen):
            place = switching_line(lambda: _under_seed(0, subject, batch, model), model.train(), flipped)
            return _flip_evidence(flipped, "eval", counterexample).at(place)
    model.eval()

    def compare(judge: nn.Module) -> tuple[Tensor, Tensor]:
        if judge is model:
            return before, subject.logits(batch)
        first = subject.logits(batch, judge)
        judge.train()
        with keeping_state(judge):
            _under_seed(0, subject, batch, judge)
        judge.eval()
        return first, subject.logits(batch, judge)

    found = judge_equal(
        subject,
        name,
        compare,
        "the logits in eval mode differ after a switch to train mode and back",
        counterexample,
        "weights merged or rescaled on a mode switch, a cache filled in train mode, or statistics kept outside the buffers",
        code="depends_on_earlier_modes",
    )
    if found.status is not Status.OK or not forgets_to_return(model):
        return found
    return Evidence.warned(
        name,
        "train() returns None, and so does eval(): `model = model.eval()` is no model",
        cause="an overridden train() that does not end in `return self`",
        place=method_of(model, "train"),
        code="returns_no_model",
    )


def stateless(subject: Subject, calls: tuple[Sizes, ...], seed: int = 0) -> Evidence:
    """A few calls give the same logits in one order as in the other, on models that were never called before.

    Args:
        subject: The model.
        calls: Sizes of two calls or more; an image size that the model refuses is left out.
        seed: Seed of their inputs.
    """
    name = "stateless"
    calls = tuple(sizes for sizes in calls if sizes.image is None or _takes(subject, sizes)) or (subject.typical,)
    first, *others = [subject.batch(sizes, seed + number) for number, sizes in enumerate(calls)]
    # Two calls of one shape come one after the other, as what is kept from the one may be kept by its shape.
    batches = [first, subject.batch(calls[0], seed + _APART), *others]
    batches += _half_padded(subject, subject.batch(calls[0], seed + len(calls)), calls[0])
    counterexample = f"calls in both orders: {'; '.join(f'({sizes.describe(subject.task)})' for sizes in calls)}; seed={seed}"

    def in_order(model: nn.Module, order: list[int]) -> dict[int, Tensor]:
        fresh = subject.fresh_like(model)
        first = subject.logits(batches[order[0]], fresh)  # what raises here is shape_contract's matter: there was no earlier call
        return {order[0]: first} | {number: subject.logits(batches[number], fresh) for number in order[1:]}

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        there, back = (in_order(model, order) for order in _both_orders(len(batches)))
        worst = max(there, key=lambda number: difference(there[number], back[number]))
        return there[worst], back[worst]

    def culprit(model: nn.Module) -> str:
        for batch in batches:
            untouched, called = (subject.fresh_like(model) for _ in range(2))
            for other in (*batches[2:], *batches[:2]):  # those of one shape last
                if other is not batch:
                    subject.logits(other, called)
            run = partial(subject.logits, batch)
            if found := first_divergence(calls_of(untouched, run), calls_of(called, run), whole):
                return found
        return ""

    try:
        return judge_equal(
            subject,
            name,
            compare,
            "the logits depend on earlier, unrelated calls",
            counterexample,
            "a hidden state, key/value cache, mask or counter kept on the module between calls",
            culprit,
            code="depends_on_earlier_calls",
        )
    except ModelRaisedError as error:
        if subject.prerequisite_failure.raises:  # at usual inputs, whatever was called before
            raise
        return _raises_after_a_call(subject, batches, error, counterexample)


def _raises_after_a_call(subject: Subject, batches: list[Batch], error: ModelRaisedError, counterexample: str) -> Evidence:
    """The verdict where forward raised in one of several calls of one model; each is tried as the first call of a fresh one."""
    try:
        for batch in batches:
            subject.logits(batch, subject.fresh())
    except ModelRaisedError as first:
        return Evidence.warned(
            "stateless",
            f"forward raises, even without an earlier call (see shape_contract): {first}",
            counterexample=counterexample,
            module=first.module,
            code="raises",
        )
    return Evidence.failed(
        "stateless",
        f"forward raises only after an earlier call: {error}",
        counterexample=counterexample,
        module=error.module,
        cause="a mask, cache or hidden state of another size, kept from the earlier call",
        code="raises_after_a_call",
    )


def _takes(subject: Subject, sizes: Sizes) -> bool:
    try:
        subject.logits(subject.batch(sizes), subject.fresh())
    except ModelRaisedError:
        return False
    return True


def repeated_backward(subject: Subject, seed: int = 0) -> Evidence:
    """Two training steps in a row work: no graph is kept from the first one."""
    name = "stateless"
    model = subject.model
    with mode(model, train=True), seeded(seed), reading_gradients(model, lambda _name, _gradient: None):
        for step in range(2):
            try:
                subject.backward(subject.batch(seed=seed + step))
            except NoGradientError:
                return Evidence.skipped(name, "the model has no trainable parameter")
            except RuntimeError as error:
                if "second time" not in str(error):
                    if step or isinstance(error, BackwardRaisedError) or subject.train_mode_failure:
                        raise
                    return Evidence.warned(
                        name, f"the first training step already raises (see shape_contract): {error}", code="raises"
                    )
                return Evidence.failed(
                    name,
                    "the second training step uses the graph of the first one",
                    counterexample=f"{subject.typical.describe(subject.task)}, two forward and backward passes",
                    module=getattr(error, "module", ""),
                    cause="a hidden state or cached tensor carried over without detach()",
                    code="keeps_graph",
                )
    model.zero_grad(set_to_none=True)
    return Evidence.ok(name, "two training steps in a row work")


def rng_untouched(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Forward does not seed the global random state in either mode, nor consume it in eval mode."""
    name = "rng_untouched"
    batch = subject.batch(sizes, seed)
    counterexample = f"{sizes.describe(subject.task)}, seed={seed}"
    with _unseeded():
        before = RandomState()
        subject.raw_logits(batch)
        changed = before.changes(RandomState())
        first, second = _ends(subject, batch, train=True)
        drawn = changed == ["random"] and "random" in RandomState.changes(*_ends(subject, batch, train=False))
    if changed:
        return Evidence(
            name,
            Status.WARN if drawn else Status.FAIL,  # as by a decorator that checks types; to seed it is worse
            f"forward in eval mode changes the global random state of {' and '.join(changed)}",
            counterexample=counterexample,
            cause="manual_seed inside forward, or random numbers drawn in eval mode; pass the draw its own Generator",
            investigate=lambda: _drawer(subject, batch),
            code="draws_in_eval_mode",
        )
    if "torch" not in first.changes(second):
        return Evidence.failed(
            name,
            "forward in train mode seeds the global random state, so every step draws the same numbers",
            counterexample=counterexample,
            cause="manual_seed inside forward",
            investigate=lambda: _seeder(subject, batch),
            code="seeds_in_train_mode",
        )
    return Evidence.ok(name, "the global random state is unchanged", counterexample=counterexample)


def _ends(subject: Subject, batch: Batch, train: bool) -> list[RandomState]:
    """The global random state after calls that start from different ones."""
    ends = []
    with mode(subject.model, train=train):
        for start in _STARTS:
            seed_everything(start)
            subject.raw_logits(batch)
            ends.append(RandomState())
    return ends


def _under_seed(seed: int, subject: Subject, batch: Batch, model: nn.Module) -> Tensor:
    with seeded(seed):
        return subject.raw_logits(batch, model)


def _half_padded(subject: Subject, batch: Batch, sizes: Sizes) -> list[Batch]:
    """The batch with padding, so that a mask kept from an earlier call of the same shape shows; nothing where there is no padding."""
    signature = subject.task.signature
    for axis in signature.padded:
        length = signature.complete(sizes.by_axis(subject.task))[axis.name]
        if length > 1 and tells_padding(subject, axis.name):
            real = placed("right", [max(1, length // 2)] * sizes.batch, length).to(subject.device)
            return [padded(signature, batch, axis.name, real)]
    return []


def _both_orders(count: int) -> tuple[list[int], list[int]]:
    return list(range(count)), list(reversed(range(count)))


def _drawer(subject: Subject, batch: Batch) -> Blame:
    """The innermost module during whose call the global random state first changed, and the line that drew or seeded."""
    with _unseeded(), probing(subject.model, RandomState) as probes:
        subject.raw_logits(batch)
    module = next((probe.module for probe in probes if probe.before.changes(probe.after)), "")
    with _unseeded():
        return Blame(module, drawing_line(lambda: subject.raw_logits(batch)))


def _seeder(subject: Subject, batch: Batch) -> str:
    """Path of the innermost module that is entered in different random states and left in the same one."""
    runs = []
    with _unseeded(), mode(subject.model, train=True):
        for start in _STARTS:
            seed_everything(start)
            with probing(subject.model, RandomState) as probes:
                subject.raw_logits(batch)
            runs.append(probes)
    for first, second in zip(*runs, strict=False):
        if "torch" in first.before.changes(second.before) and "torch" not in first.after.changes(second.after):
            return first.module
    return ""


@contextmanager
def _unseeded() -> Iterator[None]:
    """A block that begins in a random state no small seed leads to, and ends in the one before."""
    with seeded(0x5EED):
        torch.rand(1)
        yield


def _flipped(model: nn.Module, run: Callable[[], object], expected: bool, ignoring: set[nn.Module] | None = None) -> str:
    """Path of the first module that is in another mode than expected after a call."""
    run()
    wrong = (path_of(path) for path, m in model.named_modules() if m.training is not expected and m not in (ignoring or ()))
    return next(wrong, "")


def _stuck_in_train_mode(model: nn.Module, stuck: list[str], counterexample: str) -> Evidence:
    paths = [] if stuck[0] == WHOLE else accumulate(stuck[0].split("."), "{}.{}".format)
    around = [model, *map(model.get_submodule, paths)]
    places = (method_of(module, name) for module in reversed(around) for name in ("train", "eval"))
    return Evidence.failed(
        "mode_round_trip",
        f"eval() leaves `{stuck[0]}` in train mode",
        (len(stuck), 0, "modules"),
        counterexample=counterexample,
        module=stuck[0],
        cause="an overridden train() or eval() that does not call super() or passes on the wrong mode",
        place=next(filter(None, places), ""),
        code="stays_in_train_mode",
    )


def _flip_evidence(module: str, switched_to: str, counterexample: str) -> Evidence:
    return Evidence.failed(
        "mode_round_trip",
        f"forward switches `{module}` to {switched_to} mode",
        counterexample=counterexample,
        module=module,
        cause="a call to train() or eval() inside forward",
        code="switches_mode",
    )
