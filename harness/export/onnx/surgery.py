"""Small changes to ONNX files that exporters leave undone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from harness.export.onnx.file import walk

_STACK_TRACE = "pkg.torch.onnx.stack_trace"


def tidy(path: Path, symbols: dict[str, str]) -> None:
    """Gives free axes their names, such as ``batch`` for ``s77``, and leaves out the stack traces, which show paths and code of the maker."""
    model = onnx.load(path, load_external_data=False)
    for node in walk(model.graph):
        kept = [entry for entry in node.metadata_props if entry.key != _STACK_TRACE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_param = symbols[dim.dim_param]
    onnx.save(model, path)


def refuse_negative_ids(path: Path, fields: Sequence[str], refused: int) -> None:
    """Makes a file fail on negative token ids, as PyTorch does.

    ONNX counts a negative index from the end, so a corrupted id would silently give the logits of another token. Negative ids are
    mapped to one beyond every table, on which the lookup raises.

    Args:
        path: The file; changed in place.
        fields: Its inputs of token ids.
        refused: The id that stands for them.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for number, name in enumerate(field for field in fields if field in types):
        dtype = helper.tensor_dtype_to_np_dtype(types[name])
        zero, large, negative, checked = (f"{name}_{part}" for part in ("zero", "refused", "is_negative", "checked"))
        for node in graph.node:
            for index, used in enumerate(node.input):
                if used == name:
                    node.input[index] = checked
        graph.initializer.extend(
            [numpy_helper.from_array(np.array(0, dtype), zero), numpy_helper.from_array(np.array(refused, dtype), large)]
        )
        graph.node.insert(2 * number, helper.make_node("Less", [name, zero], [negative], name=f"node_{negative}"))
        graph.node.insert(2 * number + 1, helper.make_node("Where", [negative, large, name], [checked], name=f"node_{checked}"))
    onnx.save(model, path)
