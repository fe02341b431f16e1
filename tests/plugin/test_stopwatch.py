"""How soon a newcomer knows: the first verdict and the first true finding on five broken models of about a million parameters.

What is measured is the processor time of the run, imports and the search for a call included, which a busy machine does not change.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest

FIRST_VERDICT = 10.0
FIRST_FINDING = 30.0
"""Seconds of processor time."""

LEAKING_GPT = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width, heads, max_len):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.register_buffer("mask", torch.ones(max_len, max_len).triu(2).bool(), persistent=False)

    def attend(self, x):
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=-1))
        scores = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).masked_fill(self.mask[:t, :t], float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

class GPT(nn.Module):
    def __init__(self, vocab_size=1000, block_size=128, n_embd=128, n_layer=4, n_head=4):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*(Block(n_embd, n_head, block_size) for _ in range(n_layer)))
        self.head = nn.Linear(n_embd, vocab_size)

    def forward(self, idx):
        return self.head(self.blocks(self.tokens(idx) + self.positions(torch.arange(idx.shape[1], device=idx.device))))
"""

CONVNET = """
import torch.nn.functional as F
from torch import nn

class ConvNet(nn.Module):
    def __init__(self, num_classes=10, width=64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(4 * width, 4 * width, 3, stride=2, padding=1)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = F.relu(self.conv4(F.relu(self.conv3(x)))).mean((2, 3))
        return self.fc(x)
"""
DROPOUT_IN_EVAL = CONVNET.replace("return self.fc(x)", "return self.fc(F.dropout(x, 0.3))")
WRONG_SHAPE = CONVNET.replace("return self.fc(x)", "return self.fc(x).squeeze()")

DETACHED_BRANCH = """
import torch
from torch import nn

class TwoBranches(nn.Module):
    def __init__(self, vocab_size=4000, width=128, num_classes=4):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width)
        self.deep = nn.GRU(width, 2 * width, batch_first=True)
        self.wide = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, width))
        self.classifier = nn.Linear(3 * width, num_classes)

    def forward(self, input_ids):
        x = self.embed(input_ids)
        deep, _ = self.deep(x)
        return self.classifier(torch.cat([deep.mean(1), self.wide(x.mean(1)).detach()], dim=-1))
"""

DOUBLE_SOFTMAX = """
from torch import nn

class MLP(nn.Module):
    def __init__(self, in_features=784, hidden=768, num_classes=10):
        super().__init__()
        layers = [nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)]
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x).softmax(-1)
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processor time of another process is read from /proc")
@pytest.mark.parametrize(
    ("model", "finding"),
    [
        (LEAKING_GPT, "causal"),
        (DROPOUT_IN_EVAL, "eval_deterministic"),
        (WRONG_SHAPE, "shape_contract"),
        (DETACHED_BRANCH, "gradient_flow"),
        (DOUBLE_SOFTMAX, "logit_range"),
    ],
    ids=["leaking_gpt", "dropout_in_eval", "wrong_shape", "detached_branch", "double_softmax"],
)
def test_the_first_verdict_and_the_first_finding_come_soon(
    model: str, finding: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    (tmp_path / "model.py").write_text(model)

    verdict, found, said = times_of(tmp_path, r"[1-9]\d* of \d+ tests|FAIL", rf"FAIL {finding}")

    record_property("processor_seconds", f"{verdict:.1f} to the first verdict, {found:.1f} to the first finding")
    assert verdict < FIRST_VERDICT, said
    assert found < FIRST_FINDING, said


def times_of(folder: Path, *patterns: str) -> tuple[float, float, str]:
    """Processor seconds until a run of ``pytest --model model.py`` in a terminal of 80 columns has printed each pattern, and all it printed."""
    import pty

    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS")}
    environment |= {"COLUMNS": "80", "TERM": "xterm", "MODELTIERS_CACHE": str(folder / "cache")}
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover
        os.chdir(folder)
        os.execve(sys.executable, [sys.executable, "-m", "pytest", "--model", "model.py", "-p", "no:cacheprovider"], environment)
    said, times, began = "", dict[str, float](), time.monotonic()
    try:
        while len(times) < len(patterns) and time.monotonic() - began < 300:
            if select.select([terminal], [], [], 5)[0]:
                said += os.read(terminal, 1 << 16).decode(errors="replace")
            plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
            for pattern in patterns:
                if pattern not in times and re.search(pattern, plain):
                    times[pattern] = processor_seconds_of(process)
    except OSError:  # the run has ended
        pass
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)
    first, second = (times.get(pattern, float("inf")) for pattern in patterns)
    return first, second, said


def processor_seconds_of(process: int) -> float:
    """Processor time of a process, of its children that have ended, and of those that run, as a run is a fork of what was started."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        children = [each for task in Path(f"/proc/{process}/task").iterdir() for each in (task / "children").read_text().split()]
    except FileNotFoundError:  # it has just ended
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(processor_seconds_of(int(child)) for child in children)
