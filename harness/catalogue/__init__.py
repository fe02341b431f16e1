"""Every property that the suite can judge, one entry each. Config keys, tests and reports follow from the entry.

A new property is a function that returns ``Evidence``, and its entry in the file of its tier. Nothing here imports torch, Hypothesis or
pytest. The order is that of the reports; what runs first says ``BREAK_MOST``.
"""

from __future__ import annotations

from harness.catalogue.analysis import ANALYSIS
from harness.catalogue.critical import CRITICAL
from harness.catalogue.deployment import EXPORT, MONITORING
from harness.catalogue.entry import Case, Property, Search
from harness.catalogue.in_use import DECODING, MODES
from harness.catalogue.training import TRAINING

__all__ = ["BREAK_MOST", "CATALOGUE", "Case", "Property", "Search", "modules_of", "names_of", "of_tier", "rank", "register"]

CATALOGUE: dict[str, Property] = {}
"""Every property by name."""


BREAK_MOST = (
    *("shape_contract", "finite_output[typical]", "eval_deterministic"),  # what explains many other failures
    *("causal", "gradient_flow[reaches_every_parameter]", "logit_range", "padding_ignored", "batch_independence[forward]"),
    *("rng_untouched", "stateless", "device_move", "dtype_move", "registration", "inputs_unchanged", "input_dependence"),
    *("serialisation", "train_mode", "initialisation", "adapter_layers", "decoding"),
    *("initial_loss", "step_updates", "overfits_one_batch"),
)
"""Properties, or cases ``name[case]`` of them, that run before all others: a test of these takes well under a second, and most of the
failures of benchmarks/packages/reviews.json and of the bugs in tests/wild are theirs."""

_RANKS = {name: number for number, name in enumerate(BREAK_MOST)}


def rank(label: str) -> int:
    """Place of a test, such as ``finite_output[typical]``, in the order in which tests run; those that seldom fail share the last."""
    return _RANKS.get(label, _RANKS.get(label.partition("[")[0], len(_RANKS)))


def register(*entries: Property) -> None:
    """Adds properties, which from then on have tests, report rows, config keys and a row in the documentation.

    Args:
        entries: The properties. One that is registered again, as by a second import of its file, takes the place of the first.

    Raises:
        ValueError: There is another one of that name.
    """
    for entry in entries:
        known = CATALOGUE.setdefault(entry.name, entry)
        if known.functions != entry.functions:
            raise ValueError(f"there is a property {entry.name!r} already, in tier {known.tier}, judged by {known.functions[0]}")
        CATALOGUE[entry.name] = entry


def of_tier(tier: int) -> list[Property]:
    """The properties of a tier."""
    return [entry for entry in CATALOGUE.values() if entry.tier == tier]


def names_of(tier: int) -> frozenset[str]:
    """The names of a tier's properties."""
    return frozenset(entry.name for entry in of_tier(tier))


def modules_of(tier: int) -> list[str]:
    """The modules that hold the functions of a tier, for whoever wants them imported beforehand."""
    return list(dict.fromkeys(path.partition(":")[0] for entry in of_tier(tier) for path in entry.functions))


register(*CRITICAL, *DECODING, *MODES, *ANALYSIS, *TRAINING, *EXPORT, *MONITORING)
