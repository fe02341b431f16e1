"""Graphs, molecules and sets of points: no axis of rows, edges as positions along the nodes, groups."""

from __future__ import annotations

from packages.entry import Entry, Keys, declared

NODES: Keys = {"min": 2, "max": 12, "order": "none"}
EDGES: Keys = {"edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}}}
AXES: Keys = {"nodes": NODES, "edges": {"max": 20, "order": "none"}}
CLASSES: Keys = {"scores": {"axes": ["nodes", 3], "kind": "class_scores"}}
FEATURES: Keys = {"x": {"axes": ["nodes", 8]}}
OF_GRAPHS: Keys = {"batch": {"axes": ["nodes"], "values": {"index_of": "graphs"}}}


def nodes(name: str, arguments: str = "8, 16, 2, 3", module: str = "torch_geometric.nn.models") -> Entry:
    """A model of torch-geometric that classifies nodes."""
    return geometric(name, arguments, declared({**FEATURES, **EDGES}, CLASSES, AXES), module)


def geometric(name: str, arguments: str, task: Keys, module: str = "torch_geometric.nn.models") -> Entry:
    """A model of torch-geometric."""
    return Entry("torch-geometric", name, f"from {module} import {name}", f"{name}({arguments})", task)


ENTRIES: tuple[Entry, ...] = (
    *map(nodes, ("GCN", "GAT", "GraphSAGE", "GIN")),
    nodes("EdgeCNN"),
    nodes("GraphUNet", "8, 16, 3, 2"),
    nodes("TransformerConv", "8, 3", "torch_geometric.nn"),
    geometric(
        "AttentiveFP",
        "8, 16, 3, 4, 2, 2",
        declared(
            {**FEATURES, **EDGES, "edge_attr": {"axes": ["edges", 4]}, **OF_GRAPHS},
            {"numbers": {"axes": ["graphs", 3]}},
            {**AXES, "nodes": {**NODES, "min": 4}, "graphs": {"max": 3}},
        ),
    ),
    geometric(
        "LightGCN",
        "12, 8, 2",
        declared(
            {
                "edge_index": {"axes": [2, "edges"], "values": {"ids": 12}},
                "edge_label_index": {"axes": [2, "pairs"], "values": {"ids": 12}},
            },
            {"ranks": {"axes": ["pairs"], "kind": "binary_scores"}},
            {"edges": {"max": 20, "order": "none"}, "pairs": {"max": 9, "order": "none"}},
        ),
    ),
    Entry(
        "egnn-pytorch",
        "EGNN",
        "from egnn_pytorch import EGNN",
        "EGNN(dim=8)",
        declared(
            {"feats": {"axes": ["batch", "atoms", 8]}, "coors": {"axes": ["batch", "atoms", 3]}},
            {"features": {"axes": ["batch", "atoms", 8]}, "places": {"axes": ["batch", "atoms", 3]}},
            {"atoms": {"min": 2, "max": 9, "order": "none"}},
        ),
    ),
    Entry(
        "point-transformer-pytorch",
        "PointTransformerLayer",
        "from point_transformer_pytorch import PointTransformerLayer",
        "PointTransformerLayer(dim=8, pos_mlp_hidden_dim=16, attn_mlp_hidden_mult=2)",
        declared(
            {
                "x": {"axes": ["batch", "points", 8]},
                "pos": {"axes": ["batch", "points", 3]},
                "mask": {"axes": ["batch", "points"], "dtype": "bool", "values": {"mask_of": "points"}, "optional": True},
            },
            {"features": {"axes": ["batch", "points", 8]}},
            {"points": {"min": 2, "max": 9, "order": "none", "padding": "right"}},
        ),
    ),
    Entry(
        "slot-attention",
        "SlotAttention",
        "from slot_attention import SlotAttention",
        "SlotAttention(num_slots=3, dim=8, iters=2, hidden_dim=16)",
        declared(
            {"inputs": {"axes": ["batch", "pixels", 8]}},
            {"slots": {"axes": ["batch", 3, 8], "kind": "embedding"}},
            {"pixels": {"min": 2, "max": 12, "order": "none"}},
        ),
    ),
)
