"""Files that are to run code, or to take more than they hold, when they are loaded: each is written, and loaded the way this project does.

An attempt is through where its mark appears, or where the loader accepts what it must refuse.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.readers.npz import read_npz
from harness.errors import UserError
from harness.export.onnx import read as read_onnx
from harness.models.weights import read_state
from harness.repro.bundle import MANIFEST, open_bundle

_CALLS = {
    # module, name, arguments: M is the mark
    "open": ("io", "open", ("M", "w")),
    "builtins_open": ("builtins", "open", ("M", "w")),
    "system": ("os", "system", ("touch M",)),
    "posix_system": ("posix", "system", ("touch M",)),
    "popen": ("os", "popen", ("touch M",)),
    "mkdir": ("os", "mkdir", ("M",)),
    "makedirs": ("os", "makedirs", ("M",)),
    "posix_mkdir": ("posix", "mkdir", ("M",)),
    "spawn": ("os", "spawnlp", (0, "touch", "touch", "M")),
    "subprocess_run": ("subprocess", "run", (["touch", "M"],)),
    "subprocess_popen": ("subprocess", "Popen", (["touch", "M"],)),
    "check_output": ("subprocess", "check_output", (["touch", "M"],)),
    "getoutput": ("subprocess", "getoutput", ("touch M",)),
    "eval": ("builtins", "eval", ("open('M', 'w')",)),
    "exec": ("builtins", "exec", ("open('M', 'w')",)),
    "import": ("builtins", "__import__", ("os",)),
    "getattr": ("builtins", "getattr", ("x", "upper")),
    "compile": ("builtins", "compile", ("1", "M", "eval")),
    "runpy": ("runpy", "_run_code", ("open('M', 'w')", {})),
    "timeit": ("timeit", "timeit", ("open('M', 'w')", "pass", None, 1)),
    "profile": ("cProfile", "run", ("open('M', 'w')",)),
    "code": ("code", "interact", ()),
    "pdb": ("pdb", "run", ("open('M', 'w')",)),
    "bdb": ("bdb", "Bdb", ()),
    "doctest": ("doctest", "debug_script", ("open('M', 'w')",)),
    "ctypes": ("ctypes", "CDLL", (None,)),
    "webbrowser": ("webbrowser", "open", ("file:///nowhere-here",)),
    "pty": ("pty", "spawn", (["touch", "M"],)),
    "shutil": ("shutil", "copyfile", ("/etc/hostname", "M")),
    "logging": ("logging", "FileHandler", ("M",)),
    "tempfile": ("tempfile", "mkdtemp", ("", "x", "D")),
    "zipfile": ("zipfile", "ZipFile", ("M", "w")),
    "tarfile": ("tarfile", "open", ("M", "w")),
    "gzip": ("gzip", "open", ("M", "w")),
    "sqlite": ("sqlite3", "connect", ("M",)),
    "pathlib_touch": ("pathlib", "Path.touch", ("M",)),
    "import_module": ("importlib", "import_module", ("antigravity_not_there",)),
    "attrgetter": ("operator", "attrgetter", ("system",)),
    "methodcaller": ("operator", "methodcaller", ("upper",)),
    "partial": ("functools", "partial", (print,)),
    "reduce": ("functools", "reduce", (print, [])),
    "socket": ("socket", "create_connection", (("127.0.0.1", 9), 0.1)),
    "urlopen": ("urllib.request", "urlopen", ("file:///etc/hostname",)),
    "pip": ("pip", "main", (["--version"],)),
    "signal": ("signal", "raise_signal", (0,)),
    "sys_exit": ("sys", "exit", (3,)),
    "os_exit": ("os", "_exit", (3,)),
    "abort": ("os", "abort", ()),
    "memmap": ("numpy", "memmap", ("M", "uint8", "w+", 0, (4,))),
    "numpy_save": ("numpy", "save", ("M", 1)),
    "numpy_runstring": ("numpy.testing._private.utils", "runstring", ("open('M', 'w')", {})),
    "torch_save": ("torch", "save", (1, "M")),
    "torch_load": ("torch", "load", ("M",)),
    "torch_hub": ("torch.hub", "load", ("nowhere", "nothing")),
    "torch_from_file": ("torch", "from_file", ("M", True, 4)),
    "torch_os": ("torch.serialization", "os.system", ("touch M",)),
    "torch_extension": ("torch.utils.cpp_extension", "load_inline", ("x", "")),
    "torch_jit": ("torch.jit", "load", ("M",)),
    "torch_library": ("torch.ops", "load_library", ("M",)),
    "torch_unsafe": ("torch.storage", "_load_from_bytes", (b"",)),
    "torch_eval": ("torch.fx.graph_module", "_forward_from_src", ("def forward(self): open('M', 'w')", {})),
    "collect_env": ("torch.utils.collect_env", "run", ("touch M",)),
    "inductor": ("torch._inductor.codecache", "compile_file", ("M", "M", ["touch", "M"])),
    "setattr": ("builtins", "setattr", (1, "x", 1)),
    "delattr": ("builtins", "delattr", (1, "x")),
    "globals": ("builtins", "globals", ()),
    "breakpoint": ("builtins", "breakpoint", ()),
}


class _Call:
    """Unpickled, it is a call."""

    def __init__(self, module: str, name: str, arguments: tuple[Any, ...]) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def pickled(self) -> bytes:
        """Protocol 2: the function by name, its arguments, and the call."""
        found = pickle.GLOBAL + f"{self.module}\n{self.name}\n".encode()
        arguments = pickle.dumps(self.arguments, 2)[2:-1]  # without protocol and stop
        return pickle.PROTO + b"\x02" + found + arguments + pickle.REDUCE + pickle.STOP


def gadgets(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Pickles that call something: name, file and mark."""
    for name, (module, attribute, arguments) in _CALLS.items():
        mark = folder / f"mark-{name}"
        call = _Call(module, attribute, _with(arguments, str(mark), str(folder))).pickled()
        yield f"pickle_{name}", _written(folder / f"{name}.pt", call), mark
        if name in ("open", "eval", "system", "getattr", "import", "runpy"):
            yield f"zip_{name}", _as_torch_zip(folder / f"zip-{name}.pt", call), mark
            inside = pickle.PROTO + b"\x02}" + pickle.dumps("weight", 2)[2:-1] + call[2:-1] + pickle.SETITEM + pickle.STOP
            yield f"state_{name}", _as_torch_zip(folder / f"state-{name}.ckpt", inside), mark
            yield f"obj_{name}", _written(folder / f"obj-{name}.bin", b"(" + call[2:-1] + b"t" + pickle.STOP), mark


