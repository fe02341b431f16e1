"""Running statistics converge to what train mode uses, so that eval mode computes what was trained."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.compat import NormBase
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.owners import left_to
from harness.properties.calling import WithoutDropout
from harness.properties.prerequisites import hidden_by
from harness.properties.subject import Subject
from harness.properties.tracing import calls_of, first_divergence, whole
from harness.properties.train_mode import DRAWS, NAME, changed_by_a_call, equals_eval, still
from harness.runtime import processor_seconds, seeded
from harness.wording import and_others, counted

_ROWS = 32
"""Of as many a variance is about the same, whether it is divided by their number or by one less."""

_PASSES = 100
_SECONDS = 10.0
_FAR = 0.5
"""Share of the spread of the outputs by which eval mode may be off once the statistics are settled."""

_SETTLED = 0.97
"""Share of the distance that may be left after the second half of the passes where statistics still move."""


def statistics_settle(subject: Subject, seed: int = 0) -> Evidence:
    """After it saw one batch many times in train mode, eval mode gives about what train mode gives of it.

    It is judged of layers that are written by hand; those of PyTorch are known to keep the right statistics.
    """
    if failure := hidden_by(subject.prerequisite_failure, NAME):
        return failure
    sizes = replace(subject.typical, batch=_ROWS) if subject.task.has_rows else subject.typical
    batch = subject.batch(sizes, seed)
    try:
        norms, unmoved = _norms_at_work(subject, batch, seed)
        if unmoved:
            return _say_never_moved(subject, unmoved)
        keepers = [
            path
            for path in changed_by_a_call(subject, subject.batch(seed=seed), seed)
            if _is_own(subject.model.get_submodule(path))
        ]
        if not keepers and norms:
            return Evidence.ok(NAME, f"the running statistics of {counted(len(norms), 'norm')} of PyTorch move in train mode")
        if not keepers:
            return Evidence.skipped(NAME, "no layer keeps statistics of the batches it saw")
        return _judge(subject, batch, keepers, seed)
    except UserError as error:
        return Evidence.skipped(NAME, f"forward cannot be called in train mode with the inputs of eval mode: {error}")


def _judge(subject: Subject, batch: Batch, keepers: list[str], seed: int) -> Evidence:
    model = subject.fresh()
    started, apart, passes = processor_seconds(), list[float](), 0
    trained = _logits(subject, batch, model, seed, train=True)
    if not torch.equal(trained, _logits(subject, batch, subject.fresh(), seed + 1, train=True)):
        return Evidence.skipped(NAME, DRAWS)
    while passes < _PASSES and processor_seconds() - started < _SECONDS:
        for _ in range(_PASSES // 2):
            trained = _logits(subject, batch, model, seed, train=True)
        passes += _PASSES // 2
        apart.append(_distance(trained, _logits(subject, batch, model, seed, train=False)))
    counterexample = f"one batch of {len(trained)} rows, {passes} calls in train mode, rates of dropout 0, seed={seed}"
    if apart[-1] <= _FAR:
        message = "once its statistics are settled, eval mode gives what train mode gives"
        return Evidence.ok(NAME, message, (apart[-1], _FAR, "of the spread of the outputs"), counterexample=counterexample)
    if len(apart) < 2 or apart[-1] < _SETTLED * apart[0]:
        return Evidence.skipped(NAME, f"the statistics are not settled after {passes} calls")
    other = equals_eval(subject, seed)
    if other.status is Status.FAIL:
        return left_to(NAME, f"{NAME}[equals_eval]", other.message, code="differs_from_eval_mode")
    if other.status is Status.SKIPPED:
        return Evidence.skipped(NAME, other.message)

    def culprit() -> str:
        trained, evaluated = (calls_of(model, partial(_logits, subject, batch, seed=seed, train=mode)) for mode in (True, False))
        return first_divergence(trained, evaluated, whole) or keepers[0]

    return Evidence.failed(
        NAME,
        f"after {passes} calls in train mode with one batch, eval mode still gives other logits of it: the statistics lead elsewhere",
        (apart[-1], _FAR, "of the spread of the outputs"),
        counterexample=counterexample,
        cause="statistics of other axes or values than those that train mode divides by, an average that starts at zero and is never "
        "corrected, a variance that is read as a deviation, an update that is lost, or one in the middle of forward",
        investigate=culprit,
        code="statistics_lead_elsewhere",
    )


def _norms_at_work(subject: Subject, batch: Batch, seed: int) -> tuple[list[str], list[str]]:
    """Paths of PyTorch's norms that take part in train mode, and of those of them whose running statistics are the same after a batch."""
    model, called = subject.fresh(), set[str]()
    norms = {path: module for path, module in model.named_modules() if isinstance(module, NormBase) and _keeps(module)}
    if not norms:
        return [], []
    handles = [module.register_forward_pre_hook(lambda _m, _args, path=path: called.add(path)) for path, module in norms.items()]
    before = {path: _statistics(module) for path, module in norms.items()}
    _logits(subject, batch, model, seed, train=True)
    for handle in handles:
        handle.remove()
    at_work = [path for path, module in norms.items() if path in called and module.training]
    return at_work, [path for path in at_work if torch.equal(before[path], _statistics(norms[path]))]


def _keeps(module: NormBase) -> bool:
    """Whether a norm keeps running statistics, and is not frozen."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return module.track_running_stats and isinstance(module.running_mean, Tensor) and (not trained or any(trained))


def _statistics(module: NormBase) -> Tensor:
    return torch.cat(
        [each.detach().flatten() for each in (module.running_mean, module.running_var) if isinstance(each, Tensor)]
    ).clone()


def _say_never_moved(subject: Subject, paths: list[str]) -> Evidence:
    return Evidence.judged(
        NAME,
        Status.FAIL if subject.fresh_weights else Status.WARN,  # loaded statistics may be kept on purpose
        f"`{paths[0]}`{and_others(len(paths) - 1, 'norm')} normalises by each batch in train mode and never changes its running statistics, by "
        "which eval mode normalises",
        (len(paths), 0, "norms"),
        module=paths[0],
        cause="momentum=0, which in PyTorch is the share of the new batch and elsewhere that of the old ones, or a forward that puts them back",
        code="statistics_never_move",
    )


def _is_own(module: nn.Module) -> bool:
    """Whether a layer that keeps statistics is not one of PyTorch's norms, nor of the model's whole forward."""
    return not isinstance(module, NormBase) or not type(module).__module__.startswith("torch.")


def _logits(subject: Subject, batch: Batch, model: nn.Module, seed: int, train: bool) -> Tensor:
    model.train(train)
    if train:
        still(model)
    with seeded(seed), WithoutDropout():
        return subject.raw_logits(batch, model).double()


def _distance(trained: Tensor, evaluated: Tensor) -> float:
    """How far eval mode is from train mode, as a share of how far the rows are from each other."""
    if trained.shape != evaluated.shape:
        return 0.0
    spread = float((trained - trained.mean(0, keepdim=True)).square().mean().sqrt()) if len(trained) > 1 else 0.0
    apart = float((trained - evaluated).square().mean().sqrt())
    return apart / spread if spread else 0.0
