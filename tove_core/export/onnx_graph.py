"""Traces a module and writes it as one ONNX graph, without what the tracer tells of the machine it ran on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tove_core.errors import CheckpointError
from tove_core.export.onnx_sides import Side

OPSET = 18
"""The lowest that PyTorch's exporter writes, so that the most runtimes read it."""
EMBEDDED_LIMIT = 1 << 30
"""Bytes of weights above which they lie in a file of their own: one file of protobuf holds less than 2 GiB."""
_SMALL = 256
"""Values up to which a constant stays as it is; those that the exporter makes (scales, shapes) are few."""


def write_graph(side: Side, example: Tensor, path: Path, *, half: bool = False) -> int:
    """Write a module as ONNX with a free batch; large weights go to `NAME.onnx.data` beside it.

    Args:
        side: takes one tensor and gives a tuple of tensors.
        example: its input, of two rows.
        path: of the file.
        half: store weights as float16 where that loses nothing; they are cast to float32 where they are used.

    Returns:
        The number of weights that are in it.

    Raises:
        CheckpointError: the module cannot be traced, or ONNX has no operator for what it does.
    """
    program = _traced(side, example)
    model: Any = program.model
    _forget(model)
    _name_outputs(model.graph, side.gives)
    if half:
        _store_halves(model)
    weights = [v.const_value for v in model.graph.initializers.values() if v.dtype.is_floating_point()]
    size = sum(weight.nbytes for weight in weights)
    program.save(str(path), external_data=size > EMBEDDED_LIMIT)
    return sum(int(weight.size) for weight in weights)


def data_file(path: Path) -> Path | None:
    """Return the file of a graph's weights, where they lie beside it."""
    beside = path.with_name(f"{path.name}.data")
    return beside if beside.exists() else None


def _traced(side: Side, example: Tensor) -> Any:
    try:
        with torch.no_grad(), _quiet():
            return torch.onnx.export(
                side,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[side.given],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # the exporter and its libraries raise many kinds, also where their versions do not fit
        cause: BaseException = error
        while cause.__cause__ is not None:  # the outer ones say how to debug the exporter
            cause = cause.__cause__
        first = " ".join(str(cause).split())[:300]
        raise CheckpointError(
            f"PyTorch cannot write {' and '.join(side.gives)} as ONNX ({type(cause).__name__}: {first}); nothing was "
            "written, update onnxscript or choose another CLIP"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter tells of its own parts, about which nobody who exports can do anything, to itself."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _forget(model: Any) -> None:
    """Take away what the tracer noted of itself: lines of source with their paths, larger than a small model."""
    model.metadata_props.clear()
    graph = model.graph
    graph.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _name_outputs(graph: Any, names: tuple[str, ...]) -> None:
    """Name the outputs; told of them, the exporter gives a name twice where an inner value has it already."""
    for node in graph:
        for value in node.outputs:
            if value.name in names:
                value.name = f"{value.name}.inner"
    for name in names:
        if name in graph.initializers:
            value = graph.initializers.pop(name)
            value.name = f"{name}.inner"
            graph.register_initializer(value)
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


def _store_halves(model: Any) -> None:
    """Store weights that float16 holds exactly in it, and cast them where the graph begins."""
    from onnxscript import ir

    graph = model.graph
    first = graph[0]
    for name, value in list(graph.initializers.items()):
        if value.dtype != ir.DataType.FLOAT or value.const_value.size <= _SMALL:
            continue
        whole = value.const_value.numpy()
        with np.errstate(over="ignore"):
            half = whole.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), whole):
            continue
        stored = ir.Value(name=f"{name}.float16", const_value=ir.tensor(half, name=f"{name}.float16"))
        stored.dtype, stored.shape = ir.DataType.FLOAT16, value.shape
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
        cast.outputs[0].dtype, cast.outputs[0].shape = value.dtype, value.shape
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[name]
        cast.outputs[0].name = name
        graph.register_initializer(stored)
        graph.insert_before(first, cast)
