"""A signature found from one working call: what is free, what inputs hold, what outputs are, and what is said where that cannot be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import ExampleError
from harness.evidence import Status
from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature
from harness.tasks.finding import outputs, signature_from_call
from harness.tasks.finding.formulas import fitted, product, undecided
from harness.tasks.finding.outputs import has_unit_vectors
from harness.tasks.keys import declared_keys
from pytest_modeltiers.live import judge_model


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.up, self.head = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(16, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        high = self.down(image).relu()
        low = self.up(self.deep(F.max_pool2d(high, 2)).relu())
        return torch.sigmoid(self.head(torch.cat([high, low], 1)))


class Speech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frames, self.head = nn.Conv1d(6, 8, 3, stride=2), nn.Linear(8, 5)

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.frames(audio.transpose(1, 2)).transpose(1, 2)
        return self.head(hidden.tanh()), (lengths - 3) // 2 + 1


class Clicks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(31, 4), nn.Linear(14, 1)
        self.register_buffer("offsets", torch.tensor([0, 20, 26]))

    def forward(self, sparse: Tensor, dense: Tensor) -> Tensor:
        return self.head(torch.cat([self.table(sparse + self.offsets).flatten(1), dense], 1)).squeeze(1)


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places, self.head = nn.Embedding(20, 8, padding_idx=1), nn.Embedding(16, 8), nn.Linear(8, 20)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        hidden = self.tokens(idx) + self.places(torch.arange(idx.shape[1]))
        logits = self.head(hidden.cumsum(1))
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(4, 6, 2), nn.Linear(6, 3)

    def forward(self, steps: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, hidden = self.cell(steps, hidden)
        return self.head(out), hidden


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.heard = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        return self.own(x).index_add(0, target, self.heard(x)[source])


class Molecules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 4), nn.Linear(4, 1)

    def forward(self, atoms: Tensor, edge_index: Tensor, graph: Tensor) -> Tensor:
        nodes = self.table(atoms)
        nodes = nodes.index_add(0, edge_index[1], nodes[edge_index[0]]).tanh()
        whole = torch.zeros(int(graph.max()) + 1, 4).index_add(0, graph, nodes)
        return self.head(whole).squeeze(1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, query: Tensor, items: Tensor, padding_mask: Tensor | None = None) -> dict[str, Tensor]:
        out, weights = self.attend(query, items, items, key_padding_mask=padding_mask)
        return {"hidden": out, "weights": weights}


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, 4, 4, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.cut(image).flatten(2).transpose(1, 2)


class Joint(NamedTuple):
    vector: Tensor
    chances: Tensor
    temperature: Tensor


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale = nn.Linear(6, 4), nn.Parameter(torch.tensor(2.0))

    def forward(self, pair: tuple[Tensor, Tensor], more: dict[str, Tensor]) -> Joint:
        hidden = self.body(pair[0] - pair[1]) + more["bias"]
        return Joint(F.normalize(hidden, dim=-1), hidden.softmax(-1), self.scale)


BATCH_OF_SCORES = {"scores": {"axes": ["batch", 3]}}
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "a network that halves and doubles": (
        UNet,
        lambda: {"image": torch.rand(1, 3, 16, 24)},
        {
            "inputs": {"image": {"axes": ["batch", 3, "height", "width"], "values": {"range": [0.0, 1.0]}}},
            "outputs": {"output": {"axes": ["batch", 1, "height", "width"], "range": [0.0, 1.0]}},
            "axes": {"height": {"min": 2, "multiple_of": 2}, "width": {"min": 2, "multiple_of": 2}},
        },
    ),
    "strided frames with lengths": (
        Speech,
        lambda: {"audio": torch.randn(3, 21, 6), "lengths": torch.tensor([21, 9, 12])},
        {
            "inputs": {
                "audio": {"axes": ["batch", "time", 6]},
                "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
            },
            "outputs": {
                "0": {"axes": ["batch", "time_out", 5]},
                "1": {"axes": ["batch"], "kind": "lengths", "of": "time_out"},
            },
            "axes": {"time": {"min": 3}, "time_out": {"from": "(time - 1) // 2"}},
        },
    ),
    "columns of one table": (
        Clicks,
        lambda: {"sparse": torch.tensor([[1, 2, 3], [19, 5, 4]]), "dense": torch.randn(2, 2)},
        {
            "inputs": {
                "sparse": {"axes": ["batch", 3], "values": {"ids": [20, 6, 5]}},
                "dense": {"axes": ["batch", 2]},
            },
            "outputs": {"output": {"axes": ["batch"]}},
        },
    ),
    "tokens with a table of positions and a loss": (
        Language,
        lambda: {"idx": torch.randint(20, (2, 9)), "targets": torch.randint(20, (2, 9))},
        {
            "inputs": {"idx": {"axes": ["batch", "seq"], "values": {"ids": 20, "pad": 1}}},
            "outputs": {"logits": {"axes": ["batch", "seq", 20]}},
            "axes": {"seq": {"max": 16}},
        },
    ),
    "time first, with a state": (
        Recurrent,
        lambda: {"steps": torch.randn(7, 3, 4), "hidden": torch.zeros(2, 3, 6)},
        {
            "inputs": {
                "steps": {"axes": ["time", "batch", 4]},
                "hidden": {"axes": [2, "batch", 6], "state": {"from": "hidden"}},
            },
            "outputs": {"0": {"axes": ["time", "batch", 3]}, "hidden": {"axes": [2, "batch", 6], "kind": "state"}},
        },
    ),
    "a graph": (
        Graph,
        lambda: {"x": torch.randn(7, 5), "edge_index": torch.randint(7, (2, 12))},
        {
            "inputs": {"x": {"axes": ["nodes", 5]}, "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}}},
            "outputs": {"output": {"axes": ["nodes", 4]}},
        },
    ),
    "graphs of a batch, one after the other": (
        Molecules,
        lambda: {
            "atoms": torch.randint(20, (7,)),
            "edge_index": torch.tensor([[0, 1, 2, 4, 5], [1, 2, 0, 5, 6]]),
            "graph": torch.tensor([0, 0, 0, 0, 1, 1, 1]),
        },
        {
            "inputs": {
                "atoms": {"axes": ["nodes"], "values": {"ids": 20}},
                "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}},
                "graph": {"axes": ["nodes"], "values": {"index_of": "batch"}},
            },
            "outputs": {"output": {"axes": ["batch"]}},
            "limits": ["batch <= nodes"],
        },
    ),
    "two lengths that are alike, and an optional mask": (
        Attention,
        lambda: {"query": torch.randn(2, 5, 8), "items": torch.randn(2, 5, 8), "padding_mask": torch.zeros(2, 5).bool()},
        {
            "inputs": {
                "query": {"axes": ["batch", "time", 8]},
                "items": {"axes": ["batch", "items_time", 8]},
                "padding_mask": {
                    "axes": ["batch", "items_time"],
                    "values": {"mask_of": "items_time", "inverted": True},
                    "dtype": "bool",
                    "optional": True,
                },
            },
            "outputs": {
                "hidden": {"axes": ["batch", "time", 8]},
                "weights": {"axes": ["batch", "time", "items_time"], "kind": "other", "range": [0.0, 1.0]},
            },
        },
    ),
    "patches, of which the last one must be whole": (
        Patches,
        lambda: {"image": torch.randn(2, 1, 16, 8)},
        {
            "inputs": {"image": {"axes": ["batch", 1, "height", "width"]}},
            "outputs": {"output": {"axes": ["batch", "height_width_out", 4]}},
            "axes": {
                "height": {"min": 4, "multiple_of": 4},
                "width": {"min": 4, "multiple_of": 4},
                "height_width_out": {"from": "(height // 4) * (width // 4)"},
            },
        },
    ),
    "a tuple and a dict go in, a named tuple comes out": (
        Pair,
        lambda: {"pair": (torch.randn(3, 6), torch.randn(3, 6)), "more": {"bias": torch.randn(3, 4)}},
        {
            "inputs": {"pair.0": {"axes": ["batch", 6]}, "pair.1": {"axes": ["batch", 6]}, "more.bias": {"axes": ["batch", 4]}},
            "outputs": {
                "vector": {"axes": ["batch", 4], "kind": "embedding", "norm": 1.0},
                "chances": {"axes": ["batch", 4], "kind": "probabilities", "classes": -1},
                "temperature": {"axes": [], "kind": "other", "constant": True},
            },
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_signature_is_found_and_can_be_declared(name: str) -> None:
    build, arguments, expected = CASES[name]
    torch.manual_seed(0)

    found = signature_from_call(build(), arguments())

    assert found.keys == expected
    assert set(declared_keys(read_signature(found.keys))) == set(expected)
    told = {key.split(".", 1)[1] for key in found.reasons if "." in key}
    assert {*expected["inputs"], *expected["outputs"]} - {"pad"} <= told


@pytest.mark.parametrize("name", ["a network that halves and doubles", "columns of one table", "a graph"])
def test_a_sound_model_is_quiet_under_its_own_signature(name: str) -> None:
    build, arguments, _ = CASES[name]
    torch.manual_seed(0)
    keys = signature_from_call(build(), arguments()).keys

    found = judge_model(build, TaskSpec(TaskType.DECLARED, declared=read_signature(keys)), share=1.0)

    assert {label: each.message for label, each in found.items() if each.status in (Status.FAIL, Status.WARN)} == {}


class Neighbours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return (adjacency @ self.head(x)).log_softmax(1)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layer(x, src_mask=mask)


class OneImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image[None])[0]


class Memory(nn.Module):
    """Of [step, row, 8], four steps become one."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv1d(8, 8, 4, stride=4)

    def forward(self, steps: Tensor) -> Tensor:
        return self.squeeze(steps.permute(1, 2, 0)).permute(2, 0, 1)


