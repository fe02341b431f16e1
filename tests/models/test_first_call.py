"""A call that works is searched: what a failure says of shapes and values, and what a file says before the first call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.errors import ForwardError
from harness.models.first_call.argument import GivenInput
from harness.models.first_call.guesses import names_alike
from harness.models.first_call.hints import read_hints
from harness.models.first_call.search import find_call
from harness.models.first_call.tried import FoundCall
from harness.models.followed.call_sites import written_examples
from harness.tasks.finding import signature_from_call
from harness.user_code import import_file


def model_of(forward: Callable[..., object], *layers: nn.Module) -> nn.Module:
    """A model with some layers."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

    Net.forward = forward  # type: ignore[assignment]
    return Net().eval()


def found(forward: Callable[..., object], *layers: nn.Module, given: tuple[str, ...] = ()) -> FoundCall:
    """The call that is found of such a model."""
    said = [GivenInput.parse(text).argument() for text in given]
    return find_call(lambda: model_of(forward, *layers), lambda model: read_hints(model, {}, {}), said)


def shapes(call: FoundCall) -> dict[str, tuple[int, ...]]:
    return {name: argument.sizes for name, argument in call.arguments.items()}


def test_a_flattened_image_has_the_side_that_the_linear_layer_says() -> None:
    call = found(
        lambda self, x: self.layers[1](self.layers[0](x).relu().flatten(1)),
        nn.Conv2d(1, 4, 3, stride=2),
        nn.Linear(4 * 23 * 23, 2),
    )
    assert shapes(call)["x"][:2] == (3, 1)
    assert {(side - 3) // 2 + 1 for side in shapes(call)["x"][2:]} == {23}


def test_an_image_soon_has_the_side_of_a_weight_that_is_multiplied_with_it() -> None:
    calls = 0

    def forward(self: Any, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        capsules = self.layers[1](self.layers[0](x).relu()).view(len(x), -1, 1, 4)
        return (capsules @ self.layers[2].weight.view(144, 4, 2)).sum((1, 2))

    call = found(forward, nn.Conv2d(1, 8, 9), nn.Conv2d(8, 16, 9, stride=2), nn.Embedding(144, 8))
    assert shapes(call)["x"][:2] == (3, 1)
    assert {(side - 8 - 9) // 2 + 1 for side in shapes(call)["x"][2:]} == {6}
    assert calls < 20


def test_a_sequence_has_the_length_of_the_table_of_positions() -> None:
    places = nn.Parameter(torch.zeros(1, 50, 8))

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.layers[0](x) + places  # type: ignore[index,operator]

    assert shapes(found(forward, nn.Linear(5, 8)))["x"] == (3, 50, 5)


def test_rows_are_added_where_a_recurrent_layer_would_take_one_row() -> None:
    call = found(lambda self, x: self.layers[0](x)[0][..., -1, :], nn.GRU(6, 4, batch_first=True))
    assert shapes(call)["x"] == (3, 11, 6)


def test_an_assertion_of_the_model_says_a_size() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        length = x.shape[1]
        assert length == 21
        return self.layers[0](x)  # type: ignore[index,operator]

    assert shapes(found(forward, nn.Linear(21, 2)))["x"] == (3, 21)


def test_two_arguments_that_are_joined_have_the_same_other_axes() -> None:
    call = found(lambda self, left, right: self.layers[0](torch.cat([left, right], 1)), nn.Conv2d(5, 2, 1))
    assert sum(shape[1] for shape in shapes(call).values()) == 5
    assert shapes(call)["left"][2:] == shapes(call)["right"][2:]


def test_ids_are_no_larger_than_the_table() -> None:
    call = found(lambda self, user, item: self.layers[0](user) * self.layers[1](item), nn.Embedding(9, 4), nn.Embedding(5, 4))
    assert {name: argument.count for name, argument in call.arguments.items()} == {"user": 9, "item": 5}


def test_a_model_in_float64_gets_float64() -> None:
    assert found(lambda self, x: self.layers[0](x), nn.Linear(4, 2).double()).arguments["x"].dtype == "float64"


def test_keys_of_a_dict_are_found_one_by_one() -> None:
    def forward(self: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self.layers[0](batch["left"]) + self.layers[1](batch["right"])  # type: ignore[index,operator]

    (argument,) = found(forward, nn.Linear(4, 2), nn.Linear(3, 2)).arguments.values()
    assert {part.name: part.sizes for part in argument.parts} == {"left": (3, 4), "right": (3, 3)}


def test_a_state_that_is_returned_is_passed_on() -> None:
    def forward(self: nn.Module, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.layers[0](x, hidden)  # type: ignore[index,operator]

    assert found(forward, nn.GRU(6, 4, batch_first=True)).optional == ("hidden",)


def test_a_shape_that_was_given_is_kept() -> None:
    with pytest.raises(ForwardError, match=r"no call .* with x=\[3, 7\] it raises RuntimeError: mat1 .* --input x=batch,7"):
        found(lambda self, x: self.layers[0](x), nn.Linear(4, 2), given=("x=batch,7",))


def test_numbers_beside_a_mask_are_a_vector_for_each_position() -> None:
    def forward(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.layers[0](x) * mask.unsqueeze(-1)  # type: ignore[index,operator]
        return hidden.sum(dim=1)  # type: ignore[no-any-return]

    assert shapes(found(forward, nn.Linear(4, 6))) == {"x": (3, 11, 4), "mask": (3, 11)}


def test_a_column_that_meets_every_row_with_every_other_is_a_number_for_each_row() -> None:
    def forward(self: nn.Module, x: Tensor, action: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=self.layers[0](x)).log_prob(action)  # type: ignore[index,operator]

    assert shapes(found(forward, nn.Linear(4, 6), given=("x=batch,4",)))["action"] == (3,)


def test_a_call_that_broadcasts_at_one_number_of_rows_alone_is_not_taken() -> None:
    def forward(self: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
        hidden = self.layers[0](x) * weights.unsqueeze(-1)  # type: ignore[index,operator]
        return hidden.sum(dim=1)  # type: ignore[no-any-return]

    taken = shapes(found(forward, nn.Linear(4, 6)))
    assert taken["x"][:2] == taken["weights"]
    assert len(taken["x"]) == 3


@pytest.mark.parametrize("name", ["graph", "batch", "batch_index", "graph_id"])
def test_the_graph_of_each_node_is_a_number_for_each_node(name: str) -> None:
    def forward(self: nn.Module, atoms: Tensor, edge_index: Tensor, group: Tensor) -> Tensor:
        nodes = self.layers[0](atoms)  # type: ignore[index,operator]
        nodes = nodes + torch.zeros_like(nodes).index_add(0, edge_index[1], nodes[edge_index[0]])
        return torch.zeros(int(group.max()) + 1, nodes.shape[1]).index_add(0, group, nodes)

    parameters = [each.replace(name=name) if each.name == "group" else each for each in signature(forward).parameters.values()]

    def called(self: nn.Module, *values: Tensor, **named: Tensor) -> Tensor:
        return forward(self, *values, **{"group" if key == name else key: value for key, value in named.items()})

    called.__signature__ = signature(forward).replace(parameters=parameters)  # type: ignore[attr-defined]
    call = found(called, nn.Embedding(20, 6))
    assert shapes(call) == {"atoms": (7,), "edge_index": (2, 17), name: (7,)}
    assert call.values[name].dtype == torch.int64


def test_a_forward_that_is_not_written_is_told_the_methods_that_may_be_called() -> None:
    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.actor = nn.Linear(4, 2)

        def forward(self) -> None:
            raise NotImplementedError

        def reset_parameters(self, scale: float) -> None:
            self.actor.reset_parameters()

        def get_value(self, x: Tensor) -> Tensor:
            return self.actor(x)

        def get_action_and_value(self, x: Tensor, action: Tensor | None = None) -> Tensor:
            return self.actor(x)

    with pytest.raises(ForwardError) as raised:
        find_call(lambda: Agent().eval(), lambda model: read_hints(model, {}, {}))
    said = str(raised.value)
    assert 'call = "get_action_and_value" (also there: get_value)' in said
    assert "reset" not in said


def test_a_comment_says_the_axes() -> None:
    def forward(self: nn.Module, series: Tensor) -> Tensor:
        # series: [B, steps, channels]
        return self.layers[0](series)  # type: ignore[index,operator]

    argument = found(forward, nn.Linear(4, 2)).arguments["series"]
    assert (argument.names, argument.sizes) == (("batch", "steps", "channels"), (3, 11, 4))


@pytest.mark.parametrize("shape", ["(N,)", "[B]"])
def test_a_docstring_says_that_there_is_one_number_for_each_row(shape: str) -> None:
    def forward(self: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        return self.layers[0](x) + t.view(-1)[:, None]  # type: ignore[index,operator]

    forward.__doc__ = f"x: (N, width) numbers\n    t: {shape} tensor of steps"
    assert found(forward, nn.Linear(11, 2)).arguments["t"].sizes == (3,)


@pytest.fixture
def module_of(tmp_path: Path) -> Callable[[str], ModuleType]:
    def make(tail: str) -> ModuleType:
        head = "import torch\nfrom torch import nn\n\nSIZE = 12\n\n"
        head += "class Net(nn.Module):\n    def forward(self, x, ids=None):\n        return x\n\n"
        (tmp_path / "made.py").write_text(head + tail)
        return import_file(tmp_path / "made.py", "model")

    return make


@pytest.mark.parametrize(
    ("tail", "shape"),
    [
        (
            'if __name__ == "__main__":\n    net = Net().cuda()\n    y = net(torch.randn(2, 3, SIZE, 2 * SIZE).cuda())\n',
            (2, 3, 12, 24),
        ),
        (
            "def test():\n    size = (4, SIZE)\n    x = torch.zeros(*[4, 5])\n    model = Net()\n    print(model(torch.ones(4, SIZE)).shape)\n",
            (4, 12),
        ),
        ("def check(net):\n    x = torch.rand(1, 7)\n    out = Net()(x.unsqueeze(0))\n", (1, 1, 7)),
        ("def check(net):\n    out = Net()(load('image.png'))\n", None),
        ("def check(net):\n    out = Net()(torch.randn(10**9, 10**9))\n", None),
    ],
)
def test_an_input_that_the_file_makes_is_made_again(
    tail: str, shape: tuple[int, ...] | None, module_of: Callable[[str], ModuleType]
) -> None:
    module = module_of(tail)
    made = written_examples(module, module.Net())
    assert (tuple(made["x"][0].shape) if made else None) == shape
    sys.modules.pop(module.__name__, None)


def test_two_images_of_a_pair_grow_together_to_the_side_that_the_linear_layer_says() -> None:
    def forward(self: nn.Module, img_a: Tensor, img_b: Tensor) -> Tensor:
        one, other = (self.layers[2](self.layers[1](self.layers[0](x)).flatten(1)) for x in (img_a, img_b))  # type: ignore[index,operator]
        return (one - other).abs()

    call = found(forward, nn.Conv2d(1, 3, 9), nn.MaxPool2d(8), nn.Linear(3 * 6 * 6, 2))
    sizes = shapes(call)
    assert sizes["img_a"] == sizes["img_b"]
    assert (sizes["img_a"][2] - 8) // 8 == 6


def test_a_length_at_which_the_output_is_no_number_is_not_taken() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        pooled = self.layers[0](x)[..., ::16]  # type: ignore[index,operator]
        return (pooled - pooled.mean(-1, keepdim=True)) / pooled.std(-1, keepdim=True)

    assert shapes(found(forward, nn.Conv1d(2, 2, 1)))["x"][2] > 16


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["x1", "x2"], [("x1", "x2")]),
        (["anchor", "positive", "negative", "margin"], [("anchor", "positive", "negative")]),
        (["img_a", "img_b", "t"], [("img_a", "img_b")]),
        (["first_seq", "second_seq"], [("first_seq", "second_seq")]),
        (["x", "pos"], []),
        (["h_0", "c_0"], []),
        (["user", "item"], []),
    ],
)
def test_names_that_differ_by_a_number_or_a_word_take_the_same(names: list[str], groups: list[tuple[str, ...]]) -> None:
    assert names_alike(names) == groups


def test_an_image_that_is_flattened_has_as_many_values_as_the_linear_layer_takes() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        rows, channels, width, height = x.shape
        return self.layers[0](x.view(rows, channels * width * height))  # type: ignore[index,operator,no-any-return]

    assert shapes(found(forward, nn.Linear(784, 4)))["x"] == (3, 1, 28, 28)


def test_a_row_has_as_many_columns_as_the_model_names() -> None:
    columns = torch.arange(29)
    call = found(lambda self, x: self.layers[0](x[:, columns]), nn.Linear(29, 2))
    assert shapes(call)["x"] == (3, 29)


def test_attributes_of_an_object_are_found_one_by_one_and_those_of_a_graph_have_its_nodes() -> None:
    def forward(self: nn.Module, data: Any) -> Tensor:
        hidden = self.layers[0](data.x)  # type: ignore[index,operator]
        source, target = data.edge_index
        return torch.zeros_like(hidden).index_add(0, target, hidden[source])

    call = found(forward, nn.Linear(5, 2))
    (data,) = call.arguments.values()
    assert [(part.name, part.sizes[-1], part.holds) for part in data.parts] == [("x", 5, "numbers"), ("edge_index", 17, "ids")]
    assert data.parts[1].count <= data.parts[0].sizes[0]
    keys = signature_from_call(model_of(forward, nn.Linear(5, 2)), call.values).keys["inputs"]
    assert keys["data"] == {"class": "types:SimpleNamespace"}
    assert keys["data.edge_index"] == {"axes": [2, "edges"], "values": {"index_of": "nodes"}}


def test_a_size_that_the_model_keeps_is_tried_where_nothing_else_is_known() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.window, self.layer = 29, nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            if abs(x.shape[1] - self.window) > 0:
                raise ValueError("not a window")
            return self.layer(x)  # type: ignore[no-any-return]

    assert shapes(find_call(Windows, lambda model: read_hints(model, {}, {})))["x"] == (3, 29, 5)


def test_a_comment_names_axes_whose_sizes_are_settings_of_other_names() -> None:
    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            # x: [Batch, Input length, Channel]
            return self.layer(x)  # type: ignore[no-any-return]

    hints = read_hints(Forecast(), {"seq_len": 24, "enc_in": 3}, {})
    assert hints.required["x"].sizes == (3, 24, 3)


def test_vectors_that_are_called_like_ids_are_numbers_where_no_table_is_read() -> None:
    def forward(self: nn.Module, x_categ: Tensor) -> Tensor:
        _, _, _ = x_categ.shape
        return self.layers[1](x_categ.float()).mean(1)  # type: ignore[index,operator,no-any-return]

    (argument,) = found(forward, nn.Embedding(4, 2), nn.Linear(6, 2)).arguments.values()
    assert (argument.holds, len(argument.sizes), argument.sizes[-1]) == ("numbers", 3, 6)


def test_the_parts_of_a_split_add_up() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        points, views = torch.split(x, [5, 4], dim=-1)
        return self.layers[0](points) + views  # type: ignore[index,operator,no-any-return]

    assert shapes(found(forward, nn.Linear(5, 4)))["x"] == (3, 9)


def test_lengths_follow_the_tensor_that_they_mask() -> None:
    def forward(self: nn.Module, spec: Tensor, spec_lengths: Tensor) -> Tensor:
        mask = torch.arange(int(spec_lengths.max())) < spec_lengths[:, None]
        return self.layers[0](spec) * mask[:, None].expand(spec.shape[0], 2, spec.shape[2])  # type: ignore[index,operator,no-any-return]

    call = found(forward, nn.Conv1d(80, 2, 1))
    assert call.arguments["spec_lengths"].count == call.arguments["spec"].sizes[2]


def test_lengths_are_not_asked_for_where_what_they_measure_is() -> None:
    def forward(self: nn.Module, spec: Tensor, spec_lengths: Tensor) -> Tensor:
        raise ValueError(f"no such recording: {spec_lengths.sum() + spec.sum()}")

    with pytest.raises(
        ForwardError, match="with your sizes in place of these, which do not fit: --input spec=batch,80,37"
    ) as refused:
        found(forward, nn.Conv1d(80, 2, 1))
    assert "--input spec_lengths" not in str(refused.value)


def test_a_forward_that_needs_a_gpu_is_told_so() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        raise RuntimeError("Found no NVIDIA driver on your system")

    with pytest.raises(ForwardError, match=r"needs a GPU, and there is none here: .*`\.to\(x\.device\)`"):
        found(forward, nn.Linear(3, 2))
