"""Models of several inputs or outputs: categories beside numbers, recommenders, pairs, policies, questions, embeddings."""

from __future__ import annotations

from packages.entries.image_to_image import hugging_face
from packages.entry import Entry, Keys, declared

SCORES: Keys = {"scores": {"axes": ["batch", 3], "kind": "class_scores"}}
CATEGORIES: Keys = {"x_categ": {"axes": ["batch", 2], "values": {"ids": [3, 4]}}}
CLICK: Keys = declared(
    {"X": {"axes": ["batch", 3], "values": {"ids": [20, 6, 5]}, "dtype": "float32"}},
    {"click": {"axes": ["batch", 1], "kind": "probabilities"}},
)
SPACES = "Box(-1, 1, (6,))"


def click(name: str, dense: bool = True) -> Entry:
    """A recommender of deepctr-torch, of three fields of categories."""
    fields = "[SparseFeat(n, c, 4) for n, c in (('user', 20), ('item', 6), ('day', 5))]"
    return Entry(
        "deepctr-torch",
        f"{name} of categories",
        f"from deepctr_torch.inputs import SparseFeat\nfrom deepctr_torch.models import {name}",
        f"{name}({'linear_feature_columns=FIELDS, ' if dense else ''}dnn_feature_columns=FIELDS, dnn_hidden_units=(8,), device='cpu')",
        CLICK,
        own=f"FIELDS = {fields}",
    )


def bert(name: str, config: str, inputs: Keys, outputs: Keys, axes: Keys, more: str = "") -> Entry:
    """A model of transformers with the sizes of a small BERT."""
    sizes = "hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64"
    arguments = f"vocab_size=40, {sizes}, max_position_embeddings=16{more}"
    return hugging_face(name, config, arguments, declared(inputs, outputs, axes))


def agent(name: str, module: str, imports: str, build: str, inputs: Keys, outputs: Keys, **more: str) -> Entry:
    """A network of stable-baselines3."""
    spaces = "from gymnasium.spaces import Box, Discrete\nfrom stable_baselines3.common.torch_layers import FlattenExtractor\n"
    return Entry("stable-baselines3", name, f"{spaces}from {module} import {imports}", build, declared(inputs, outputs, **more))


TOKENS: Keys = {
    "input_ids": {"axes": ["batch", "words"], "values": {"ids": 40, "pad": 0}},
    "attention_mask": {"axes": ["batch", "words"], "values": {"mask_of": "words"}, "optional": True},
}
WORDS: Keys = {"words": {"min": 2, "max": 16, "padding": "right"}}
CONTRASTIVE = """
import torch
import torch.nn.functional as F


def contrastive(outputs, batch):
    image, text = outputs["image_features"], outputs["text_features"]
    scores = outputs["scale"] * image @ text.T
    pairs = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)) / 2
"""

