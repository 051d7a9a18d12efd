"""Folding of BatchNorm into the layer before it.

At inference a BatchNorm with statistics (m, v), scale g and shift b is an affine map, and with the
convolution or dense layer (W, c) before it it is one layer with

    W' = W g/sqrt(v + eps)          c' = (c - m) g/sqrt(v + eps) + b

Both are non-linear in what training moves, so the moments of W' are not those of W: each snapshot
is folded before its moments are taken.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# What a BatchNorm becomes a part of the layer with.
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
# Rounding of a normalisation, relative to its largest result.
_TOLERANCE = 1e-4


class Fold(NamedTuple):
    """A layer and the BatchNorm that is folded into it, by their names in the model."""

    layer: str
    norm: str


def find(model: nn.Module, example: Tuple[Tensor, ...]) -> List[Fold]:
    """The pairs that can be folded in a model in evaluation mode that makes a tensor of `example`.

    A pair is a layer whose result goes into a BatchNorm and nowhere else. That shows in the graph
    of gradients: the layer's node has one reader, and the BatchNorm's input comes from it. Kinds of
    BatchNorm that do more than that and run their submodules are left with those.
    """
    produced: Dict[object, str] = {}
    calls: Dict[str, int] = {}
    candidates: List[Tuple[Fold, object, Tensor]] = []
    hooks = []

    def layer_hook(name):
        def hook(_module, _inputs, output):
            calls[name] = calls.get(name, 0) + 1
            if isinstance(output, Tensor) and output.grad_fn is not None:
                produced[output.grad_fn] = name

        return hook

    def norm_hook(name):
        def hook(_module, inputs):
            calls[name] = calls.get(name, 0) + 1
            node = inputs[0].grad_fn
            if node in produced:
                candidates.append((Fold(produced[node], name), node, inputs[0].detach()))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, _LAYERS) and "weight" in module._parameters:
            hooks.append(module.register_forward_hook(layer_hook(name)))
        elif isinstance(module, _BatchNorm) and module.running_var is not None:
            hooks.append(module.register_forward_pre_hook(norm_hook(name)))
    try:
        with torch.enable_grad():
            inputs = tuple(
                x.detach().requires_grad_() if x.is_floating_point() else x for x in example
            )
            output = model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    readers = _readers(output)
    return [
        fold
        for fold, node, x in candidates
        if readers.get(node) == 1
        and calls[fold.layer] == 1
        and calls[fold.norm] == 1
        and _is_separable(model.get_submodule(fold.norm), x)
    ]


def _remainder(norm: nn.Module) -> nn.Module:
    """What a BatchNorm does after it has normalised: nothing, or to run its submodules."""
    children = OrderedDict(norm.named_children())
    return nn.Sequential(children) if children else nn.Identity()


def _is_separable(norm: nn.Module, x: Tensor) -> bool:
    """Whether a BatchNorm is its affine map and the remainder, tried on `x`."""
    with torch.no_grad():
        scale, shift = (t.to(x).view(-1, *[1] * (x.dim() - 2)) for t in _affine(norm))
        expected, found = norm(x), _remainder(norm)(x * scale + shift)
        largest = expected.abs().max().clamp(min=1e-30)
        return found.shape == expected.shape and bool(
            (found - expected).abs().max() <= _TOLERANCE * largest
        )


def _readers(output: Tensor) -> Dict[object, int]:
    """How many nodes of the graph of gradients read each node's result; the output itself is read
    once more."""
    readers: Dict[object, int] = {} if output.grad_fn is None else {output.grad_fn: 1}
    pending = list(readers)
    while pending:
        for node, _ in pending.pop().next_functions:
            if node is None:
                continue
            if node not in readers:
                pending.append(node)
            readers[node] = readers.get(node, 0) + 1
    return readers


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _affine(norm: nn.Module) -> Tuple[Tensor, Tensor]:
    """Scale and shift of a BatchNorm, in float64 on the processor."""
    scale = (_wide(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _wide(norm.weight)
    shift = -_wide(norm.running_mean) * scale
    if norm.bias is not None:
        shift = shift + _wide(norm.bias)
    return scale, shift


def folded(model: nn.Module, fold: Fold) -> Tuple[Tensor, Tensor]:
    """W' and c' of a pair of `model`, in float64 on the processor."""
    layer = model.get_submodule(fold.layer)
    scale, shift = _affine(model.get_submodule(fold.norm))
    weight = _wide(layer.weight)
    bias = shift if layer.bias is None else _wide(layer.bias) * scale + shift
    return weight * scale.view(-1, *[1] * (weight.dim() - 1)), bias


def apply(model: nn.Module, folds: List[Fold]) -> None:
    """Replaces each pair of `model` by the one layer and what the BatchNorm does besides."""
    for fold in folds:
        weight, bias = folded(model, fold)
        layer = model.get_submodule(fold.layer)
        layer.weight = nn.Parameter(weight.to(layer.weight))
        layer.bias = nn.Parameter(bias.to(layer.weight))
        parent, _, child = fold.norm.rpartition(".")
        remainder = _remainder(model.get_submodule(fold.norm))
        setattr(model.get_submodule(parent), child, remainder)