def damaged(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files that claim what they do not hold, or hold what they must not; each must be refused in one line."""
    huge = {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    overlap = {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}
    headers: dict[str, Any] = {
        "header_longer_than_the_file": (2**40, b"{}"),
        "header_of_the_largest_size": (2**64 - 1, b"{}"),
        "header_of_no_size": (0, b""),
        "header_without_json": (8, b"notjson!"),
        "header_nested_deeply": (200_000, b"[" * 200_000),
        "header_of_a_list": (2, b"[]"),
        "tensor_larger_than_the_file": huge,
        "tensors_that_overlap": overlap,
        "offsets_backwards": {"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        "offsets_negative": {"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        "shape_negative": {"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        "shape_overflows": {"x": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}},
        "unknown_dtype": {"x": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 8]}},
        "hole": {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    }
    for name, found in headers.items():
        size, content = found if isinstance(found, tuple) else (len(json.dumps(found)), json.dumps(found).encode())
        yield f"safetensors_{name}", _written(folder / f"{name}.safetensors", struct.pack("<Q", size) + content + bytes(8))
    rubbish = {
        "empty": b"",
        "nothing": b"\0" * 64,
        "text": b"hello",
        "half_a_zip": b"PK\x03\x04" + bytes(20),
        "stop": b".",
        "mark": b"\x80\x02(",
    }
    for name, found_bytes in rubbish.items():
        yield f"rubbish_{name}", _written(folder / f"{name}.pt", found_bytes)
    memo = b"\x80\x02" + b"}q\x00" + b"h\x00" * 100_000 + b"."
    yield "pickle_of_many_references", _written(folder / "memo.pt", memo)
    yield "pickle_of_itself", _written(folder / "itself.pt", b"\x80\x02]q\x00h\x00a.")
    yield "pickle_nested_deeply", _written(folder / "nested.pt", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    yield "pickle_of_a_long_int", _written(folder / "long.pt", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.")
    yield "pickle_of_a_long_string", _written(folder / "string.pt", b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"x.")
    yield "index_of_elsewhere", _written(folder / "a.safetensors.index.json", b'{"weight_map": {"x": "../../etc/passwd"}}')
    yield "index_of_itself", _written(folder / "b.index.json", b'{"weight_map": {"x": "b.index.json"}}')
    yield "index_of_numbers", _written(folder / "c.index.json", b'{"weight_map": [1]}')


def arrays(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of arrays: with pickles inside, or larger than they are."""
    np.savez(folder / "objects.npz", x=np.array([_Harmless()], dtype=object))
    yield "npz_of_objects", folder / "objects.npz"
    for name, header in {
        "npz_of_ten_billion_rows": "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000,), }",
        "npz_of_code": "__import__('os').mkdir('M')",
        "npz_of_negative_size": "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        "npz_of_object_type": "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    }.items():
        text = header.replace("M", str(folder / f"mark-{name}")).encode().ljust(200) + b"\n"
        array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + pickle.dumps(None)
        with zipfile.ZipFile(folder / f"{name}.npz", "w") as file:
            file.writestr("x.npy", array)
            file.writestr("y.npy", array)
        yield name, folder / f"{name}.npz"


class _Harmless:
    """Something that is no number."""


def graphs(folder: Path) -> Iterator[tuple[str, Path]]:
    """ONNX files that keep their weights where they must not be read, or are none."""
    import onnx

    places = ("../secret", "/etc/hostname", "a/../../secret", "..", ".", "link/../../secret", "a/b", "\\\\server\\share/..")
    for number, place in enumerate(places):
        tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=place)
        graph = onnx.helper.make_graph([], "g", [], [], [tensor])
        yield f"onnx_weights_{number}", _written(folder / f"{number}.onnx", onnx.helper.make_model(graph).SerializeToString())
    for name, content in {"nothing": b"\x08", "text": b"hello", "claims_more": b"\x3a\xff\xff\xff\xff\x0f" + bytes(9)}.items():
        yield f"onnx_{name}", _written(folder / f"{name}.onnx", content)


