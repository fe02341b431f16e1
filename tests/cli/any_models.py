"""Model files of tasks that no task type names, as people write them."""

from __future__ import annotations

HEAD = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n\n"

U_NET = (
    HEAD
    + """
def block(a, b):
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True))

class UNet(nn.Module):
    def __init__(self, in_channels=1, n_classes=2, base=4):
        super().__init__()
        self.down1, self.down2 = block(in_channels, base), block(base, 2 * base)
        self.up, self.last = nn.ConvTranspose2d(2 * base, base, 2, 2), block(2 * base, base)
        self.out = nn.Conv2d(base, n_classes, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        return self.out(self.last(torch.cat([a, self.up(b)], dim=1)))
"""
)

CLICKS = (
    HEAD
    + """
class DeepFM(nn.Module):
    def __init__(self, field_dims=[10, 6, 4], n_dense=3, width=4):
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(n, width) for n in field_dims])
        self.mlp = nn.Sequential(nn.Linear(len(field_dims) * width + n_dense, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, sparse, dense):
        e = [table(sparse[:, i]) for i, table in enumerate(self.embeddings)]
        return torch.sigmoid(self.mlp(torch.cat(e + [dense], dim=1))).squeeze(1)
"""
)

NODES = (
    HEAD
    + """
class GCN(nn.Module):
    def __init__(self, num_features=6, num_classes=3):
        super().__init__()
        self.lin = nn.Linear(num_features, num_classes)

    def forward(self, x, edge_index):
        row, col = edge_index
        h = self.lin(x)
        return h + torch.zeros_like(h).index_add_(0, col, h[row])
"""
)

MATCHES = (
    HEAD
    + """
class NeuralCF(nn.Module):
    def __init__(self, n_users=50, n_items=80, dim=8):
        super().__init__()
        self.users, self.items = nn.Embedding(n_users, dim), nn.Embedding(n_items, dim)
        self.out = nn.Linear(dim, 1)

    def forward(self, user, item):
        return torch.sigmoid(self.out(self.users(user) * self.items(item))).squeeze(-1)
"""
)

DENOISER = (
    HEAD
    + """
class Denoiser(nn.Module):
    def __init__(self, channels=1, width=8, steps=50):
        super().__init__()
        self.time = nn.Embedding(steps, width)
        self.first, self.last = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x, t):
        return self.last(F.silu(self.first(x) + self.time(t)[:, :, None, None]))
"""
)

POLICY = (
    HEAD
    + """
class ActorCritic(nn.Module):
    def __init__(self, obs_dim=8, n_actions=4):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(obs_dim, 16), nn.Tanh())
        self.actor, self.critic = nn.Linear(16, n_actions), nn.Linear(16, 1)

    def forward(self, obs):
        hidden = self.body(obs)
        return F.softmax(self.actor(hidden), dim=-1), self.critic(hidden).squeeze(-1)
"""
)

BOXES = (
    HEAD
    + """
from dataclasses import dataclass

@dataclass
class Detections:
    logits: torch.Tensor
    boxes: torch.Tensor

class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.scores, self.places = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, batch):
        hidden = F.relu(self.body(batch["image"])).flatten(2).mean(2)
        return Detections(self.scores(hidden), self.places(hidden).sigmoid())
"""
)

EXAMPLE = (
    HEAD
    + """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Sequential(nn.Conv1d(4, 8, 5, padding=2), nn.ReLU(), nn.Conv1d(8, 2, 1))

    def forward(self, signal):
        return self.mix(signal)

if __name__ == "__main__":
    length = 48
    net = Encoder().to("cpu")
    print(net(torch.randn(2, 4, length)).shape)
"""
)

SHAPED = (
    HEAD
    + """
class Summary(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 7)

    def forward(self, series):
        # series: [B, time, 5]
        return self.layer(series).mean(1, keepdim=True)
"""
)

OBJECT = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, data):
        return self.layer(data.messages("edges"))
"""
)

RUNS_AT_10 = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x, mask=None):
        if x.shape[1] != 10 or x.ndim != 3:
            raise RuntimeError("bad input")
        out = self.layer(x)
        return out if mask is None else out * mask[..., None]
"""
)

TEXT = (
    HEAD
    + """
class {name}(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.head = nn.Linear(16, 40)

    def forward(self, ids):
        x = self.embed(ids)
        x = {attend}
        return self.head(x.tanh())
"""
)

AGENT = (
    HEAD
    + """
from torch.distributions import Categorical


class Agent(nn.Module):
    def __init__(self, obs_dim=6, n_actions=3):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(obs_dim, 16), nn.Tanh(), nn.Linear(16, 1))
        self.actor = nn.Sequential(nn.Linear(obs_dim, 16), nn.Tanh(), nn.Linear(16, n_actions))

    def get_value(self, x):
        return self.critic(x)

    def get_action_and_value(self, x, action=None):
        probs = Categorical(logits=self.actor(x))
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)
"""
)

NEEDS_A_GPU = (
    HEAD
    + """
class Denoiser(nn.Module):
    def __init__(self, channels, width=8, device="cuda"):
        super().__init__()
        self.device = device
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x, t):
        phase = t[:, None, None, None] * torch.ones(1, device=self.device)
        return self.last(F.silu(self.first(x)) + phase.sin())


if __name__ == "__main__":
    channels, width = 5, 4
    net = Denoiser(channels, width)
    x = torch.randn(3, channels, 16, 16)
    t = x.new_tensor([500] * x.shape[0]).long()
    print(net(x, t).shape)
"""
)

STEPPED = (
    HEAD
    + """
class CharRNN(nn.Module):
    def __init__(self, vocab=30, width=12):
        super().__init__()
        self.width = width
        self.embed = nn.Embedding(vocab, width)
        self.gru = nn.GRU(width, width)
        self.head = nn.Linear(width, vocab)

    def forward(self, ids, hidden):
        out, hidden = self.gru(self.embed(ids)[None], hidden)
        return self.head(out[0]), hidden

    def init_hidden(self, batch):
        return torch.zeros(1, batch, self.width)
"""
)

SETTINGS = (
    HEAD
    + """
class Mixer(nn.Module):
    def __init__(self, spam, eggs):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(spam, eggs), nn.ReLU(), nn.Linear(eggs, spam))

    def forward(self, x):
        return self.net(x)
"""
)

OPEN_SETTINGS = (
    HEAD
    + """
class Settings:
    def __init__(self, **kwargs):
        self.__dict__.update(kwargs)


class TokenModel(nn.Module):
    @staticmethod
    def get_default_config():
        return Settings(model_type="huge", n_embd=None, vocab_size=None, spam=3)

    def __init__(self, config):
        super().__init__()
        assert config.vocab_size is not None
        assert (config.model_type is None) == (config.n_embd is not None)
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.head = nn.Linear(config.n_embd, config.spam)

    def forward(self, ids):
        return self.head(self.embed(ids).mean(1))
"""
)
