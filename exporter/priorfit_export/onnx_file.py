"""Backbones as ONNX files, by the exporter that is part of PyTorch and without the package onnx.

The exporter keeps every parameter as an initialiser of its own name if it neither folds constants
nor fuses layers. What else it made an initialiser (buffers, masks) is moved into Constant nodes
here, so that the file's initialisers are its weights.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import sys
import types
import warnings
from typing import Collection, Iterator, List, NamedTuple, Set, Tuple, Union

import torch
from torch import Tensor, nn

OPSET = 17
INPUT, OUTPUT = "input", "features"

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALISER, _GRAPH_INPUT = 1, 5, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR, _ATTRIBUTE_TYPE = 1, 5, 20
_ATTRIBUTE_TYPE_TENSOR = 4
_TENSOR_NAME, _VALUE_NAME = 8, 1
# Wire types of protobuf.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def export(model: nn.Module, example: Tuple[Tensor, ...]) -> bytes:
    """The ONNX file of a model in evaluation mode, as PyTorch writes it."""
    inputs = [INPUT] if len(example) == 1 else [f"{INPUT}_{i}" for i in range(len(example))]
    file = io.BytesIO()
    with _without_onnx(), _without_fused_attention(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            example,
            file,
            opset_version=OPSET,
            do_constant_folding=False,
            # Not EVAL, which would fuse what is left of BatchNorm, under names of its own.
            training=torch.onnx.TrainingMode.PRESERVE,
            # Otherwise equal weights are merged.
            keep_initializers_as_inputs=True,
            input_names=inputs,
            output_names=[OUTPUT],
            dynamic_axes={name: {0: "batch"} for name in [*inputs, OUTPUT]},
            **({"dynamo": False} if _takes_dynamo() else {}),
        )
    return file.getvalue()


def _takes_dynamo() -> bool:
    """Whether this PyTorch has another exporter besides."""
    return "dynamo" in inspect.signature(torch.onnx.export).parameters


@contextlib.contextmanager
def _without_onnx() -> Iterator[None]:
    """PyTorch imports onnx only to look for custom functions in the finished file. There are none
    in ours, and where the package is not installed something that finds none stands in for it."""
    if "onnx" in sys.modules or importlib.util.find_spec("onnx") is not None:
        yield
        return
    stand_in = types.ModuleType("onnx")
    empty = types.SimpleNamespace(graph=types.SimpleNamespace(node=[]))
    stand_in.load_model_from_string = lambda _bytes: empty  # type: ignore[attr-defined]
    sys.modules["onnx"] = stand_in
    try:
        yield
    finally:
        del sys.modules["onnx"]


@contextlib.contextmanager
def _without_fused_attention() -> Iterator[None]:
    """nn.MultiheadAttention has a fused form for inference, which ONNX has not."""
    mha = getattr(torch.backends, "mha", None)
    if mha is None or not hasattr(mha, "set_fastpath_enabled"):
        yield
        return
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)


class Field(NamedTuple):
    """A field of a protobuf message: its number, its value, and all its bytes."""

    number: int
    value: Union[int, bytes]
    raw: bytes


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a protobuf message, in order."""
    at = 0
    while at < len(message):
        begin = at
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        value: Union[int, bytes]
        if wire == _VARINT:
            value, at = _varint(message, at)
        else:
            if wire == _BYTES:
                length, at = _varint(message, at)
            else:
                length = {_FIXED64: 8, _FIXED32: 4}[wire]
            value, at = message[at : at + length], at + length
        yield Field(number, value, message[begin:at])


def _varint(message: bytes, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, value: Union[int, str, bytes]) -> bytes:
    if isinstance(value, int):
        return _encode_varint(number << 3 | _VARINT) + _encode_varint(value)
    if isinstance(value, str):
        value = value.encode()
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(value)) + value


def _value(message: bytes, number: int) -> str:
    """The text in a field, or nothing."""
    texts = (f.value for f in fields(message) if f.number == number)
    text = next(texts, b"")
    return text.decode() if isinstance(text, bytes) else ""


def _graph(model: bytes) -> bytes:
    return next(f.value for f in fields(model) if f.number == _MODEL_GRAPH)  # type: ignore


def initialisers(model: bytes) -> Set[str]:
    """The names of a file's initialisers."""
    graph = fields(_graph(model))
    return {_value(f.value, _TENSOR_NAME) for f in graph if f.number == _GRAPH_INITIALISER}


def last_op(model: bytes) -> str:
    """The operator of the node that computes the output."""
    nodes = [f.value for f in fields(_graph(model)) if f.number == _GRAPH_NODE]
    for node in nodes:
        if any(f.number == _NODE_OUTPUT and f.value == OUTPUT.encode() for f in fields(node)):
            return _value(node, _NODE_OP)
    return ""


def tidy(model: bytes, weights: Collection[str]) -> bytes:
    """The file with `weights` and the statistics of BatchNorm as its only initialisers."""
    graph = list(fields(_graph(model)))
    keep = set(weights) | _statistics(graph)
    names = initialisers(model)
    constants: List[bytes] = []
    rest: List[bytes] = []
    for field in graph:
        if field.number == _GRAPH_INITIALISER:
            name = _value(field.value, _TENSOR_NAME)
            if name not in keep:
                constants.append(_constant(name, field.value))
                continue
        if field.number == _GRAPH_INPUT and _value(field.value, _VALUE_NAME) in names:
            continue
        rest.append(field.raw)
    # Nodes stand before their readers.
    body = b"".join(constants + rest)
    return b"".join(
        _field(_MODEL_GRAPH, body) if f.number == _MODEL_GRAPH else f.raw for f in fields(model)
    )


def _statistics(graph: List[Field]) -> Set[str]:
    """What BatchNormalization nodes read as mean and variance."""
    names: Set[str] = set()
    for node in (f.value for f in graph if f.number == _GRAPH_NODE):
        if _value(node, _NODE_OP) == "BatchNormalization":
            inputs = [f.value.decode() for f in fields(node) if f.number == _NODE_INPUT]
            names.update(inputs[3:5])
    return names


def _constant(name: str, tensor: bytes) -> bytes:
    """The node that gives a tensor the name that the initialiser had."""
    attribute = (
        _field(_ATTRIBUTE_NAME, "value")
        + _field(_ATTRIBUTE_TENSOR, tensor)
        + _field(_ATTRIBUTE_TYPE, _ATTRIBUTE_TYPE_TENSOR)
    )
    node = (
        _field(_NODE_OUTPUT, name)
        + _field(_NODE_NAME, f"constant/{name}")
        + _field(_NODE_OP, "Constant")
        + _field(_NODE_ATTRIBUTE, attribute)
    )
    return _field(_GRAPH_NODE, node)