def archives(folder: Path) -> Iterator[tuple[str, Path]]:
    """Bundles of others: names that lead out, links, twins, more than there is room for, and none at all."""
    names = (
        "../mark",
        "/tmp/mark",
        "a/../../mark",
        "..\\mark",
        "C:\\mark",
        "a//b",
        "a/./b",
        "\x1b[2J",
        "con",
        "x" * 300,
        "mark/",
    )
    for number, name in enumerate(names):
        with zipfile.ZipFile(folder / f"named-{number}.zip", "w") as file:
            file.writestr(MANIFEST, "{}")
            file.writestr(name, "x")
        yield f"archive_named_{number}", folder / f"named-{number}.zip"
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(MANIFEST, b"0" * 2**26)
    yield "archive_bomb", folder / "bomb.zip"
    with zipfile.ZipFile(folder / "link.zip", "w") as file:
        link = zipfile.ZipInfo(MANIFEST)
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/hostname")
    yield "archive_link", folder / "link.zip"
    for name, content in {"empty": b"", "text": b"hello", "tail": b"PK\x05\x06" + bytes(18), "cut": b"PK\x03\x04"}.items():
        yield f"archive_{name}", _written(folder / f"{name}.zip", content)


def _read_program(file: Path) -> object:
    """Loads an exported file that lies where a config looks for one, as tier 4 does."""
    from planted_bugs.tier4.exports import make_exports
    from planted_bugs.tier4.models import Scores

    format = "torchscript" if file.suffix == ".ts" else "torch_export"
    return make_exports(Scores(), file.parent, format).runner(format)


def programs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Exported files of others, which could run code when they are loaded."""
    (folder / "programs").mkdir()
    for suffix in ("ts", "pt2"):
        with zipfile.ZipFile(folder / "programs" / f"model.{suffix}", "w") as file:
            file.writestr("archive/data.pkl", _Call("os", "mkdir", (str(folder / f"mark-{suffix}"),)).pickled())
            file.writestr("archive/version", "3")
        yield f"program_{suffix}", folder / "programs" / f"model.{suffix}"


def _opened(file: Path) -> object:
    with open_bundle(file) as bundle:
        return bundle


def _with(arguments: Any, mark: str, folder: str) -> Any:
    if isinstance(arguments, str):
        return folder if arguments == "D" else arguments.replace("M", mark)
    if isinstance(arguments, (tuple, list)):
        return type(arguments)(_with(one, mark, folder) for one in arguments)
    return arguments


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def _as_torch_zip(file: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return file


def run(folder: Path) -> dict[str, str]:
    """How each file ended: ``through``, or what refused it."""
    ends: dict[str, str] = {}
    for name, file, mark in gadgets(folder):
        end = _refusal(read_state, file)
        ends[f"loaders::{name}"] = "through" if mark.exists() else end
    for name, file in damaged(folder):
        ends[f"loaders::{name}"] = _refusal(read_state, file)
    for files, load in ((graphs, read_onnx), (archives, _opened), (programs, _read_program)):
        for name, file in files(folder):
            ends[f"loaders::{name}"] = "through" if list(folder.glob("mark-*")) else _refusal(load, file)
    for name, file in arrays(folder):
        ends[f"loaders::{name}"] = "through" if list(folder.glob("mark-npz*")) else _refusal(read_npz, file)
    return ends


def _refusal(load: Callable[[Path], object], file: Path) -> str:
    try:
        load(file)
    except UserError as error:
        return "through: in several lines" if "\n" in str(error) else f"refused: {error}"
    except BaseException as error:
        return f"through: {type(error).__name__}: {error}"
    return "through"
