"""Model files as people write them: none knows of this project."""

from __future__ import annotations

HEAD = "import math\nimport torch\nfrom torch import nn\nimport torch.nn.functional as F\n"

NANO_GPT = (
    HEAD
    + '''
from dataclasses import dataclass

class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm = nn.LayerNorm(config.n_embd)
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.out = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))

@dataclass
class GPTConfig:
    block_size: int = 24
    vocab_size: int = 50
    n_layer: int = 2
    n_embd: int = 16

class GPT(nn.Module):
    """Without targets it gives the logits of the last position alone."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, idx, targets=None):
        x = self.wte(idx) + self.wpe(torch.arange(idx.size(1), device=idx.device))
        for block in self.h:
            x = block(x)
        if targets is None:
            return self.lm_head(x[:, [-1], :]), None
        logits = self.lm_head(x)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.reshape(-1), ignore_index=-1)
'''
)

ENCODER = (
    HEAD
    + """
class PositionalEncoding(nn.Module):
    def __init__(self, d_model, max_len=48):
        super().__init__()
        angles = torch.arange(max_len)[:, None] * torch.exp(torch.arange(0, d_model, 2) * (-math.log(1e4) / d_model))
        self.register_buffer("pe", torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[None])

    def forward(self, x):
        return x + self.pe[:, : x.size(1)]

class TextClassifier(nn.Module):
    def __init__(self, vocab_size, num_classes, d_model=32, nhead=4):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model, padding_idx=0)
        self.positions = PositionalEncoding(d_model)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(d_model, nhead, 64, batch_first=True), 1)
        self.fc = nn.Linear(d_model, num_classes)

    def forward(self, tokens, attention_mask=None):
        padded = None if attention_mask is None else attention_mask == 0
        return self.fc(self.encoder(self.positions(self.embedding(tokens)), src_key_padding_mask=padded)[:, 0])
"""
)

LENET = (
    HEAD
    + """
class LeNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc = nn.Linear(16 * 5 * 5, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.fc(F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1))

def train():
    raise SystemExit("would take hours")

def load_data(path="data.csv"):
    return open(path).read()

if __name__ == "__main__":
    train()
"""
)

VIT = (
    HEAD
    + """
class Patches(nn.Module):
    def __init__(self, patch, dim):
        super().__init__()
        self.unfold = nn.Unfold(patch, stride=patch)
        self.proj = nn.Linear(3 * patch * patch, dim)

    def forward(self, x):
        return self.proj(self.unfold(x).transpose(1, 2))

class ViT(nn.Module):
    def __init__(self, image_size=48, patch_size=16, num_classes=7, dim=16):
        super().__init__()
        self.patches = Patches(patch_size, dim)
        self.position = nn.Parameter(torch.randn(1, (image_size // patch_size) ** 2, dim) * 0.02)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, img):
        return self.head((self.patches(img) + self.position).tanh().mean(1))
"""
)

TABLE_TRANSFORMER = (
    HEAD
    + """
class FTTransformer(nn.Module):
    def __init__(self, num_features=8, num_classes=3, dim=16):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_features, dim) * 0.1)
        self.bias = nn.Parameter(torch.zeros(num_features, dim))
        self.cls = nn.Parameter(torch.randn(1, 1, dim) * 0.1)
        self.layer = nn.TransformerEncoderLayer(dim, 2, 32, batch_first=True)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, features):
        x = features[..., None] * self.weight + self.bias
        return self.head(self.layer(torch.cat([self.cls.expand(len(x), -1, -1), x], 1))[:, 0])
"""
)

MLP = (
    HEAD
    + """
def make_mlp(in_features, hidden, num_classes):
    return nn.Sequential(nn.BatchNorm1d(in_features), nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
"""
)

HOUSE_PRICES = (
    HEAD
    + """
class HousePrices(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(24, 1)
        self.body = nn.Sequential(nn.Linear(13, 24), nn.ReLU())

    def forward(self, inputs):
        return self.head(self.body(inputs)).squeeze(-1)
"""
)