class Attending(nn.Module):
    """``hidden`` holds queries here: no other input has their length, and no later call continues from them."""

    def __init__(self) -> None:
        super().__init__()
        self.join = nn.Linear(8, 4)

    def forward(self, hidden: Tensor, encoder_outputs: Tensor) -> tuple[Tensor, Tensor]:
        weights = (hidden @ encoder_outputs.transpose(1, 2)).softmax(-1)
        return self.join(torch.cat([weights @ encoder_outputs, hidden], 2)).tanh(), weights


def test_a_query_whose_length_no_other_input_has_is_no_state() -> None:
    found = signature_from_call(Attending(), {"hidden": torch.randn(4, 5, 4), "encoder_outputs": torch.randn(4, 7, 4)})

    assert found.keys["inputs"]["hidden"] == {"axes": ["batch", "time", 4]}
    assert all(each.get("kind") != "state" for each in found.keys["outputs"].values())


@pytest.mark.parametrize(
    ("model", "arguments", "inputs", "output"),
    [
        (
            Memory(),
            {"steps": torch.randn(8, 3, 8)},
            [["time", "batch", 8]],
            {"axes": ["time_out", "batch", 8]},
        ),
        (
            Neighbours(),
            {"x": torch.randn(9, 6), "adjacency": torch.eye(9)},
            [["nodes", 6], ["nodes", "nodes"]],
            {"axes": ["nodes", 3], "kind": "class_scores"},
        ),
        (
            Masked(),
            {"x": torch.randn(2, 6, 8), "mask": torch.zeros(6, 6)},
            [["batch", "time", 8], ["time", "time"]],
            {"axes": ["batch", "time", 8]},
        ),
        (OneImage(), {"image": torch.randn(3, 16, 20)}, [[3, "height", "width"]], {"axes": [4, "height", "width"]}),
    ],
)
def test_axes_that_are_none_of_rows(
    model: nn.Module, arguments: dict[str, Tensor], inputs: list[list[Any]], output: dict[str, Any]
) -> None:
    found = signature_from_call(model, arguments)

    assert [each["axes"] for each in found.keys["inputs"].values()] == inputs
    assert list(found.keys["outputs"].values()) == [output]


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x - x.mean(0))


