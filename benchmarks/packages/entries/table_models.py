"""Models of rows: rtdl, TabNet, KAN, and the dense part of click-through-rate models."""

from __future__ import annotations

from packages.entry import Entry, regression, table

DENSE = "[DenseFeat(f'f{i}', 1) for i in range(6)]"


def embedded(name: str, arguments: str, width: int = 4) -> Entry:
    """An embedding of numbers before a small net."""
    return Entry(
        "rtdl-num-embeddings",
        name,
        f"import torch\nfrom rtdl_num_embeddings import {name}\nfrom torch import nn",
        f"nn.Sequential({name}({arguments}), nn.Flatten(), nn.Linear({6 * width}, 16), nn.ReLU(), nn.Linear(16, 3))",
        table(),
    )


def clicks(name: str, module: str, arguments: str = "") -> Entry:
    """A click-through-rate model on dense features, with its task set to regression."""
    return Entry(
        "deepctr-torch",
        name,
        f"from deepctr_torch.inputs import DenseFeat\nfrom deepctr_torch.models.{module} import {name}",
        f"{name}({DENSE}, {DENSE}, dnn_hidden_units=(16, 8), task='regression'{arguments})",
        regression(),
    )


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "rtdl-revisiting-models",
        "MLP",
        "from rtdl_revisiting_models import MLP",
        "MLP(d_in=6, d_out=3, n_blocks=2, d_block=16, dropout=0.1)",
        table(),
    ),
    Entry(
        "rtdl-revisiting-models",
        "ResNet",
        "from rtdl_revisiting_models import ResNet",
        "ResNet(d_in=6, d_out=3, n_blocks=2, d_block=16, d_hidden_multiplier=2.0, dropout1=0.1, dropout2=0.1)",
        table(),
    ),
    Entry(
        "rtdl-revisiting-models",
        "FTTransformer",
        "from rtdl_revisiting_models import FTTransformer\nfrom torch import nn",
        "Numbers()",
        table(),
        own="""
class Numbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = FTTransformer(
            n_cont_features=6, cat_cardinalities=[], d_out=3, n_blocks=2, d_block=16, attention_n_heads=2, attention_dropout=0.1,
            ffn_d_hidden_multiplier=2.0, ffn_dropout=0.1, residual_dropout=0.0,
        )

    def forward(self, features):
        return self.net(features, None)
""",
    ),
    embedded("LinearEmbeddings", "6, 4"),
    embedded("LinearReLUEmbeddings", "6, 4"),
    embedded("PeriodicEmbeddings", "6, 4, n_frequencies=8, lite=False"),
    embedded("PiecewiseLinearEncoding", "[torch.linspace(-2, 2, 5) for _ in range(6)]"),
    embedded("PiecewiseLinearEmbeddings", "[torch.linspace(-2, 2, 5) for _ in range(6)], 4, activation=True, version='B'"),
    Entry(
        "pytorch-tabnet",
        "TabNet",
        "import torch\nfrom pytorch_tabnet.tab_network import TabNet",
        "TabNet(6, 3, n_d=8, n_a=8, n_steps=2, group_attention_matrix=torch.eye(6))",
        table(),
    ),
    Entry(
        "pytorch-tabnet",
        "TabNetNoEmbeddings",
        "import torch\nfrom pytorch_tabnet.tab_network import TabNetNoEmbeddings",
        "TabNetNoEmbeddings(6, 3, n_d=8, n_a=8, n_steps=2, group_attention_matrix=torch.eye(6))",
        table(),
    ),
    Entry(
        "pykan",
        "MultKAN",
        "from kan import MultKAN",
        "MultKAN(width=[6, 4, 3], grid=3, k=3, auto_save=False, save_act=False, symbolic_enabled=False)",
        table(),
    ),
    clicks("DCN", "dcn"),
    clicks("DCNMix", "dcnmix"),
    clicks("WDL", "wdl"),
    clicks("DeepFM", "deepfm"),
    Entry(
        "loralib",
        "Linear",
        "import loralib\nfrom torch import nn",
        "nn.Sequential(loralib.Linear(6, 16, r=4), nn.ReLU(), loralib.Linear(16, 3, r=4))",
        table(),
    ),
    Entry(
        "monai",
        "FullyConnectedNet",
        "from monai.networks.nets import FullyConnectedNet",
        "FullyConnectedNet(6, 3, (16, 16), dropout=0.1)",
        table(),
    ),
)