ENTRIES: tuple[Entry, ...] = (
    Entry(
        "tab-transformer-pytorch",
        "TabTransformer",
        "from tab_transformer_pytorch import TabTransformer\nfrom torch import nn",
        "TabTransformer(categories=(3, 4), num_continuous=4, dim=16, dim_out=3, depth=1, heads=2, mlp_act=nn.ReLU())",
        declared({**CATEGORIES, "x_cont": {"axes": ["batch", 4]}}, SCORES),
    ),
    Entry(
        "tab-transformer-pytorch",
        "FTTransformer",
        "from tab_transformer_pytorch import FTTransformer",
        "FTTransformer(categories=(3, 4), num_continuous=4, dim=16, dim_out=3, depth=1, heads=2)",
        declared({**CATEGORIES, "x_numer": {"axes": ["batch", 4]}}, SCORES),
    ),
    Entry(
        "tabm",
        "TabM",
        "from tabm import TabM",
        "TabM.make(n_num_features=6, d_out=3, k=4, n_blocks=1, d_block=16)",
        declared({"x_num": {"axes": ["batch", 6]}}, {"scores": {"axes": ["batch", 4, 3], "kind": "class_scores"}}),
    ),
    Entry(
        "rtdl-revisiting-models",
        "FTTransformer of numbers and categories",
        "from rtdl_revisiting_models import FTTransformer",
        "FTTransformer(n_cont_features=4, cat_cardinalities=[3, 4], d_out=3, n_blocks=1, d_block=16, attention_n_heads=2, "
        "attention_dropout=0.0, ffn_d_hidden_multiplier=2, ffn_dropout=0.0, residual_dropout=0.0)",
        declared({"x_cont": {"axes": ["batch", 4]}, "x_cat": {"axes": ["batch", 2], "values": {"ids": [3, 4]}}}, SCORES),
    ),
    *(click(name) for name in ("DeepFM", "WDL", "xDeepFM", "AutoInt")),
    click("PNN", dense=False),
    Entry(
        "open-clip-torch",
        "CLIP",
        "from open_clip.model import CLIP",
        "CLIP(16, {'image_size': 32, 'patch_size': 8, 'width': 32, 'layers': 1, 'head_width': 16}, {'context_length': 16, "
        "'vocab_size': 40, 'width': 32, 'heads': 2, 'layers': 1})",
        declared(
            {
                "image": {"axes": ["batch", 3, 32, 32]},
                "text": {"axes": ["batch", 16], "values": {"ids": 40}},
            },
            {
                "image_features": {"axes": ["batch", 16], "kind": "embedding", "norm": 1.0},
                "text_features": {"axes": ["batch", 16], "kind": "embedding", "norm": 1.0},
                "scale": {"kind": "other", "constant": True},
            },
            loss={"function": ":contrastive", "over": "batch"},
        ),
        own=CONTRASTIVE,
    ),
    bert(
        "BertForQuestionAnswering",
        "BertConfig",
        TOKENS,
        {name: {"axes": ["batch", "words"], "kind": "class_scores"} for name in ("start_logits", "end_logits")},
        WORDS,
    ),
    bert(
        "BertForMultipleChoice",
        "BertConfig",
        {"input_ids": {"axes": ["batch", "choices", "words"], "values": {"ids": 40}}},
        {"logits": {"axes": ["batch", "choices"], "kind": "class_scores"}},
        {"words": {"min": 2, "max": 16}, "choices": {"min": 2, "max": 5, "order": "none"}},
    ),
    bert(
        "BertModel",
        "BertConfig",
        TOKENS,
        {
            "last_hidden_state": {"axes": ["batch", "words", 32], "kind": "embedding"},
            "pooler_output": {"axes": ["batch", 32], "range": [-1, 1]},
        },
        WORDS,
    ),
    agent(
        "QNetwork",
        "stable_baselines3.dqn.policies",
        "QNetwork",
        f"QNetwork({SPACES}, Discrete(4), FlattenExtractor({SPACES}), 6, [16])",
        {"obs": {"axes": ["batch", 6]}},
        {"values": {"axes": ["batch", 4]}},
    ),
    agent(
        "Actor of TD3",
        "stable_baselines3.td3.policies",
        "Actor",
        f"Actor({SPACES}, Box(-1, 1, (2,)), [16], FlattenExtractor({SPACES}), 6)",
        {"obs": {"axes": ["batch", 6]}},
        {"action": {"axes": ["batch", 2], "range": [-1, 1], "fits": False}},
    ),
    agent(
        "ContinuousCritic",
        "stable_baselines3.common.policies",
        "ContinuousCritic",
        f"ContinuousCritic({SPACES}, Box(-1, 1, (2,)), [16], FlattenExtractor({SPACES}), 6)",
        {"obs": {"axes": ["batch", 6]}, "actions": {"axes": ["batch", 2], "values": {"range": [-1, 1]}}},
        {"first": {"axes": ["batch", 1]}, "second": {"axes": ["batch", 1]}},
    ),
    agent(
        "ActorCriticPolicy of PPO",
        "stable_baselines3.common.policies",
        "ActorCriticPolicy",
        f"ActorCriticPolicy({SPACES}, Discrete(4), lambda _: 1e-3, net_arch=[16])",
        {"obs": {"axes": ["batch", 6]}},
        {
            "values": {"axes": ["batch", 1], "at": 1},
            "actions": {"axes": ["batch"], "kind": "other", "at": 0},
            "log_prob": {"axes": ["batch"], "kind": "other", "at": 2},
        },
    ),
    agent(
        "ActorCriticPolicy of PPO, evaluate_actions",
        "stable_baselines3.common.policies",
        "ActorCriticPolicy",
        f"ActorCriticPolicy({SPACES}, Discrete(4), lambda _: 1e-3, net_arch=[16])",
        {"obs": {"axes": ["batch", 6]}, "actions": {"axes": ["batch"], "values": {"ids": 4}}},
        {
            "values": {"axes": ["batch", 1]},
            "log_prob": {"axes": ["batch"], "kind": "other"},
            "entropy": {"axes": ["batch"], "kind": "other"},
        },
        call="evaluate_actions",
    ),
    Entry(
        "sentence-transformers",
        "Pooling, Dense and Normalize",
        "from sentence_transformers import SentenceTransformer\nfrom sentence_transformers.models import Dense, Normalize, Pooling",
        "SentenceTransformer(modules=[Pooling(16), Dense(16, 8), Normalize()], device='cpu')",
        declared(
            {
                "input.token_embeddings": {"axes": ["batch", "words", 16]},
                "input.attention_mask": {"axes": ["batch", "words"], "values": {"mask_of": "words"}},
            },
            {"sentence_embedding": {"axes": ["batch", 8], "kind": "embedding", "norm": 1.0}},
            {"words": {"max": 12, "order": "none", "padding": "anywhere"}},
        ),
    ),
    Entry(
        "x-transformers",
        "XTransformer",
        "from x_transformers import XTransformer",
        "XTransformer(dim=32, enc_num_tokens=40, enc_depth=1, enc_heads=2, enc_max_seq_len=16, dec_num_tokens=40, dec_depth=1, "
        "dec_heads=2, dec_max_seq_len=16)",
        declared(
            {
                "src": {"axes": ["batch", "source"], "values": {"ids": 40}},
                "tgt": {"axes": ["batch", "target"], "values": {"ids": 40}},
            },
            {"loss": {"kind": "loss"}},
            {"source": {"max": 16}, "target": {"min": 2, "max": 16}},
        ),
    ),
)
