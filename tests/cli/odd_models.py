"""Model files in styles that a reader of their code is used to and a program is not."""

from __future__ import annotations

HEAD = "import argparse\nimport torch\nfrom torch import nn\nimport torch.nn.functional as F\n"

_MLP = """
class Net(nn.Module):
    def __init__(self, {parameters}):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear({inputs}, 16), nn.ReLU(), nn.Linear(16, {outputs}))

    def forward(self, x):
        return self.layers(x)
"""


def mlp(parameters: str, inputs: str, outputs: str) -> str:
    return _MLP.format(parameters=parameters, inputs=inputs, outputs=outputs)


PARSES_AT_IMPORT = (
    HEAD
    + "parser = argparse.ArgumentParser()\nparser.add_argument('--width', type=int, default=9)\nargs = parser.parse_args()\n"
    + mlp("width=args.width", "width", "3")
)

PARSES_WHEN_BUILT = (
    HEAD
    + mlp("width, classes", "width", "classes")
    + """
def build_model():
    parser = argparse.ArgumentParser()
    parser.add_argument('--width', type=int, default=9)
    return Net(parser.parse_args().width, 3)
"""
)

REQUIRED_ARGUMENT = (
    HEAD
    + "parser = argparse.ArgumentParser()\nparser.add_argument('--data', required=True)\nargs = parser.parse_args()\n"
    + mlp("", "9", "3")
)

READS_REQUIRED_ARGUMENT = REQUIRED_ARGUMENT.replace("nn.Linear(9", "nn.Linear(args.data and 9")

READS_DATA = HEAD + mlp("", "WIDTH", "3") + "\nrows = open('train.csv').read()\nWIDTH = 9\nnet = Net()\n"

NAMESPACE = HEAD + "args = argparse.Namespace(width=9, classes=3)\n" + mlp("args", "args.width", "args.classes")

PARSER = (
    HEAD
    + mlp("opt", "opt.width", "opt.classes")
    + """
parser = argparse.ArgumentParser()
parser.add_argument('--width', type=int, default=9)
parser.add_argument('--classes', type=int, default=3)

if __name__ == "__main__":
    Net(parser.parse_args())
"""
)

CFG_NODE = (
    HEAD
    + """
class CfgNode(dict):
    def __getattr__(self, name):
        return self[name]

_C = CfgNode(MODEL=CfgNode(WIDTH=9, CLASSES=3))

def get_cfg_defaults():
    return CfgNode(_C)
"""
    + mlp("cfg", "cfg.MODEL.WIDTH", "cfg.MODEL.CLASSES")
)

DATACLASS = (
    HEAD
    + "from dataclasses import dataclass\n\n@dataclass\nclass Options:\n    width: int = 9\n    classes: int = 3\n"
    + mlp("hparams: Options", "hparams.width", "hparams.classes")
)

READS_SETTINGS = HEAD + mlp("config", "config.num_features", "getattr(config, 'num_classes', 3)")

MAIN_BLOCK = HEAD + mlp("foo, bar", "foo", "bar") + "\nif __name__ == '__main__':\n    print(Net(9, bar=3))\n"

CONSTANTS = HEAD + "FOO = 9\nBAR = 3\n" + mlp("foo, bar", "foo", "bar")

KERAS_LIKE = (
    HEAD
    + mlp("", "9", "3")
    + """
    def compile(self, optimizer, loss, metrics=None):
        self.optimizer = optimizer

    def fit(self, x, y):
        raise RuntimeError("not here")
"""
)

NO_FORWARD = (
    HEAD
    + "import lightning as L\n"
    + mlp("", "9", "3")
    + """
class Lit(L.LightningModule):
    def __init__(self, lr=1e-3):
        super().__init__()
        self.lr = lr
        self.net = Net()
        self.loss = nn.CrossEntropyLoss()

    def training_step(self, batch, batch_idx):
        return self.loss(self.net(batch["features"]), batch["labels"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)
"""
)

TRAINS_AT_IMPORT = (
    HEAD
    + mlp("", "9", "3")
    + """
def main():
    net = Net()
    for _ in range(10**9):
        net(torch.randn(2, 9)).sum().backward()

main()
"""
)

