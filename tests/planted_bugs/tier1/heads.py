"""Models with several inputs or outputs, declared by their signature; each has a bug of a kind that people report."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .declared import Keys, plant_declared


class Towers(nn.Module):
    """Two towers to one space, each with weights of its own; the bugs share them, or take lengths over the batch."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.image, self.text = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        tower = self.image if self.wrong == "shared" else self.text
        along = 0 if self.wrong == "batch" else -1
        return {"image": F.normalize(self.image(image), dim=along), "text": F.normalize(tower(text), dim=-1)}


TOWERS: Keys = {
    "inputs": {"image": {"axes": ["batch", 8]}, "text": {"axes": ["batch", 8]}},
    "outputs": {name: {"axes": ["batch", 6], "kind": "embedding", "norm": 1.0} for name in ("image", "text")},
}
plant_declared(
    "towers_share_weights",
    Towers,
    TOWERS,
    "gradient_flow[reaches_every_parameter]",
    wrong="shared",
    module="text",
    source="dual encoders, a copied line that still names the other tower",
)
plant_declared(
    "lengths_over_the_batch",
    Towers,
    TOWERS,
    "batch_independence[forward]",
    wrong="batch",
    also=("declared_outputs", "batch_independence[gradient]"),
    source="PyTorch forums, F.normalize with another dim than the last",
)


class ActorCritic(nn.Module):
    """Scores of actions and a value; the bugs are in the value."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.body, self.actions, self.value = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 1)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(observation).tanh()
        value = self.value(F.dropout(hidden, 0.5) if self.wrong == "dropout" else hidden).squeeze(-1)
        return self.actions(hidden), value - value.mean() if self.wrong == "batch" else value


POLICY: Keys = {
    "inputs": {"observation": {"axes": ["batch", 8]}},
    "outputs": {"actions": {"axes": ["batch", 4], "kind": "class_scores"}, "value": {"axes": ["batch"], "weight": 0.5}},
}
plant_declared(
    "value_centred_over_the_batch",
    ActorCritic,
    POLICY,
    "batch_independence[forward]",
    wrong="batch",
    code="reads_other_rows",
    says="value",
    also=("batch_independence[gradient]", "gradient_flow[reaches_every_parameter]"),
    source="PPO implementations, advantages normalised inside the model",
)
plant_declared(
    "value_random_in_eval_mode",
    ActorCritic,
    POLICY,
    "eval_deterministic",
    wrong="dropout",
    code="differs_when_repeated",
    says="value",
    also=("rng_untouched",),
    source="PyTorch documentation, F.dropout without training",
)


class Tagger(nn.Module):
    """Several labels of one row; the bugs return probabilities, or let rows compete."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.body, self.head = nn.Linear(8, 12), nn.Linear(12, 5)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.body(features).tanh()
        if self.wrong == "rows":
            hidden = hidden.softmax(0)
        return self.head(hidden).sigmoid() if self.wrong == "sigmoid" else self.head(hidden)


TAGS: Keys = {
    "inputs": {"features": {"axes": ["batch", 8]}},
    "outputs": {"tags": {"axes": ["batch", 5], "kind": "binary_scores"}},
}
plant_declared(
    "sigmoid_before_its_loss",
    Tagger,
    TAGS,
    "logit_range",
    wrong="sigmoid",
    source="PyTorch forums, sigmoid before BCEWithLogitsLoss",
)
plant_declared(
    "softmax_over_the_rows",
    Tagger,
    TAGS,
    "batch_independence[forward]",
    wrong="rows",
    also=("batch_independence[gradient]",),
    source="PyTorch forums, implicit dimension of softmax",
)


class Contrast(nn.Module):
    """Embeddings and a learned temperature, which depends on nothing; the bug scales it with the batch."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net, self.temperature = nn.Linear(8, 6), nn.Parameter(torch.tensor(1.5))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        embedded = self.net(features)
        scale = self.temperature * (embedded.std() if self.wrong else 1)
        return F.normalize(embedded, dim=-1), scale


plant_declared(
    "temperature_of_the_batch",
    Contrast,
    {
        "inputs": {"features": {"axes": ["batch", 8]}},
        "outputs": {
            "embedding": {"axes": ["batch", 6], "kind": "embedding", "norm": 1.0},
            "scale": {"axes": [], "kind": "other", "constant": True},
        },
    },
    "input_dependence[inputs]",
    source="CLIP implementations, logit_scale",
)


class Ratings(nn.Module):
    """A rating from a user, an item and a city, each with a table; the bug reads the item's column for the city too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tables = nn.ModuleList(nn.Embedding(9, 4) for _ in range(3))
        self.head = nn.Linear(12, 1)

    def forward(self, ids: Tensor) -> Tensor:
        columns = (0, 1, 1) if self.wrong else (0, 1, 2)
        return self.head(
            torch.cat([table(ids[:, column]) for table, column in zip(self.tables, columns, strict=True)], 1)
        ).squeeze(-1)


plant_declared(
    "column_of_ids_read_twice",
    Ratings,
    {
        "inputs": {"ids": {"axes": ["batch", 3], "values": {"ids": 9}}},
        "outputs": {"rating": {"axes": ["batch"], "range": [-20.0, 20.0]}},
    },
    "input_dependence[inputs]",
    source="DeepCTR implementations, columns of sparse features",
)
