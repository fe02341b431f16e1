"""How the fields of a batch find their way into ``forward``: by name, else by position, and never by guessing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter, plan_call
from harness.batches import make_batch, typical_sizes
from harness.errors import ForwardError
from harness.tasks import TaskSpec, TaskType

LM = TaskSpec(TaskType.CAUSAL_LM, vocab_size=11, max_seq_len=8)
SEQ2SEQ = TaskSpec(TaskType.SEQ2SEQ_LM, vocab_size=11, max_seq_len=8)
IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(3, 8, 8), num_classes=2)
TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=5, num_classes=2)


def model_of(forward: Any) -> nn.Module:
    """A module whose forward is a function without ``self``."""

    class Model(nn.Module):
        pass

    Model.forward = staticmethod(forward)
    return Model()


def received(task: TaskSpec, forward: Any) -> dict[str, Any]:
    """What a forward (which returns its ``locals()``) got, with tensors of the batch replaced by the field's name."""
    model = model_of(forward)
    batch = make_batch(task, typical_sizes(task))
    names = {id(tensor): name for name, tensor in batch.items()}
    got = make_adapter(task).plan(model).call(model, batch)

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return tuple(named(item) for item in value)
        return names.get(id(value), value)

    return {name: named(value) for name, value in got.items()}


def by_name(input_ids: Tensor, attention_mask: Tensor) -> Any:
    return locals()


def by_name_in_another_order(attention_mask: Tensor, input_ids: Tensor) -> Any:
    return locals()


def one_of_the_fields(input_ids: Tensor) -> Any:
    return locals()


def by_position(x: Tensor) -> Any:
    return locals()


def two_by_position(x: Tensor, mask: Tensor) -> Any:
    return locals()


def optional_other(input_ids: Tensor, labels: Tensor | None = None, scale: float = 2.0) -> Any:
    return locals()


def optional_field(x: Tensor, attention_mask: Tensor | None = None) -> Any:
    return locals()


def unnamed_before_named(x: Tensor, input_ids: Tensor) -> Any:
    return locals()


def named_before_unnamed(input_ids: Tensor, mask: Tensor) -> Any:
    return locals()


def keyword_only(*, input_ids: Tensor, attention_mask: Tensor) -> Any:
    return locals()


def position_only(input_ids: Tensor, attention_mask: Tensor, /) -> Any:
    return locals()


def named_and_kwargs(input_ids: Tensor, **kwargs: Any) -> Any:
    return locals()


def named_and_args(input_ids: Tensor, *args: Any) -> Any:
    return locals()


