"""Models that change the process they run in, each in one line of its forward, its constructor or its file."""

from __future__ import annotations

WAYS = {
    "grad_mode": "torch.set_grad_enabled(False)",
    "inference_mode": "KEPT.append(torch.inference_mode()); KEPT[-1].__enter__()",
    "default_dtype": "torch.set_default_dtype(torch.float64)",
    "default_device": "torch.set_default_device('meta')",
    "deterministic_algorithms": "torch.use_deterministic_algorithms(True)",
    "threads": "torch.set_num_threads(3)",
    "random_numbers": "torch.manual_seed(0); random.seed(0); numpy.random.seed(0)",
    "autocast": "torch.set_autocast_enabled('cpu', True)",
    "anomaly_detection": "torch.autograd.set_detect_anomaly(True)",
    "precision": "torch.set_float32_matmul_precision('medium')",
    "denormals": "torch.set_flush_denormal(True)",
    "backends": "torch.backends.mkldnn.set_flags(False)",
    "saved_tensors": "KEPT.append(torch.autograd.graph.saved_tensors_hooks(lambda t: t * 0, lambda t: t)); KEPT[-1].__enter__()",
    "function_mode": "KEPT.append(Doubling()); KEPT[-1].__enter__()",
    "warning_filters": "warnings.simplefilter('error')",
    "forward_hooks": "nn.modules.module.register_module_forward_hook(lambda m, i, o: o * 1.5 if torch.is_tensor(o) else o)",
    "forward_pre_hooks": "nn.modules.module.register_module_forward_pre_hook(refuse)",
    "parameter_hooks": "nn.modules.module.register_module_parameter_registration_hook(refuse)",
    "current_folder": "os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())",
    "environment": "os.environ.clear()",
    "path": "sys.path.clear()",
    "modules": "sys.modules['copy'] = sys.modules['math'] = None",
    "import_hooks": "sys.meta_path.insert(0, NoImports())",
    "signal_handlers": "signal.signal(signal.SIGALRM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "function": "nn.functional.linear = lambda x, w, b=None: x.sum() * w.sum()",
    "method": "nn.Linear.forward = lambda self, x: x.new_ones(*x.shape[:-1], self.out_features)",
    "tensor_method": "torch.Tensor.detach = lambda self: self * 2",
    "builtin": "builtins.sorted = lambda x, **k: list(x)",
    "logging": "logging.disable(logging.CRITICAL); logging.root.handlers.clear()",
    "streams": "sys.stdout = io.StringIO(); sys.stderr = None",
    "numpy_errors": "numpy.seterr(all='raise')",
    "recursion_limit": "sys.setrecursionlimit(400)",
    "tracing": "sys.setprofile(lambda *a: None)",
    "garbage_collector": "gc.disable()",
    "umask": "os.umask(0o777)",
    "closed_stdout": "sys.stdout.close()",
    "closed_stderr": "sys.stderr.close()",
    "descriptor": "os.close(1)",
    "descriptors": "os.closerange(0, 3)",
    "other_descriptor": "os.dup2(os.open(os.devnull, os.O_WRONLY), 2)",
    "printed_tensors": "torch.set_printoptions(precision=2, sci_mode=True)",
    "printed_arrays": "numpy.set_printoptions(precision=2, suppress=True)",
    "locale": "locale.setlocale(locale.LC_ALL, 'C.UTF-8')",
    "decimals": "decimal.getcontext().prec = 5",
}
"""What a model changes, and the line that does it."""

HEAD = """\
import builtins, decimal, gc, io, locale, logging, os, random, signal, sys, tempfile, warnings
import numpy, torch
from torch import nn
from torch.overrides import TorchFunctionMode

KEPT = []

class Doubling(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        return out * 1.01 if torch.is_tensor(out) and out.is_floating_point() else out

class NoImports:
    def find_spec(self, name, path=None, target=None):
        raise ImportError(f"no {name}")

def refuse(*args):
    raise RuntimeError("refused")
"""

BODY = """
class Model(nn.Module):
    def __init__(self, vocab_size=32, width=16):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, input_ids):
        x = self.head(self.embed(input_ids))
        FORWARD
        return x

def build_model(**kwargs):
    model = Model(**kwargs)
    FACTORY
    return model

IMPORT
"""

SOUND = """\
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, vocab_size=32, width=16):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, input_ids):
        x = self.embed(input_ids)
        mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None].to(x.dtype)
        return self.head(self.norm(x + nn.functional.gelu(self.mix(mean))))

def build_model(**kwargs):
    return Model(**kwargs)
"""
"""A model that uses much of what others change."""


def meddler(way: str, place: str = "FORWARD") -> str:
    """A model that changes its process where it is called, built (``FACTORY``) or imported (``IMPORT``)."""
    lines = {name: WAYS[way] if name == place else "pass" for name in ("FORWARD", "FACTORY", "IMPORT")}
    body = BODY
    for name, line in lines.items():
        body = body.replace(name, line)
    return HEAD + body