class Largest(nn.Module):
    """Divides by the largest value, which is the same one when the values only change places."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x / x.abs().max())


@pytest.mark.parametrize("model", [Mixed, Largest])
def test_rows_that_change_each_other_stay_promised_and_are_told(model: type[nn.Module]) -> None:
    found = signature_from_call(model(), {"x": torch.randn(4, 6)})

    assert found.keys == {"inputs": {"x": {"axes": ["batch", 6]}}, "outputs": {"output": {"axes": ["batch", 3]}}}
    assert "independent: false" in found.reasons["axes.batch"]


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.norm(x)


def test_the_model_is_left_as_it_was() -> None:
    model = Counting().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()

    signature_from_call(model, {"x": torch.randn(4, 4, generator=torch.Generator().manual_seed(0))})

    assert model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_without_time_only_the_rows_are_found() -> None:
    found = signature_from_call(UNet(), {"image": torch.rand(2, 3, 16, 24)}, seconds=0.0)

    assert found.keys["inputs"]["image"]["axes"] == ["batch", 3, 16, 24]


def test_names_of_axes_can_be_given() -> None:
    found = signature_from_call(Speech(), CASES["strided frames with lengths"][1](), axis_names={"audio": ["b", "samples", "6"]})

    assert found.keys["inputs"]["audio"]["axes"] == ["batch", "samples", 6]


class Typed(nn.Module):
    def forward(self, x: Tensor, mode: str, scale: float = 1.0) -> Tensor:
        return x * scale


class Silent(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (
            UNet(),
            {"image": torch.rand(2, 5, 16, 16)},
            r"UNet called with the example \(image \[2, 5, 16, 16\]\) raised RuntimeError",
        ),
        (UNet(), {}, "the example of UNet holds no tensor"),
        (Typed(), {"x": torch.rand(2, 5), "mode": "fast"}, "`mode` of the example is a str, expected a tensor"),
        (Silent(), {"x": torch.rand(2, 5)}, "Silent returned None for the example, expected a tensor"),
        (
            Speech(),
            {"audio": torch.rand(2, 9, 6), "lengths": torch.tensor([9, 4]), "more": torch.rand(1)},
            "has no parameter for `more`",
        ),
    ],
)
def test_a_call_that_cannot_be_used_is_refused(model: nn.Module, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ExampleError, match=message) as refused:
        signature_from_call(model, arguments)
    assert "\n" not in str(refused.value)


def test_an_argument_that_is_no_tensor_is_left_out_where_forward_has_a_default() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return x * scale

    found = signature_from_call(Scaled(), {"x": torch.rand(2, 5), "scale": 2.0})

    assert list(found.keys["inputs"]) == ["x"]
    assert found.reasons["inputs.scale"] == "left out: a float, no tensor: forward's default is used"


class PointScores(nn.Module):
    """Scores of each point, beside all points; it refuses a call as large as those of a training."""

    largest = 0

    def __init__(self) -> None:
        super().__init__()
        self.each, self.head = nn.Conv1d(3, 8, 1), nn.Conv1d(16, 2, 1)

    def forward(self, points: Tensor) -> Tensor:
        PointScores.largest = max(PointScores.largest, points.numel())
        each = self.each(points).relu()
        return self.head(torch.cat([each, each.amax(2, keepdim=True).expand_as(each)], 1)).transpose(1, 2)


def test_a_large_example_is_made_smaller_before_it_is_called_some_hundred_times() -> None:
    found = signature_from_call(PointScores().eval(), {"points": torch.randn(32, 3, 2500)})

    assert found.keys["inputs"]["points"]["axes"] == ["batch", 3, "time"]
    assert found.keys["outputs"]["output"]["axes"] == ["batch", "time", 2]
    assert PointScores.largest < 1 << 16


def test_a_large_example_of_a_fixed_size_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 160 * 160, 2)).eval()
    found = signature_from_call(model, {"input": torch.randn(4, 3, 160, 160)})
    assert found.keys["inputs"]["input"]["axes"] == ["batch", 3, 160, 160]


class Words(nn.Module):
    """Scores of all words of a batch in one row."""

    def __init__(self, *, turned: bool = False) -> None:
        super().__init__()
        self.turned = turned
        self.words, self.body, self.head = nn.Embedding(20, 6), nn.GRU(6, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, sentences: Tensor) -> Tensor:
        hidden = self.body(self.words(sentences))[0]
        return self.head((hidden.transpose(0, 1) if self.turned else hidden).reshape(-1, 8))


@pytest.mark.parametrize(("turned", "formula"), [(False, "batch * seq"), (True, "seq * batch")])
def test_rows_that_are_joined_with_another_axis_are_told_by_their_order(turned: bool, formula: str) -> None:
    found = signature_from_call(Words(turned=turned).eval(), {"sentences": torch.randint(20, (3, 11))})
    (axis,) = (name for name in found.keys["axes"] if "from" in found.keys["axes"][name])
    assert found.keys["axes"][axis]["from"] == formula
    assert found.reasons["axes.batch"] == "twice the rows give twice the output, and no row changes another"


class Takes64(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 4, 4, 4), nn.Linear(64, 6)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).relu().view(-1, 64))


def test_a_size_whose_elements_a_view_takes_for_more_rows_does_not_work() -> None:
    found = signature_from_call(Takes64().eval(), {"image": torch.randn(3, 1, 16, 16)})
    assert found.keys["inputs"]["image"]["axes"] == ["batch", 1, 16, 16]
    assert found.keys["outputs"]["output"]["axes"] == ["batch", 6]


@pytest.mark.parametrize(
    ("size", "formula"),
    [
        (lambda n: n // 4, "time // 4"),
        (lambda n: (n - 3) // 2 + 1, "(time - 1) // 2"),
        (lambda n: (n - 1) // 8 + 1, "(time - 1) // 8 + 1"),
        (lambda n: 2 * n, "2 * time"),
        (lambda n: 3 * n - 2, "3 * time - 2"),
        (lambda n: n - 5, "time - 5"),
        (lambda n: n // 4 + 1, "time // 4 + 1"),
        (lambda n: n * n, None),
        (lambda n: 7, None),
    ],
)
def test_a_formula_of_one_axis(size: Callable[[int], int], formula: str | None) -> None:
    assert fitted("time", {n: size(n) for n in (12, 13, 14, 15, 17, 24, 36)}) == formula


@pytest.mark.parametrize(
    ("size", "formula"),
    [
        (lambda h, w: (h // 4) * (w // 4) + 1, "(h // 4) * (w // 4) + 1"),
        (lambda h, w: h * w, "h * w"),
        (lambda h, w: h + w, "h + w"),
        (lambda h, w: h + w + 3, "h + w + 3"),
        (lambda h, w: h**2 * w, None),
    ],
)
def test_a_formula_of_two_axes(size: Callable[[int, int], int], formula: str | None) -> None:
    steps = (16, 20, 24, 28)
    changes = [("h", {h: size(h, 12) for h in steps}), ("w", {w: size(16, w) for w in (12, *steps)})]
    assert product(changes, {"h": 16, "w": 12}, size(16, 12)) == formula


@pytest.mark.parametrize("rest", [0, 5, 31])
def test_sizes_are_tried_until_one_formula_is_left(rest: int) -> None:
    seen = {n: (n + rest) // 32 for n in (64, 65, 66, 67, 69, 128, 192)}
    tried = 0
    while (size := undecided(seen, range(2, 257))) is not None:
        seen[size] = (size + rest) // 32
        tried += 1
    formula = fitted("time", seen)
    assert formula is not None
    assert all(eval(formula, {"time": n}) == (n + rest) // 32 for n in range(2, 257))
    assert 1 <= tried <= 12


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(5)))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


def test_what_a_deep_encoder_leaves_is_right_at_sizes_far_from_the_example() -> None:
    found = signature_from_call(Deep().eval(), {"image": torch.randn(2, 3, 64, 48)})
    assert [found.keys["axes"][axis]["from"] for axis in found.keys["outputs"]["output"]["axes"][2:]] == [
        "(height - 1) // 32 + 1",
        "(width - 1) // 32 + 1",
    ]


def test_what_several_formulas_fit_promises_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_MORE_SIZES", 0)
    found = signature_from_call(Deep().eval(), {"image": torch.randn(2, 3, 64, 48)})
    assert {each["from"] for each in found.keys["axes"].values() if "from" in each} == {"measured"}


class Standardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)[..., ::2]
        return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)


def test_a_size_at_which_the_output_is_no_number_does_not_work() -> None:
    found = signature_from_call(Standardised(), {"x": torch.randn(3, 2, 9)})
    assert found.keys["axes"]["time"]["min"] == 3


class NodesAndEdges(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, data: tuple[Tensor, Tensor]) -> Tensor:
        nodes, (source, target) = self.layer(data[0]), data[1]
        return torch.zeros_like(nodes).index_add(0, target, nodes[source])


def test_edges_beside_nodes_in_a_tuple_are_positions() -> None:
    example = {"data": (torch.randn(5, 4), torch.randint(5, (2, 9)))}
    keys = signature_from_call(NodesAndEdges(), example).keys["inputs"]
    assert keys == {
        "data.0": {"axes": ["nodes", 4]},
        "data.1": {"axes": [2, "edges"], "values": {"index_of": "nodes"}},
    }


class FirstThree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, kinds: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        both = self.layer(torch.cat((kinds, numbers), dim=1))
        return both[:, :3], both[:, 3:]


def test_the_smallest_sizes_together_give_the_sizes_that_outputs_have() -> None:
    found = signature_from_call(FirstThree(), {"kinds": torch.randn(2, 5, 4), "numbers": torch.randn(2, 6, 4)})
    first = found.keys["inputs"]["kinds"]["axes"][1]
    assert found.keys["outputs"]["0"]["axes"] == ["batch", 3, 2]
    assert found.keys["axes"][first]["min"] == 3


class OverEachMap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.var(dim=(2, 3), keepdim=True).add(1e-5).sqrt()


def test_sizes_that_only_together_are_too_small_for_finite_numbers() -> None:
    found = signature_from_call(OverEachMap(), {"x": torch.randn(2, 3, 6, 7)}).keys
    least = [found["axes"].get(name, {}).get("min", 1) for name in found["inputs"]["x"]["axes"][2:]]
    assert sorted(least) == [1, 2]


def test_entries_that_are_all_one_number_are_no_vectors_of_length_1() -> None:
    assert has_unit_vectors(torch.nn.functional.normalize(torch.randn(3, 4), dim=-1))
    assert not has_unit_vectors(torch.full((3, 4), 0.5))


def test_a_size_that_only_train_mode_refuses_is_too_small() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 4, 2, 1), torch.nn.InstanceNorm2d(2, track_running_stats=True))
    keys = signature_from_call(model, {"input": torch.randn(3, 1, 16, 16)}, seconds=3.0).keys
    least = [keys["axes"][name].get("min", 1) for name in keys["inputs"]["input"]["axes"][2:]]
    assert model.train()(torch.randn(3, 1, *least)).numel() > 3 * 2  # more than one element of each map


class Moved(nn.Module):
    """Points that move by what their neighbours send, beside what they hold; any number of points works while the positions fit."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.pull = nn.Linear(5, 6), nn.Linear(5, 1)
        nn.init.constant_(self.pull.weight, 1e-5)

    def forward(self, h: Tensor, x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        source, target = edges
        near = torch.cat([h[source], (x[source] - x[target]).square().sum(1, keepdim=True)], 1)
        moved = torch.zeros_like(x).index_add(0, target, (x[source] - x[target]) * self.pull(near))
        return torch.zeros(len(h), 6, dtype=h.dtype, device=h.device).index_add(0, target, self.sent(near)), x + moved


def test_inputs_that_positions_lead_to_share_the_axis_of_nodes() -> None:
    example = {"h": torch.randn(8, 4), "x": torch.randn(8, 3), "edges": torch.randint(5, (2, 12))}
    keys = signature_from_call(Moved(), example).keys["inputs"]
    assert [keys[name]["axes"][0] for name in ("h", "x")] == ["nodes", "nodes"]
    assert keys["edges"] == {"axes": [2, "edges"], "values": {"index_of": "nodes"}}


class Frontend(nn.Module):
    """Halves twice the frequencies of a spectrogram, rounded down, so that 19 to 22 of them are one width."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.Conv2d(2, 2, 3, 2)), nn.Linear(2 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x[:, None]).transpose(1, 2).flatten(2))


def test_a_width_that_strides_round_is_that_of_the_example() -> None:
    assert signature_from_call(Frontend(), {"x": torch.randn(3, 12, 20)}).keys["inputs"]["x"]["axes"] == ["batch", "time", 20]


class Aligned(nn.Module):
    """Scores, and a transformation of the input that begins as the identity, whatever is read."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.turn = nn.Linear(6, 4), nn.Linear(6, 9)
        nn.init.zeros_(self.turn.weight)
        nn.init.zeros_(self.turn.bias)
        self.scale = nn.Parameter(torch.ones(1, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        turn = self.turn(x).view(-1, 3, 3) + torch.eye(3, dtype=x.dtype, device=x.device)
        return self.head(x), turn, self.scale.expand(len(x), -1)


def test_an_output_that_is_constant_by_how_fresh_weights_begin_has_labels() -> None:
    keys = signature_from_call(Aligned(), {"x": torch.randn(3, 6)}).keys["outputs"]
    assert [each.get("constant", False) for each in keys.values()] == [False, False, True]


class Scales(nn.Module):
    """Begins as the identity, and returns the logarithm of its determinant beside."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 6))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * h, self.scale.abs().log().sum()


def test_what_begins_as_the_identity_is_an_output_all_the_same() -> None:
    found = signature_from_call(Scales(), {"h": torch.randn(4, 6)})

    assert next(iter(found.keys["outputs"].values()))["axes"] == ["batch", 6]


class Crops(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(image, (1, 0, 1, 0)), 2, ceil_mode=True)[..., 1:, 1:]


def test_a_size_of_which_nothing_is_left_does_not_work() -> None:
    found = signature_from_call(Crops(), {"image": torch.randn(3, 2, 9, 11)})

    assert {found.keys["axes"][name]["min"] for name in ("height", "width")} == {2}


class Smooth(nn.Module):
    """An input may be called as the labels of a batch are."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(4, 4)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return (self.table(x) - labels).square().mean(-1)


def test_an_input_called_labels_is_no_label_of_the_output() -> None:
    keys = signature_from_call(Smooth(), {"x": torch.randn(3, 4), "labels": torch.randn(3, 4)}).keys
    found = judge_model(Smooth, TaskSpec(TaskType.DECLARED, declared=read_signature(keys)), share=1.0)

    assert {label: each.message for label, each in found.items() if each.status is Status.FAIL} == {}