IDS, MASK, TARGET = "input_ids", "attention_mask", "decoder_input_ids"


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (by_name, {"input_ids": IDS, "attention_mask": MASK}),
        (by_name_in_another_order, {"input_ids": IDS, "attention_mask": MASK}),
        (one_of_the_fields, {"input_ids": IDS}),
        (by_position, {"x": IDS}),
        (two_by_position, {"x": IDS, "mask": MASK}),
        (optional_other, {"input_ids": IDS, "labels": None, "scale": 2.0}),
        (optional_field, {"x": IDS, "attention_mask": MASK}),
        (unnamed_before_named, {"x": MASK, "input_ids": IDS}),
        (named_before_unnamed, {"input_ids": IDS, "mask": MASK}),
        (keyword_only, {"input_ids": IDS, "attention_mask": MASK}),
        (position_only, {"input_ids": IDS, "attention_mask": MASK}),
        (named_and_kwargs, {"input_ids": IDS, "kwargs": {}}),
        (named_and_args, {"input_ids": IDS, "args": ()}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_language_models_forward_receives(forward: Any, expected: dict[str, Any]) -> None:
    assert received(LM, forward) == expected


def test_a_sequence_to_sequence_forward_receives_all_three_fields() -> None:
    def forward(input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Any:
        return locals()

    assert received(SEQ2SEQ, forward) == {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": TARGET}


def test_two_required_parameters_of_a_seq2seq_model_are_source_and_target() -> None:
    def forward(src: Tensor, trg: Tensor, dropout: float = 0.0) -> Any:
        return {"src": src, "trg": trg}

    assert received(SEQ2SEQ, forward) == {"src": IDS, "trg": TARGET}


def test_other_names_are_matched_in_the_tasks_order() -> None:
    def forward(src: Tensor, src_mask: Tensor, tgt: Tensor) -> Any:
        return locals()

    assert received(SEQ2SEQ, forward) == {"src": IDS, "src_mask": MASK, "tgt": TARGET}


def test_source_and_target_alone_are_matched_where_the_target_is_named() -> None:
    def forward(src: Tensor, decoder_input_ids: Tensor) -> Any:
        return locals()

    assert received(SEQ2SEQ, forward) == {"src": IDS, "decoder_input_ids": TARGET}


@pytest.mark.parametrize(("task", "field"), [(IMAGES, "pixel_values"), (TABLE, "features")])
def test_the_only_field_is_matched_whatever_its_name(task: TaskSpec, field: str) -> None:
    assert received(task, by_position) == {"x": field}


def test_a_batch_parameter_receives_the_batch_itself() -> None:
    def forward(batch: dict[str, Tensor]) -> Any:
        return {"fields": tuple(sorted(batch))}

    assert received(LM, forward) == {"fields": ("attention_mask", "input_ids", "labels")}


def test_bare_positional_arguments_receive_the_first_field() -> None:
    def forward(*args: Any) -> Any:
        return locals()

    assert received(LM, forward) == {"args": (IDS,)}


def test_bare_keyword_arguments_receive_every_field_by_name() -> None:
    def forward(**kwargs: Any) -> Any:
        return locals()

    assert received(SEQ2SEQ, forward) == {"kwargs": {name: name for name in (IDS, MASK, TARGET)}}


def test_labels_are_never_passed_by_position() -> None:
    def forward(input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        return locals()

    assert received(LM, forward)["labels"] is None


def too_many(x: Tensor, mask: Tensor, positions: Tensor) -> Any: ...


def unknown_keyword(input_ids: Tensor, *, temperature: float) -> Any: ...


def labels_required(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any: ...


@pytest.mark.parametrize(
    ("forward", "parameter"), [(too_many, "positions"), (unknown_keyword, "temperature"), (labels_required, "labels")]
)
def test_a_parameter_the_task_cannot_fill_is_named_with_the_signature(forward: Any, parameter: str) -> None:
    with pytest.raises(ForwardError) as caught:
        plan_call(model_of(forward), LM.facts.inputs)

    message = str(caught.value)
    assert "\n" not in message
    assert f"requires `{parameter}`, which" in message
    assert "Model.forward(" in message
    assert f"{parameter}: " in message.split(" requires ")[0], "the signature is shown"
    assert "`input_ids`, `attention_mask`" in message, "and what there is to be had"
    assert "`adapter`" in message, "and what to do"


def test_a_keyword_only_parameter_does_not_hide_another_that_lacks_a_field() -> None:
    def forward(a: Tensor, b: Tensor, *, temperature: float) -> Any: ...

    with pytest.raises(ForwardError, match="requires `temperature`, which"):
        plan_call(model_of(forward), LM.facts.inputs)


def test_a_forward_that_takes_nothing_is_refused() -> None:
    def forward() -> Any: ...

    with pytest.raises(ForwardError, match=r"takes none of the task's fields `features`"):
        plan_call(model_of(forward), TABLE.facts.inputs)


def test_a_module_without_a_forward_is_refused_with_its_name() -> None:
    class Headless(nn.Module):
        pass

    with pytest.raises(ForwardError, match="Headless"):
        plan_call(Headless(), LM.facts.inputs)


def test_the_adapter_knows_which_fields_reach_the_model() -> None:
    adapter = make_adapter(LM)

    assert adapter.takes(model_of(by_name), "attention_mask")
    assert not adapter.takes(model_of(one_of_the_fields), "attention_mask")
    assert adapter.takes(model_of(two_by_position), "attention_mask")


def test_the_plan_is_read_once_a_model_and_does_not_keep_it_alive() -> None:
    import gc
    import weakref

    adapter, model = make_adapter(LM), model_of(by_name)
    assert adapter.plan(model) is adapter.plan(model)
    watched = weakref.ref(model)
    del model
    gc.collect()

    assert watched() is None


def test_a_call_gives_what_a_call_by_hand_gives() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 2)
    batch = make_batch(TABLE, typical_sizes(TABLE))

    assert torch.equal(make_adapter(TABLE).logits(model, batch), model(batch["features"]))
