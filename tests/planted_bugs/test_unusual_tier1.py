"""Unusual models get the right verdict or an explained skip, and never a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from torch import nn

from harness.catalogue import CATALOGUE
from harness.evidence import Status
from harness.tasks import TaskSpec
from pytest_modeltiers.live import judge_model

from .tasks import CAUSAL, IMAGES, TABLE, TEXT
from .tier1 import unusual
from .tier1.decoders import Decoder


@dataclass(frozen=True)
class Unusual:
    """A model and the properties that are to fail."""

    factory: Callable[[], nn.Module]
    task: TaskSpec
    fails: frozenset[str] = frozenset()


MODELS = (
    Unusual(unusual.HarderRowsGoTwice, TABLE),
    Unusual(unusual.HardBatchesGoTwice, TABLE, frozenset({"batch_independence[forward]"})),
    Unusual(unusual.SampledHidden, TABLE, frozenset({"eval_deterministic", "rng_untouched"})),
    Unusual(unusual.SampledWithItsOwnGenerator, TABLE),
    Unusual(unusual.SparseGradients, TEXT),
    Unusual(unusual.SparseMixing, TABLE),
    Unusual(unusual.FourierMixing, IMAGES),
    Unusual(unusual.ComplexFilter, IMAGES),
    Unusual(unusual.NoParameters, TABLE),
    Unusual(unusual.FrozenStem, TABLE),
    Unusual(unusual.AllFrozen, TABLE),
    Unusual(unusual.FrozenUnderNoGrad, CAUSAL),
    Unusual(unusual.quantised_linears, TABLE),
    Unusual(unusual.Rounded, TABLE),
    Unusual(Decoder, CAUSAL),  # its weights are tied
    Unusual(unusual.SeveralOutputs, TEXT),
    Unusual(unusual.LogitsAndCache, CAUSAL),
    Unusual(unusual.HugeVocabulary, replace(CAUSAL, vocab_size=unusual.HugeVocabulary.VOCAB, max_seq_len=4)),
    Unusual(unusual.ReadsTheLength, TEXT),
    Unusual(unusual.PyTorchEncoder, TEXT),
    Unusual(unusual.IdleExperts, TABLE),
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.factory.__name__)
@pytest.mark.filterwarnings("ignore")
def test_right_verdict_or_explained_skip(model: Unusual) -> None:
    findings = judge_model(model.factory, model.task, share=1.0)
    failures = {test: finding.explain() for test, finding in findings.items() if finding.status is Status.FAIL}
    assert set(failures) == model.fails, "\n".join(failures.values())
    skipped = [finding for finding in findings.values() if finding.status is Status.SKIPPED]
    assert all(len(finding.message) > 10 for finding in skipped)
    assert len(skipped) < len(findings) / 2, "most properties must be judged all the same"


@pytest.mark.filterwarnings("ignore")
def test_rounding_by_the_range_of_the_batch_is_a_warning_that_says_so() -> None:
    finding = judge_model(unusual.quantised_linears, TABLE, only=["batch_independence"])["batch_independence[forward]"]
    assert finding.status is Status.WARN
    assert finding.module == "stem"
    assert "quantises its inputs by the range of the whole batch" in finding.message


@pytest.mark.filterwarnings("ignore")
def test_the_fast_path_of_pytorch_hides_nothing() -> None:
    quick = [name for name, entry in CATALOGUE.items() if entry.tier in (1, 2) and name != "compiled"]
    findings = judge_model(unusual.PyTorchEncoder, TEXT, only=quick, share=0.1, tiers=(1, 2))
    assert not [finding.explain() for finding in findings.values() if finding.status is Status.FAIL]
    skipped = " ".join(finding.message for finding in findings.values() if finding.status is Status.SKIPPED)
    assert "cannot be analysed" not in skipped
    assert "simulated one" not in skipped