TRANSLATOR = (
    HEAD
    + """
class Translator(nn.Module):
    def __init__(self, vocab_size, d_model=16, nhead=2, max_len=40):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.position = nn.Embedding(max_len, d_model)
        self.transformer = nn.Transformer(d_model, nhead, 1, 1, 32, batch_first=True)
        self.generator = nn.Linear(d_model, vocab_size)

    def embedded(self, ids):
        return self.embed(ids) + self.position(torch.arange(ids.size(1), device=ids.device))

    def forward(self, src, tgt):
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1), device=tgt.device)
        return self.generator(self.transformer(self.embedded(src), self.embedded(tgt), tgt_mask=mask))
"""
)

LIGHTNING = (
    HEAD
    + """
import lightning as L

class Net(nn.Module):
    def __init__(self, n_in=20, n_out=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_in, 32), nn.ReLU(), nn.Linear(32, n_out))

    def forward(self, x):
        return self.layers(x)

class LitNet(L.LightningModule):
    def __init__(self, lr=1e-3):
        super().__init__()
        self.save_hyperparameters()
        self.net = Net()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["features"]), batch["labels"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
"""
)

ROBERTA = """
from transformers import RobertaConfig, RobertaForSequenceClassification

class TinyConfig(RobertaConfig):
    def __init__(self, **kwargs):
        sizes = dict(vocab_size=120, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        super().__init__(**{**sizes, "max_position_embeddings": 34, "num_labels": 3, **kwargs})

class Classifier(RobertaForSequenceClassification):
    config_class = TinyConfig

    def __init__(self, config: TinyConfig):
        super().__init__(config)
"""

TAGGER = (
    HEAD
    + """
class Tagger(nn.Module):
    def __init__(self, embedding_dim, hidden_dim, vocab_size, tagset_size=9):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, batch_first=True, bidirectional=True)
        self.hidden2tag = nn.Linear(2 * hidden_dim, tagset_size)

    def forward(self, sentence):
        return {"logits": self.hidden2tag(self.lstm(self.word_embeddings(sentence))[0])}
"""
)

SEVERAL = (
    HEAD
    + """
class FocalLoss(nn.Module):
    def forward(self, inputs, targets):
        return ((inputs - targets) ** 2).mean()

class Conv(nn.Module):
    def __init__(self, before=3, after=8):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu()

class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = Conv(), nn.Linear(8, 5)

    def forward(self, image):
        return self.head(self.conv(image).mean((2, 3)))

class BigNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = Conv(), Conv(8, 16), nn.Linear(16, 6)

    def forward(self, image):
        return self.head(self.second(self.first(image)).mean((2, 3)))

class DiceLoss(FocalLoss):
    pass
"""
)

DIGITS_MLP = (
    HEAD
    + """
build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 16), nn.ReLU(), nn.Linear(16, 10))
"""
)

NO_DEFAULTS = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self, foo, bar):
        super().__init__()
        self.layer = nn.Linear(foo, bar)

    def forward(self, x):
        return self.layer(x)
"""
)

NO_NUMBERS = NO_DEFAULTS.replace(
    "nn.Linear(foo, bar)", "nn.Sequential(*(nn.Linear(*sizes) for sizes in foo), nn.Linear(bar, bar))"
)

GRAPH = (
    HEAD
    + """
class GCN(nn.Module):
    def __init__(self, in_dim=8, out_dim=3):
        super().__init__()
        self.layer = nn.Linear(in_dim, out_dim)

    def forward(self, x, edge_index):
        return self.layer(torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]]))
"""
)

PACKED = (
    HEAD
    + """
class Packed(nn.Module):
    def __init__(self, vocab_size=50):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(vocab_size, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, tokens, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.rnn(packed)[1][-1])
"""
)

HOSTILE = (
    HEAD
    + """
class Hostile(nn.Module):
    def named_modules(self, *args, **kwargs):
        raise ValueError("keep out")

    def forward(self, x):
        return x
"""
)

ONE_SCORE = (
    HEAD
    + """
class Age(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 1)

    def forward(self, image):
        return self.head(self.conv(image).relu().mean((2, 3)))
"""
)
