"""Every property the suite can judge, as data.

The config validates names against this table, the plugin generates tests from it, and the reports take their words from it.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from harness.tasks import TaskSpec, TaskType

_TEXT = (
    TaskType.CAUSAL_LM,
    TaskType.MASKED_LM,
    TaskType.SEQUENCE_CLASSIFICATION,
    TaskType.TOKEN_CLASSIFICATION,
    TaskType.SEQ2SEQ_LM,
)

_LABELLED = tuple(task for task in TaskType if task not in (TaskType.CAUSAL_LM, TaskType.MASKED_LM))
"""Tasks whose labels are not their inputs."""

_ONE_CLASS = (TaskType.SEQUENCE_CLASSIFICATION, TaskType.IMAGE_CLASSIFICATION, TaskType.TABULAR_CLASSIFICATION)
"""Tasks that give a row one class."""

_CLASSES = tuple(task for task in TaskType if task is not TaskType.TABULAR_REGRESSION)
"""Tasks whose logits are scores of classes."""


@dataclass(frozen=True)
class Property:
    """One thing that must hold of a model.

    Attributes:
        name: Key in the config's ``properties`` and ``tolerances``; the test is ``test_<name>``.
        tier: 1 to 5.
        statement: What must hold, as a sentence about a sound model.
        tolerance: What a number under this name in ``tolerances`` means, with its unit; ``None`` where the property is exact.
        tasks: Task types it applies to; empty for all of them.
        formats: Export formats it is judged for, one by one; empty for a property that knows no formats.
        cases: Parts that are judged one by one, with the statement of each; empty for a property with a single test.
        owned_by: Properties, or cases ``name[case]``, whose violation also shows as one of this property: one bug, one card.
        case_owners: The same for single cases.
    """

    name: str
    tier: int
    statement: str
    tolerance: str | None = None
    tasks: tuple[TaskType, ...] = ()
    cases: Mapping[str, str] = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    owned_by: tuple[str, ...] = ()
    case_owners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def owners(self, case: str = "") -> tuple[str, ...]:
        """The properties, or cases ``name[case]``, whose violation shows as one of this property, or of one case of it."""
        return self.owned_by + self.case_owners.get(case, ())

    def applies_to(self, task: TaskSpec) -> bool:
        """Whether the property is generated for a task: it fits the task type and the user left it on."""
        fits = not self.tasks or task.task_type in self.tasks
        return fits and task.properties.get(self.name, True)

    @property
    def has_cases(self) -> bool:
        """Whether it is judged case by case."""
        return bool(self.cases or self.formats)

    def cases_for(self, task: TaskSpec, formats: Collection[str] = ()) -> tuple[str, ...]:
        """The cases that make sense for a task and the formats of its export, in a fixed order."""
        if self.formats:
            return tuple(name for name in formats if name in self.formats)
        return tuple(case for case in self.cases if task.task_type in _CASE_TASKS.get((self.name, case), (task.task_type,)))


_RUNNING = ("torchscript", "onnx", "onnx_int8", "torch_export", "openvino", "executorch")
"""Formats that hold the computation."""

_WEIGHTS = ("pytorch", "safetensors")
"""Formats that hold the weights alone."""

_FORMATS = _RUNNING + _WEIGHTS
_WRITES = ("inputs_unchanged",)
_DIFFERENCE = "largest absolute difference of the logits that still counts as equal"

CATALOGUE: dict[str, Property] = {
    entry.name: entry
    for entry in (
        Property("shape_contract", 1, "Logits have the promised shape at every batch size, length and image size"),
        Property(
            "finite_output",
            1,
            "Logits are finite, at typical and at extreme inputs",
            cases={
                "typical": "Logits are finite at typical inputs",
                "extremes": "Logits are finite at extreme inputs",
                "fully_padded_row": "A row that is all padding poisons neither logits nor gradients",
            },
        ),
        Property(
            "batch_independence",
            1,
            "A row's logits and gradients do not depend on the other rows of its batch",
            _DIFFERENCE,
            cases={
                "forward": "A row's logits do not depend on the other rows of its batch",
                "gradient": "A row's gradient does not reach the other rows of its batch",
            },
        ),
        Property(
            "causal",
            1,
            "A position's logits never depend on later tokens",
            _DIFFERENCE,
            (TaskType.CAUSAL_LM, TaskType.SEQ2SEQ_LM),
        ),
        Property(
            "padding_ignored", 1, "Right padding changes nothing at the real positions", _DIFFERENCE, _TEXT, owned_by=("causal",)
        ),
        Property("eval_deterministic", 1, "In eval mode the same input gives the same logits", _DIFFERENCE),
        Property(
            "mode_round_trip",
            1,
            "train() and eval() reach every module, and going there and back changes nothing",
            _DIFFERENCE,
            owned_by=("serialisation", "stateless"),
        ),
        Property("stateless", 1, "A call leaves nothing behind that changes the next one", _DIFFERENCE, owned_by=_WRITES),
        Property(
            "rng_untouched",
            1,
            "forward neither seeds nor, in eval mode, consumes the global random state",
            owned_by=("eval_deterministic",),
        ),
        Property("inputs_unchanged", 1, "forward does not write into the tensors it is given"),
        Property(
            "memory_layout",
            1,
            "The same values in another memory layout give the same logits",
            _DIFFERENCE,
            owned_by=_WRITES,
        ),
        Property(
            "gradient_flow",
            1,
            "Every trainable parameter receives a gradient, and every gradient is finite",
            cases={
                "reaches_every_parameter": "Every trainable parameter receives a gradient",
                "finite": "Every gradient is finite, at typical and at extreme inputs",
            },
        ),
        Property(
            "input_dependence",
            1,
            "The output depends on every input it should",
            cases={
                "tokens": "The output depends on every token",
                "context": "A position's logits depend on the tokens around it",
                "order": "The output depends on the order of the tokens",
                "source": "The output depends on every source token",
                "channels": "The scores depend on every channel",
                "regions": "The scores depend on every quarter of the image",
                "features": "The output depends on every feature",
            },
            case_owners={"tokens": _WRITES, "source": _WRITES},
        ),
        Property(
            "logit_range",
            1,
            "Scores of classes may take any value: no ReLU, softmax or sigmoid stands behind the last layer",
            tasks=_CLASSES,
        ),
        Property("registration", 1, "Every parameter, module and tensor the model uses is registered with it"),
        Property(
            "initialisation",
            1,
            "Fresh weights break symmetry, keep a sane scale, and start at the loss of a uniform guess",
            "nats above log C that the first loss may be (case `loss`)",
            cases={
                "loss": "Training starts at the loss of a uniform guess",
                "symmetry": "No two units start equal and stay equal",
                "scale": "Signals are in range and tell inputs apart",
            },
        ),
        Property(
            "dtype_move",
            1,
            "The model runs after a move to another floating dtype",
            cases={
                "float64": "The model runs in float64",
                "bfloat16": "The model runs in bfloat16",
                "float16": "The model runs in float16",
            },
        ),
        Property("device_move", 1, "The model runs after a move to another device"),
        Property(
            "serialisation",
            1,
            "Saved, pickled and copied models give the same logits, and tied weights stay tied",
            _DIFFERENCE,
            cases={
                "state_dict": "A second instance with the saved state dict gives the same logits",
                "pickle": "A pickled copy gives the same logits",
                "deepcopy": "A deep copy gives the same logits and shares nothing",
                "tied_weights": "Tied weights stay tied through copies, moves and loading",
            },
        ),
        Property(
            "full_vocabulary",
            1,
            "Every token id of the vocabulary can be read and predicted",
            tasks=_TEXT,
            owned_by=_WRITES,
        ),
        Property("full_length", 1, "The model works at the whole declared length", tasks=_TEXT),
        Property(
            "memory_footprint",
            1,
            "Memory is bounded and does not grow from call to call",
            "MiB that one call may hold at its peak",
        ),
        Property("inference_speed", 1, "Work does not grow from call to call", "milliseconds that the median call may take"),
        Property(
            "attention_patterns",
            2,
            "Attention weights are what their mask and their softmax promise, head by head",
            cases={
                "rows_sum_to_one": "Each query's attention weights are a distribution",
                "causal": "No head looks at a later position",
                "padding": "No head looks at padding",
                "collapsed_heads": "No two heads of a layer look at the same, and none looks at everything alike",
            },
            case_owners={"causal": ("causal",), "padding": ("padding_ignored",)},
        ),
        Property("attribution", 2, "The gradients of the output are the output's: integrated, they add up to its change"),
        Property(
            "robustness",
            2,
            "The output changes with its input by as much as it should",
            cases={
                "noise": "A little noise on the input changes the output a little",
                "masking": "No token, channel or feature decides alone",
                "adversarial_step": "The output goes where its gradient points",
            },
        ),
        Property(
            "dead_units",
            2,
            "Every unit answers to its input",
            cases={
                "dead": "No unit is silent whatever the input",
                "saturated": "No unit is at the end of its range whatever the input",
            },
        ),
        Property("representation_rank", 2, "Hidden states and logits tell inputs apart"),
        Property(
            "half_precision",
            2,
            "In half precision the logits are the same within its rounding",
            _DIFFERENCE,
            cases={
                "float16": "In float16 the logits are the same within its rounding",
                "bfloat16": "In bfloat16 the logits are the same within its rounding",
                "autocast": "Under autocast the logits are the same within its rounding",
            },
            owned_by=("dtype_move",),
        ),
        Property("attention_kernels", 2, "Every way to compute attention gives the same logits", _DIFFERENCE),
        Property("compiled", 2, "torch.compile gives the same logits and gradients", _DIFFERENCE),
        Property("gradcheck", 2, "Gradients are the slopes of the output"),
        Property(
            "calibration",
            2,
            "The confidence of a trained model says how often it is right",
            "root mean square of confidence less accuracy that is allowed, between 0 and 1",
            _CLASSES,
        ),
        Property(
            "initial_loss",
            3,
            "The first loss of the training step is that of a uniform guess",
            "nats above log C that the first loss may be",
            _CLASSES,
        ),
        Property(
            "overfits_one_batch",
            3,
            "The model learns one small batch by heart with its own optimizer",
            owned_by=("gradient_flow", "logit_range", "training_loss", "optimizer_coverage", "step_updates"),
        ),
        Property("step_updates", 3, "A step changes every parameter that is to be trained, and nothing that is not"),
        Property("optimizer_coverage", 3, "The optimizer holds every trainable parameter once, and nothing else"),
        Property(
            "training_loss",
            3,
            "The loss is the mean over its labels, each position's own",
            cases={
                "reduction": "The loss of a batch is the mean over its labels",
                "ignored_labels": "Positions labelled -100 contribute neither loss nor gradient",
                "targets": "Each position is trained towards its own label",
            },
            case_owners={"reduction": ("training_loss[targets]",), "ignored_labels": ("training_loss[targets]",)},
        ),
        Property(
            "accumulation",
            3,
            "A step over several small batches is the step over the one large batch",
            owned_by=("training_loss[reduction]",),
        ),
        Property("seeded_repeat", 3, "The same seed and batches give the same trained weights, in another process too"),
        Property("resume", 3, "A run that goes on from a checkpoint ends as the uninterrupted one"),
        Property("distributed", 3, "Two processes that share the rows of a batch train as one does with all of them"),
        Property("fine_tuning", 3, "The last layer can be trained while the rest stays frozen"),
        Property("hyperparameter_sensitivity", 3, "The configured learning rate learns, with room on both sides"),
        Property("baseline_comparison", 3, "After a short training the model knows more than how common each answer is"),
        Property("architecture_validation", 4, "The model has modules and a forward, all of them in eval mode"),
        Property("parameter_validation", 4, "No parameter or buffer holds NaN or infinity"),
        Property("shape_validation", 4, "Logits have the promised shape at several batch sizes", owned_by=("shape_contract",)),
        Property("memory_requirements", 4, "Parameters and one call fit into a gigabyte"),
        Property(
            "forward_pass_validation",
            4,
            "Forward gives finite logits at several batch sizes",
            owned_by=("parameter_validation", "finite_output"),
        ),
        Property("exports", 4, "The model exports, and the file is the one that was exported", formats=_FORMATS),
        Property(
            "validation", 4, "The file is whole, well formed, of the opset asked for, and gives finite logits", formats=_FORMATS
        ),
        Property(
            "fresh_process", 4, "A process that never saw the exporter loads the file and gets the same logits", formats=_FORMATS
        ),
        Property(
            "numerical_consistency",
            4,
            "The file gives the model's logits at shapes its exporter never saw",
            _DIFFERENCE,
            formats=tuple(name for name in _FORMATS if name != "onnx_int8"),
        ),
        Property("dynamic_axes", 4, "Every axis declared free takes every size it was declared for", formats=_RUNNING),
        Property("inference_mode", 4, "No active Dropout and no norm over the batch is left in the file", formats=_RUNNING),
        Property("invalid_input", 4, "The file refuses what the model refuses", formats=_RUNNING),
        Property(
            "quantisation",
            4,
            "The quantised file keeps the model's answers and is no slower",
            "decibels of signal over quantisation noise that the logits must keep",
            formats=("onnx_int8",),
        ),
        Property(
            "performance_benchmark",
            4,
            "The file is no slower than the model itself",
            "milliseconds that the file's median call may take",
            formats=_FORMATS,
        ),
        Property("evaluation", 5, "The metrics on the evaluation data are finite and within the config's thresholds"),
        Property("baseline_regression", 5, "The model is not worse than its baseline on the same samples"),
        Property(
            "drift",
            5,
            "The data is distributed as the reference profile's",
            cases={
                "inputs": "The inputs are distributed as in the reference profile",
                "labels": "The labels are distributed as in the reference profile",
                "outputs": "The model's outputs are distributed as in the reference profile",
                "scores": "The model makes no more mistakes, nor graver ones, than in the reference profile",
            },
        ),
        Property(
            "harm",
            5,
            "The model is as often right as on the reference, as far as labels or its confidence tell",
            tasks=_ONE_CLASS,
        ),
    )
}

_CASE_TASKS: dict[tuple[str, str], tuple[TaskType, ...]] = {
    ("finite_output", "fully_padded_row"): _TEXT,
    ("input_dependence", "tokens"): _TEXT,
    ("input_dependence", "context"): (TaskType.CAUSAL_LM, TaskType.MASKED_LM, TaskType.TOKEN_CLASSIFICATION, TaskType.SEQ2SEQ_LM),
    ("input_dependence", "order"): (TaskType.CAUSAL_LM, TaskType.MASKED_LM, TaskType.TOKEN_CLASSIFICATION),
    ("input_dependence", "source"): (TaskType.SEQ2SEQ_LM,),
    ("input_dependence", "channels"): (TaskType.IMAGE_CLASSIFICATION,),
    ("input_dependence", "regions"): (TaskType.IMAGE_CLASSIFICATION,),
    ("input_dependence", "features"): (TaskType.TABULAR_CLASSIFICATION, TaskType.TABULAR_REGRESSION),
    ("training_loss", "ignored_labels"): (
        TaskType.CAUSAL_LM,
        TaskType.MASKED_LM,
        TaskType.TOKEN_CLASSIFICATION,
        TaskType.SEQ2SEQ_LM,
    ),
    ("initialisation", "loss"): _CLASSES,
    ("drift", "labels"): _LABELLED,
    ("drift", "scores"): tuple(task for task in TaskType if task is not TaskType.MASKED_LM),
    ("attention_patterns", "causal"): (TaskType.CAUSAL_LM, TaskType.SEQ2SEQ_LM),
    # Features are put into bins by design, whose edges no gradient knows.
    ("robustness", "adversarial_step"): (*_TEXT, TaskType.IMAGE_CLASSIFICATION),
    # Right padding comes after every real position of a causal model, so that its own mask covers it.
    ("attention_patterns", "padding"): tuple(task for task in _TEXT if task is not TaskType.CAUSAL_LM),
}
