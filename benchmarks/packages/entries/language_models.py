"""Language models of smaller packages."""

from __future__ import annotations

from packages.entry import Entry, Keys, causal, masked, seq2seq, sequence

SMALL = "num_tokens=40, dim=32, depth=2, heads=2, max_seq_len=16"


def model(package: str, name: str, module: str, arguments: str, task: Keys, more: str = "") -> Entry:
    """A class of a package."""
    imports = f"from {module} import {', '.join(filter(None, (more, name)))}"
    return Entry(package, name, imports, f"{name}({arguments})", task)


def x_transformers(what: str, layers: str, task: Keys, more: str = "") -> Entry:
    """A wrapper of x-transformers around layers with options."""
    kind = layers.partition("(")[0]
    build = f"TransformerWrapper(num_tokens=40, max_seq_len=16, attn_layers={layers}{more})"
    return Entry(
        "x-transformers", f"TransformerWrapper, {what}", f"from x_transformers import {kind}, TransformerWrapper", build, task
    )


LAYERS = "dim=32, depth=2, heads=2, attn_dim_head=16"

ENTRIES: tuple[Entry, ...] = (
    x_transformers("Decoder", f"Decoder({LAYERS})", causal()),
    x_transformers(
        "Decoder with rotary positions and a gated linear unit", f"Decoder({LAYERS}, rotary_pos_emb=True, ff_glu=True)", causal()
    ),
    x_transformers("Decoder with ALiBi", f"Decoder({LAYERS}, alibi_pos_bias=True, alibi_num_heads=1)", causal()),
    x_transformers("Encoder", f"Encoder({LAYERS})", masked()),
    x_transformers("Encoder with relative positions", f"Encoder({LAYERS}, rel_pos_bias=True)", masked()),
    model(
        "performer-pytorch", "PerformerLM", "performer_pytorch", f"{SMALL}, dim_head=16, causal=True, nb_features=16", causal()
    ),
    Entry(
        "reformer-pytorch",
        "ReformerLM",
        "from reformer_pytorch import Autopadder, ReformerLM",
        f"Autopadder(ReformerLM({SMALL}, bucket_size=4, n_hashes=2, causal=True))",
        causal(),
    ),
    model("linformer", "LinformerLM", "linformer", "num_tokens=40, dim=32, seq_len=16, depth=2, heads=2, k=8", masked()),
    model(
        "local-attention",
        "LocalTransformer",
        "local_attention",
        f"{SMALL}, dim_head=16, local_attn_window_size=4, causal=True",
        causal(),
    ),
    model(
        "linear-attention-transformer",
        "LinearAttentionTransformerLM",
        "linear_attention_transformer",
        f"{SMALL}, causal=True",
        causal(),
    ),
    model("g-mlp-pytorch", "gMLP", "g_mlp_pytorch", "num_tokens=40, dim=32, depth=2, seq_len=16", masked(min_seq_len=16)),
    Entry(
        "g-mlp-pytorch",
        "gMLP, causal",
        "from g_mlp_pytorch import gMLP",
        "gMLP(num_tokens=40, dim=32, depth=2, seq_len=16, causal=True)",
        causal(),
    ),
    model("routing-transformer", "RoutingTransformerLM", "routing_transformer", f"{SMALL}, window_size=4, causal=True", causal()),
    Entry(
        "sinkhorn-transformer",
        "SinkhornTransformerLM",
        "from sinkhorn_transformer import Autopadder, SinkhornTransformerLM",
        f"Autopadder(SinkhornTransformerLM({SMALL}, bucket_size=4, causal=True))",
        causal(),
    ),
    model("palm-pytorch", "PaLM", "palm_pytorch", "num_tokens=40, dim=32, depth=2, heads=2, dim_head=16", causal()),
    model(
        "megabyte-pytorch",
        "MEGABYTE",
        "MEGABYTE_pytorch",
        "num_tokens=40, dim=(32, 16), max_seq_len=(4, 4), depth=(1, 1), heads=2, dim_head=16",
        causal(),
    ),
    model("mingru-pytorch", "minLM", "minGRU_pytorch.minLM", "num_tokens=40, dim=32, depth=2", causal()),
    Entry(
        "mambapy",
        "Mamba",
        "from mambapy.mamba import Mamba, MambaConfig, RMSNorm\nfrom torch import nn",
        "LM()",
        causal(),
        own="""
class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.mamba = Mamba(MambaConfig(d_model=32, n_layers=2, d_state=4))
        self.norm = RMSNorm(32)
        self.head = nn.Linear(32, 40, bias=False)

    def forward(self, input_ids):
        return self.head(self.norm(self.mamba(self.embedding(input_ids))))
""",
    ),
    model("h-transformer-1d", "HTransformer1D", "h_transformer_1d", f"{SMALL}, dim_head=16, causal=True, block_size=4", causal()),
    model(
        "mega-pytorch",
        "Mega",
        "mega_pytorch",
        "num_tokens=40, dim=32, depth=2, ema_heads=4, attn_dim_qk=16, attn_dim_value=32, causal=True",
        causal(),
    ),
    model(
        "titans-pytorch",
        "MemoryAsContextTransformer",
        "titans_pytorch",
        "num_tokens=40, dim=16, depth=1, segment_len=8, heads=2, dim_head=8",
        causal(),
    ),
    model(
        "simple-hierarchical-transformer",
        "HierarchicalTransformer",
        "simple_hierarchical_transformer",
        "num_tokens=40, dim=32, depth=2, seq_len=16, hierarchies=(1, 2), window_sizes=(8, None), heads=2, dim_head=16",
        causal(),
    ),
    model(
        "recurrent-memory-transformer-pytorch",
        "RecurrentMemoryTransformer",
        "recurrent_memory_transformer_pytorch",
        "num_tokens=40, dim=32, depth=2, num_memory_tokens=2, seq_len=16, causal=True, heads=2, dim_head=16",
        causal(),
    ),
    model(
        "block-recurrent-transformer-pytorch",
        "BlockRecurrentTransformer",
        "block_recurrent_transformer_pytorch",
        "num_tokens=40, dim=32, depth=2, heads=2, dim_head=16, max_seq_len=16, block_width=8, num_state_vectors=8, recurrent_layers=(2,)",
        causal(),
    ),
    model(
        "feedback-transformer-pytorch",
        "FeedbackTransformer",
        "feedback_transformer_pytorch",
        "num_tokens=40, dim=32, depth=2, seq_len=4, mem_len=16, heads=2, dim_head=16",
        causal(),
    ),
    model(
        "gateloop-transformer",
        "Transformer",
        "gateloop_transformer",
        "num_tokens=40, dim=32, depth=2, use_gate_looped_attn=True",
        causal(),
    ),
    model(
        "perceiver-pytorch",
        "PerceiverLM",
        "perceiver_pytorch.perceiver_io",
        "num_tokens=40, dim=32, max_seq_len=16, depth=2, num_latents=8, latent_dim=32, latent_heads=2, latent_dim_head=16, cross_dim_head=16",
        masked(),
    ),
    model(
        "open-clip-torch",
        "TextTransformer",
        "open_clip.transformer",
        "context_length=16, vocab_size=40, width=32, heads=2, layers=2, output_dim=3",
        sequence(min_seq_len=16),
    ),
    Entry(
        "sentence-transformers",
        "Pooling and Dense on a Bert",
        ""
        "from sentence_transformers.sentence_transformer.modules import Pooling\nfrom torch import nn\nfrom transformers import BertConfig, "
        "BertModel",
        "Classifier()",
        sequence(pad_token_id=0),
        own="""
class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = BertConfig(vocab_size=40, max_position_embeddings=16, **sizes)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.pooling = Pooling(32, "mean")
        self.head = nn.Linear(32, 3)

    def forward(self, input_ids, attention_mask):
        states = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = self.pooling({"token_embeddings": states, "attention_mask": attention_mask})
        return self.head(pooled["sentence_embedding"])
""",
    ),
    Entry(
        "torchscale",
        "Encoder",
        "from torch import nn\nfrom torchscale.architecture.config import EncoderConfig\nfrom torchscale.architecture.encoder import Encoder",
        "Tagger()",
        masked(),
        own="""
class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = {"encoder_embed_dim": 32, "encoder_attention_heads": 2, "encoder_ffn_embed_dim": 64, "encoder_layers": 2}
        config = EncoderConfig(vocab_size=40, no_output_layer=True, **sizes)
        self.encoder = Encoder(config, embed_tokens=nn.Embedding(40, 32))
        self.head = nn.Linear(32, 40)

    def forward(self, input_ids):
        return self.head(self.encoder(src_tokens=input_ids)["encoder_out"])
""",
    ),
    Entry(
        "x-transformers",
        "XTransformer's encoder and decoder",
        "from torch import nn\nfrom x_transformers import Decoder, Encoder, TransformerWrapper",
        "Translator()",
        seq2seq(),
        own="""
class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        layers = {"dim": 32, "depth": 1, "heads": 2, "attn_dim_head": 16}
        self.encoder = TransformerWrapper(num_tokens=40, max_seq_len=16, attn_layers=Encoder(**layers))
        self.decoder = TransformerWrapper(num_tokens=40, max_seq_len=16, attn_layers=Decoder(**layers, cross_attend=True))

    def forward(self, input_ids, decoder_input_ids):
        return self.decoder(decoder_input_ids, context=self.encoder(input_ids, return_embeddings=True))
""",
    ),
)
