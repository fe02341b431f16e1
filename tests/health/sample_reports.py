"""Reports to look at: a sound one, a broken one with all that a page can hold, one of awkward texts, and one of nothing."""

from __future__ import annotations

from harness.health import ExportHealthReport
from harness.health.checks import CheckResult, SkippedCheck

HOSTILE = "</title></script><script>document.title = 'owned'</script>\" onload=\"y|`<b>`<img src=https://example.org/x.png>"
_LONG = "encoder." + "layers_of_a_name_without_end" * 8 + ".weight"

_AGE = {
    "feature": "age",
    "title": "age",
    "kind": "numeric",
    "caption": "the share below 30 went from 50% to 20%",
    "reference": [0.1, 0.4, 0.3, 0.2],
    "current": [0.05, 0.15, 0.4, 0.4],
    "edges": [20, 30, 60],
    "contribution": 0.75,
}
_CITY = {
    "feature": "city",
    "title": "city",
    "kind": "categorical",
    "caption": "`Rome` lost a quarter",
    "reference": [0.75, 0.25],
    "current": [0.5, 0.5],
    "labels": ["Rome", "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch"],
    "contribution": 0.25,
}
_LEAK = CheckResult(
    "tier1::causal",
    "failed",
    "position 3's logits change when token 5 changes: the causal mask leaks (first seen in `blocks.1.attn`)",
    {
        "tier": 1,
        "tier_title": "critical properties",
        "statement": "A position's logits never depend on later tokens",
        "counterexample": "batch=2, seq=6",
        "module": "blocks.1.attn",
        "place": "models/gpt.py:41",
        "cause": "the mask is shifted by one",
        "comparison": "0.031, allowed 4e-7",
        "nodeid": "gpt.json::TestTier1::test_causal",
        "rerun": "pytest --model-config gpt.json gpt.json::TestTier1::test_causal",
        "examples": 2500,
        "plots": [
            {
                "kind": "matrix",
                "title": "Which position reads which token",
                "outputs": ["position 0", "position 1"],
                "inputs": ["token 0", "token 1"],
                "reads": [[True, True], [False, True]],
                "forbidden": [[False, True], [False, False]],
            },
            {
                "kind": "layers",
                "title": "Divergence along the layers",
                "caption": "With token 1 changed",
                "labels": ["embed", "blocks.1.attn"],
                "values": [0.0, 0.3],
            },
        ],
    },
    0.0123,
    "Build the mask with `torch.tril`.",
)
_PADDING = CheckResult(
    "tier1::padding_ignored",
    "failed",
    "row 0's logits change after appending 1 padded position to its 1 real token (first seen in `blocks.1.attn`)",
    {"tier": 1, "tier_title": "critical properties", "module": "blocks.1.attn", "statement": "Right padding changes nothing"},
)
_DRIFT = CheckResult(
    "tier5::drift[inputs]",
    "failed",
    "`age` has drifted: KS D = 0.3 (95% interval 0.26 to 0.34), p < 0.0001; n = 1,000 against 1,000; so has `city`, where there are more",
    {"tier": 5, "rerun": "pytest --model-config gpt.json -k drift", "plots": [_AGE, _CITY]},
    1.5,
)
_SLOW = CheckResult("tier2::speed", "warning", "the median call takes 61 ms", {"tier": 2, "comparison": "61 ms"}, 0.5)


def _passed(number: int) -> CheckResult:
    details = {"tier": 1, "statement": "Logits are finite at extreme inputs", "examples": number, "facts": {"worst": 1}}
    return CheckResult(f"tier1::finite_output[case{number}]", "passed", "finite at all of them", details, number / 100)


def _layer(index: int, gradient: float | None) -> dict[str, object]:
    known = {"shape": [64, 32], "count": 2048, "mean": 0.0, "std": 0.02, "rms": 0.02 * (index + 1), "trainable": True}
    return {"name": f"encoder.layers.{index}.self_attention.projection.weight", "grad_rms": gradient, **known}


BROKEN = ExportHealthReport(
    "tiny-gpt",
    "2026-03-04T05:06:07+00:00",
    [_LEAK, _PADDING, _DRIFT, _SLOW, *map(_passed, range(1, 9))],
    [SkippedCheck("tier1::device_move", "no second `device`", 1)],
    {"config": "gpt.json", "model": "models/gpt.py:build_model", "isolation": "in a process under Landlock; refused writes /x"},
    "The time budget of 120 s ended the search early in causal.",
    [_layer(index, None if index == 5 else 1e-3) for index in range(12)],
)
SOUND = ExportHealthReport("tiny-gpt", checks=list(map(_passed, range(1, 6))))
AWKWARD = ExportHealthReport(
    HOSTILE + "x" * 200,
    checks=[
        CheckResult(
            _LONG,
            "failed",
            f"{HOSTILE}\nsecond line\n\n`{_LONG}` and a lone ` tick",
            dict.fromkeys(("statement", "counterexample", "module", "cause", "comparison", "rerun"), HOSTILE + _LONG)
            | {
                "tier": 1,
                "tier_title": _LONG,
                "plots": [{**_CITY, "title": _LONG, "labels": [HOSTILE, _LONG]}],
                "examples": 10**12,
            },
            1e6,
            HOSTILE,
        ),
        CheckResult("no words", "warning", ""),
    ],
    skipped=[SkippedCheck(_LONG, "x" * 300)],
    model_facts={_LONG: "x" * 300, "model": HOSTILE},
    coverage=HOSTILE,
    layers=[{"name": _LONG, "rms": float("nan"), "grad_rms": float("inf"), "shape": [1] * 30, "count": 10**15}],
)
EMPTY = ExportHealthReport("nothing")

REPORTS = {"broken": BROKEN, "sound": SOUND, "awkward": AWKWARD, "empty": EMPTY}
