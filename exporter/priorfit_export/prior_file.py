"""The prior file: safetensors with `mean/NAME`, `var/NAME` and `dev/NAME`, and a header.

What the numbers mean is written in the header's `convention`. The format is documented with its
reader, priorfit's `src/prior/file.rs`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import struct
import sys
from dataclasses import dataclass
from decimal import Decimal
from typing import BinaryIO, Dict, Mapping, Optional

import torch
from torch import Tensor

from .moments import Part

VERSION = 1
CONVENTION = "var/2 + dev^T dev / (2 (rank - 1)) + eps"


@dataclass(frozen=True)
class Header:
    """What a prior says about itself."""

    backbone: str
    eps: float
    rank: int
    snapshots: int
    num_data: int = 0
    epochs: Optional[float] = None
    learning_rate: Optional[float] = None
    schedule: str = ""
    notes: str = ""

    def to_json(self) -> str:
        """The header's JSON, fields in the order of their names."""
        learned = [
            ("epochs", _number(self.epochs)),
            ("learning_rate", _number(self.learning_rate)),
            ("method", _text("SWAG")),
            ("schedule", _text(self.schedule)),
            ("snapshots", str(self.snapshots)),
        ]
        fields = [
            ("backbone", _text(self.backbone)),
            ("convention", _text(CONVENTION)),
            ("eps", _number(self.eps)),
            ("learned", _object(learned)),
            ("notes", _text(self.notes)),
            ("num_data", str(self.num_data)),
            ("rank", str(self.rank)),
            ("version", str(VERSION)),
        ]
        return _object(fields)


def _object(fields: list) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in fields) + "}"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _number(number: Optional[float]) -> str:
    return "null" if number is None else format(Decimal(repr(float(number))), "f")


def data(tensor: Tensor) -> bytes:
    """The elements as little-endian float32, in row-major order."""
    if sys.byteorder != "little":
        raise RuntimeError("a big-endian machine cannot write these files")
    tensor = tensor.detach().to("cpu", torch.float32).contiguous()
    return ctypes.string_at(tensor.data_ptr(), 4 * tensor.numel()) if tensor.numel() else b""


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of a backbone's weights, as priorfit computes it.

    For each weight in the order of names: the name in UTF-8, a zero byte, the number of dimensions
    and each extent as little-endian 64-bit numbers, the elements as little-endian float32.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(name.encode() + b"\0")
        digest.update(struct.pack(f"<{1 + weight.dim()}Q", weight.dim(), *weight.shape))
        digest.update(data(weight))
    return digest.hexdigest()


def write(file: BinaryIO, header: Header, parts: Mapping[str, Part]) -> None:
    """Writes a prior file: tensors sorted by their names, without gaps."""
    tensors: Dict[str, Tensor] = {}
    for name, part in parts.items():
        tensors[f"mean/{name}"] = part.mean
        tensors[f"var/{name}"] = part.var
        if part.dev is not None:
            tensors[f"dev/{name}"] = part.dev
    entries = [("__metadata__", _object([("priorfit", _text(header.to_json()))]))]
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + 4 * tensor.numel()
        shape = ",".join(map(str, tensor.shape))
        entries.append(
            (name, f'{{"dtype":"F32","shape":[{shape}],"data_offsets":[{start},{end}]}}')
        )
    head = ("{" + ",".join(f"{_text(name)}:{entry}" for name, entry in entries) + "}").encode()
    head += b" " * (-len(head) % 8)
    file.write(struct.pack("<Q", len(head)) + head)
    for _, tensor in sorted(tensors.items()):
        file.write(data(tensor))