NEEDS_TRAINING = TRAINS_AT_IMPORT.replace("\nmain()\n", "\nNet.start = main()\n")

AUTOENCODER = (
    HEAD
    + """
class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(24, 6), nn.ReLU())
        self.decode = nn.Linear(6, 24)

    def forward(self, x):
        return self.decode(self.encode(x))
"""
)

IMAGE_TO_IMAGE = (
    HEAD
    + """
BUILT = []

class Denoise(nn.Module):
    def __init__(self):
        super().__init__()
        BUILT.append(self)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x):
        return self.layers(x)
"""
)

TWO_IMAGES = IMAGE_TO_IMAGE.replace("def forward(self, x):", "def forward(self, x, y, z):")

HIDDEN_STATES = (
    HEAD
    + """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.mix = nn.GRU(16, 16, batch_first=True)

    def forward(self, tokens):
        return self.mix(self.embed(tokens))[0]
"""
)

LENGTH_FIRST = (
    HEAD
    + """
class SeqFirst(nn.Module):
    def __init__(self, vocab_size=40, width=16):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, width)
        self.mix = nn.GRU(width, width)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, src):
        return self.head(self.mix(self.tok(src))[0])
"""
)

LENGTH_FIRST_TRANSLATOR = (
    HEAD
    + """
class Translator(nn.Module):
    def __init__(self, vocab_size=40, width=16):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, width)
        self.transformer = nn.Transformer(width, 2, 1, 1, 32)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, src, tgt):
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(0))
        return self.head(self.transformer(self.tok(src), self.tok(tgt), tgt_mask=mask))
"""
)

TARGETS = (
    HEAD
    + """
class Small(nn.Module):
    def __init__(self, vocab_size=40, max_len=16, width=16):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, width)
        self.pos = nn.Embedding(max_len, width)
        self.mix = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, idx, targets=None):
        x = self.tok(idx) + self.pos(torch.arange(idx.shape[1], device=idx.device))
        x, _ = self.mix(x)
        if targets is None:
            return self.head(x[:, -1:]), None
        logits = self.head(x)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.reshape(-1))
"""
)


def flattening(side: int) -> str:
    """A convolutional net for images of one side only."""
    width = 4 * ((side - 2) // 2) ** 2
    return (
        HEAD
        + f"""
CALLS = []

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear({width}, 5)

    def forward(self, x):
        CALLS.append(x.shape[-1])
        return self.head(F.max_pool2d(self.conv(x), 2).flatten(1))
"""
    )


VAST = (
    HEAD
    + "from dataclasses import dataclass\n\n@dataclass\nclass Options:\n    width: int = 100_000\n"
    + mlp("options: Options", "options.width", "3").replace(
        "nn.Linear(options.width, 16)", "nn.Linear(options.width, options.width), nn.Linear(options.width, 16)"
    )
)

CLASS_METHOD = (
    HEAD
    + mlp("blocks", "blocks[0]", "3")
    + """
    @classmethod
    def from_name(cls, name="small"):
        return cls([9])
"""
).replace("def __init__(self, blocks):", "def __init__(self, blocks=None):")

REQUIRED_SETTINGS = (
    HEAD
    + "from dataclasses import dataclass\n\n@dataclass\nclass ModelArgs:\n    d_model: int\n    classes: int = 3\n"
    + "    def __post_init__(self):\n        self.inner = 2 * self.d_model\n"
    + mlp("args: ModelArgs", "args.inner", "args.classes")
)

MIXER = (
    HEAD
    + """
class Patches(nn.Module):
    def __init__(self, patch):
        super().__init__()
        self.patch = patch

    def forward(self, x):
        return x.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)

def helper(x):
    return x if isinstance(x, tuple) else (x, x)

class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)

def Mixer(*, image_size, channels, patch_size, dim, num_classes):
    return nn.Sequential(Patches(patch_size), nn.Linear(channels * patch_size**2, dim), Mean(), nn.Linear(dim, num_classes))
"""
)
