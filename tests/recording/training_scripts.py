"""Training scripts as people write them, small; each is run as it is."""

NET = """\
import argparse, sys, torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width, classes=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        return self.layers(x)

def step(model, optimizer, rows=8):
    loss = nn.functional.cross_entropy(model(torch.randn(rows, 4)), torch.randint(3, (rows,)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""

LOOP = f"""{NET}
parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, required=True)
model = Net(parser.parse_args().width)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.1)
for number in range(1000):
    step(model, optimizer, 8 if number < 2 else 5)
raise RuntimeError("never reached")
"""

SETTINGS = """\
import argparse, torch
from torch import nn

class Net(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, args.width), nn.Tanh(), nn.Linear(args.width, 2))

    def forward(self, x):
        return self.layers(x)

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=5)
model = Net(parser.parse_args())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(4):
    loss = nn.L1Loss()(model(torch.randn(8, 4)), torch.randn(8, 2))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""

GUARDED = f"""{NET}
if __name__ == "__main__":
    model = Net(5)
    step(model, torch.optim.AdamW(model.parameters()))
    sys.exit(3)
"""

CRASHES = f"""{NET}
model = Net(5)
optimizer = torch.optim.AdamW(model.parameters())
step(model, optimizer)
raise ValueError("no more data")
"""

COMPILED = f"""{NET}
model = torch.compile(Net(5))
step(model, torch.optim.AdamW(model.parameters()))
"""

PARALLEL = f"""{NET}
model = nn.DataParallel(Net(5))
step(model, torch.optim.AdamW(model.parameters()))
"""

DISTRIBUTED = f"""{NET}
import os
import torch.distributed as dist
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
model = nn.parallel.DistributedDataParallel(Net(5))
step(model, torch.optim.AdamW(model.parameters()))
"""

INFERENCE = f"""{NET}
model = Net(5).eval()
with torch.no_grad():
    while True:
        model(torch.randn(8, 4))
"""

ENDLESS = f"""{NET}
import time
model = Net(5)
step(model, torch.optim.AdamW(model.parameters()))
open("waits", "w").close()
time.sleep(60)
"""

GAN = """\
import torch
from torch import nn

class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6), nn.Tanh())

    def forward(self, z):
        return self.net(z)

class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def forward(self, x):
        return self.net(x)

generator, critic = Generator(), Critic()
of_generator, of_critic = (torch.optim.Adam(each.parameters(), lr=2e-4) for each in (generator, critic))
loss = nn.BCEWithLogitsLoss()
for _ in range(9):
    fake = generator(torch.randn(8, 4))
    of_critic.zero_grad()
    (loss(critic(torch.randn(8, 6)), torch.ones(8, 1)) + loss(critic(fake.detach()), torch.zeros(8, 1))).backward()
    of_critic.step()
    of_generator.zero_grad()
    loss(critic(fake), torch.ones(8, 1)).backward()
    of_generator.step()
"""

TEACHER = f"""{NET}
teacher, student = Net(50).eval().requires_grad_(False), Net(5)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
for _ in range(9):
    x = torch.randn(8, 4)
    with torch.no_grad():
        soft = teacher(x).softmax(-1)
    loss = nn.functional.kl_div(student(x).log_softmax(-1), soft, reduction="batchmean")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""

LIGHTNING = """\
import torch
import lightning.pytorch as pl
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Inner(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(sizes[0], 6), nn.Tanh(), nn.Linear(6, sizes[1]))

    def forward(self, x):
        return self.net(x)

class Lit(pl.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net, self.loss = net, nn.L1Loss()

    def training_step(self, batch, _):
        x, y = batch
        return self.loss(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    rows = TensorDataset(torch.randn(40, 4), torch.randn(40, 2))
    trainer = pl.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.fit(Lit(Inner((4, 2))), DataLoader(rows, batch_size=16))
"""

OWN_TRAINER = f"""{NET}
class Tagger(Net):
    def forward(self, features, labels=None):
        scores = self.layers(features)
        loss = None if labels is None else nn.functional.cross_entropy(scores, labels)
        return {{"loss": loss, "logits": scores}}

class Trainer:
    def __init__(self, model, rows):
        self.model, self.rows = model, rows
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)

    def training_step(self, inputs):
        loss = self.model(**inputs)["loss"]
        loss.backward()
        return loss.detach()

    def train(self):
        for inputs in self.rows:
            self.training_step(inputs)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()

if __name__ == "__main__":
    Trainer(Tagger(7), [dict(features=torch.randn(8, 4), labels=torch.randint(3, (8,)))] * 5).train()
"""

HEADS = """\
import torch
from torch import nn
from torch.nn import functional as F

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, x):
        hidden = torch.relu(self.body(x))
        return {"kind": self.kind(hidden), "size": self.size(hidden)}

model = Heads()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(4):
    out, kind, size = model(torch.randn(8, 4)), torch.randint(3, (8,)), torch.randn(8, 2)
    log = F.mse_loss(out["size"], size)  # only printed
    loss = LOSS
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
"""A model with two heads; what stands for ``LOSS`` is what it is trained by."""

LENGTHS = """\
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

class Last(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gru, self.out = nn.GRU(dim, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, batch):
        x, n = batch
        h, _ = self.gru(x)
        return self.out(READ).squeeze(-1)

model = Last(5)
for rows in ((7, 3, 2), (9, 4), (4, 4, 1)):
    x = pad_sequence([torch.randn(count, 5) for count in rows], batch_first=True)
    model((x, torch.tensor(rows)))
"""
"""A model of sequences with their lengths, which no name says; ``READ`` is what it reads."""

MASKED = """\
import torch
from torch import nn

class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(30, 6), nn.Linear(6, 2)

    def forward(self, ids, real, kind):
        h = self.table(ids) * real[..., None]
        return self.out(h.sum(1) / real.sum(1, keepdim=True)) * (1 + kind[:, None])

model = Mean()
for rows in ((7, 3, 2), (9, 4), (4, 4, 1)):
    real = (torch.arange(max(rows))[None] < torch.tensor(rows)[:, None]).long()
    model(torch.randint(30, real.shape), real, torch.randint(1, 4, (len(rows),)))
"""
"""Ids, a mask that no name says, and numbers that are no lengths though none is larger than a row."""
