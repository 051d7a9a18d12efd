"""Snapshots of a model in training, and the backbone and prior they make."""

from __future__ import annotations

import copy
import math
import os
import tempfile
import warnings
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from . import folding, onnx_file, prior_file
from .moments import Moments, Part

# A folded network computes the same but for rounding, relative to its largest feature.
_FOLDING_TOLERANCE = 1e-3


class Snapshots:
    """Collects a model's weights while it trains, and writes a backbone and a prior of them.

        snapshots = Snapshots(model, example, head="fc")
        for epoch in range(epochs):
            train_one_epoch(model)
            if epoch >= burn_in:
                snapshots.collect()
        snapshots.export("exported")    # backbone.onnx and prior.safetensors

    BatchNorm is folded into the layer before it, snapshot by snapshot, so that the prior is over
    the weights that the exported network has. Wrappers (DataParallel, DistributedDataParallel,
    torch.compile) are looked through. In a distributed run every process may make the same calls:
    the first one works, the others return at once.

    Moments are kept in float64 on the processor: 16 bytes a weight, and 4 for each deviation.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Union[Tensor, Sequence[Tensor]],
        *,
        rank: int = 20,
        head: Optional[str] = None,
    ) -> None:
        """Tries the export of `model` on `example` (its input, with a batch axis) at once, so that
        a model that cannot be exported is known before it is trained.

        rank: deviations kept, 0 for a diagonal prior.
        head: name of the submodule that is the classifier, such as "fc". The backbone ends before
            it, and it has no part in the prior.
        """
        self._moments = Moments(rank)
        self._model = _unwrapped(model)
        self._head = head
        self._example = (example,) if isinstance(example, Tensor) else tuple(example)
        self._example = tuple(x.detach().cpu().clone() for x in self._example)
        self._folds: List[folding.Fold] = []
        if not _is_first_process():
            return
        backbone = self._backbone()
        self._folds = folding.find(backbone, self._example)
        self._check_folding(backbone)
        self._exported(backbone)

    @property
    def count(self) -> int:
        """Number of snapshots collected."""
        return self._moments.count

    @property
    def folds(self) -> List[Tuple[str, str]]:
        """The layers that BatchNorm is folded into, each with the BatchNorm."""
        return [(fold.layer, fold.norm) for fold in self._folds]

    def collect(self) -> None:
        """Adds the model's present weights. Raises ValueError, and keeps what it has, if one of
        them is not finite."""
        if not _is_first_process():
            return
        weights: Dict[str, Tensor] = {}
        for name, tensor in _named_tensors(self._model):
            if not self._is_head(name):
                weights[name] = tensor.detach().to("cpu", torch.float64, copy=True)
        for fold in self._folds:
            for tensor_name in folding.NORM_TENSORS:
                weights.pop(f"{fold.norm}.{tensor_name}", None)
            weight, bias = folding.folded(self._model, fold)
            weights[f"{fold.layer}.weight"], weights[f"{fold.layer}.bias"] = weight, bias
        self._moments.add(weights)

    def export(
        self,
        folder: Union[str, os.PathLike],
        *,
        epsilon: float = 1e-6,
        num_data: int = 0,
        epochs: Optional[float] = None,
        learning_rate: Optional[float] = None,
        schedule: str = "",
        notes: str = "",
    ) -> Optional[Tuple[Path, Path]]:
        """Writes `backbone.onnx`, whose weights are the snapshots' mean, and `prior.safetensors`.

        epsilon: the variance that every weight has at least.
        num_data: number of examples of the source task, 0 if it is not known.
        epochs, learning_rate, schedule, notes: for the record, kept in the prior's header.

        Both files replace what was there, whole or not at all. Returns their paths; None in the
        other processes of a distributed run.
        """
        if not _is_first_process():
            return None
        for what, number in [("epochs", epochs), ("learning_rate", learning_rate)]:
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{what} is {number}; expected a finite number")
        parts, rank = self._moments.finish()
        backbone = self._backbone()
        folding.apply(backbone, self._folds)
        _load(backbone, parts)
        onnx, names = self._exported(backbone)
        covered = {alias: parts[name] for alias, name in names.items()}
        _check_variances(covered, epsilon)
        header = prior_file.Header(
            backbone=prior_file.fingerprint({name: part.mean for name, part in covered.items()}),
            eps=epsilon,
            rank=rank,
            snapshots=self.count,
            num_data=num_data,
            epochs=epochs,
            learning_rate=learning_rate,
            schedule=schedule,
            notes=notes,
        )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "backbone.onnx", folder / "prior.safetensors"
        _replace(
            {
                paths[0]: lambda file: file.write(onnx),
                paths[1]: lambda file: prior_file.write(file, header, covered),
            }
        )
        return paths

    def state_dict(self) -> dict:
        """The snapshots so far, to be saved beside the model and the optimiser."""
        return self._moments.state_dict()

    def load_state_dict(self, state: Mapping) -> None:
        """Goes on where `state_dict` was taken."""
        self._moments.load_state_dict(state)

    def _is_head(self, name: str) -> bool:
        return self._head is not None and name.startswith(self._head + ".")

    def _backbone(self) -> nn.Module:
        """A copy of the model on the processor, in float32 and evaluation mode, less its head."""
        # Tensors are copied to the processor one by one: the device may have no room for another
        # model.
        copies: Dict[int, Tensor] = {}
        for parameter in self._model.parameters():
            copied = parameter.detach().to("cpu", copy=True)
            copies[id(parameter)] = nn.Parameter(copied, parameter.requires_grad)
        for buffer in self._model.buffers():
            copies[id(buffer)] = buffer.detach().to("cpu", copy=True)
        backbone = copy.deepcopy(self._model, copies).float().eval()
        if self._head is not None:
            parent, _, child = self._head.rpartition(".")
            try:
                getattr(backbone.get_submodule(parent), child)
            except AttributeError:
                raise ValueError(f"the model has no submodule '{self._head}'") from None
            setattr(backbone.get_submodule(parent), child, nn.Identity())
        forward = backbone.forward

        def first(*inputs: Tensor) -> Tensor:
            output = forward(*inputs)
            while isinstance(output, (tuple, list)):
                output = output[0]
            if not isinstance(output, Tensor):
                raise ValueError(
                    f"the model returns {type(output).__name__}; expected a tensor of features, "
                    "or a tuple that begins with one"
                )
            return output

        backbone.forward = first  # type: ignore[method-assign]
        return backbone

    def _check_folding(self, backbone: nn.Module) -> None:
        with torch.no_grad():
            before = backbone(*self._example)
            folding.apply(backbone, self._folds)
            after = backbone(*self._example)
        error = (after - before).abs().max() / before.abs().max().clamp(min=1e-30)
        if not error <= _FOLDING_TOLERANCE:
            raise RuntimeError(
                f"folding BatchNorm changes the output by {error:.1e} of its largest value; "
                f"expected {_FOLDING_TOLERANCE} at most. Folded: {self.folds}"
            )

    def _exported(self, backbone: nn.Module) -> Tuple[bytes, Dict[str, str]]:
        """The ONNX file of a folded backbone; the names of its weights, and theirs in the model."""
        onnx = onnx_file.export(backbone, self._example)
        found = onnx_file.initialisers(onnx)
        names: Dict[str, str] = {}
        # A single number is no weight to priorfit.
        weights = [name for name, p in backbone.named_parameters() if p.dim() > 0]
        aliases = _aliases(backbone)
        for name in weights:
            names.update({alias: name for alias in aliases[name] if alias in found})
        if not names:
            raise RuntimeError("the exported network has none of the model's parameters")
        if onnx_file.last_op(onnx) in ("Gemm", "MatMul"):
            warnings.warn(
                "the exported network ends in a dense layer, which priorfit takes for a classifier "
                "and cuts off; name it with head=...",
                stacklevel=3,
            )
        return onnx_file.tidy(onnx, names), names


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of parallel and compiled training."""
    while True:
        kinds = {kind.__name__ for kind in type(model).__mro__}
        if kinds & {"FullyShardedDataParallel", "FSDPModule"}:
            raise ValueError("parameters are sharded (FSDP); expected whole ones (DDP)")
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def _is_first_process() -> bool:
    distributed = torch.distributed
    return not (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_rank() != 0
    )


def _named_tensors(model: nn.Module) -> List[Tuple[str, Tensor]]:
    """Parameters, and the statistics of BatchNorm."""
    statistics = [
        (name, buffer)
        for name, buffer in model.named_buffers()
        if name.rpartition(".")[2] in ("running_mean", "running_var")
    ]
    return [*model.named_parameters(), *statistics]


def _aliases(model: nn.Module) -> Dict[str, List[str]]:
    """All names of each parameter, by its first."""
    first: Dict[int, str] = {id(p): name for name, p in model.named_parameters()}
    aliases: Dict[str, List[str]] = {name: [name] for name in first.values()}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for child, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{prefix}.{child}" if prefix else child
                if name not in aliases[first[id(parameter)]]:
                    aliases[first[id(parameter)]].append(name)
    return aliases


def _load(backbone: nn.Module, parts: Mapping[str, Part]) -> None:
    """Gives a folded backbone the mean of its weights and statistics."""
    with torch.no_grad():
        for name, tensor in _named_tensors(backbone):
            if name in parts:
                tensor.copy_(parts[name].mean)


def _check_variances(parts: Mapping[str, Part], epsilon: float) -> None:
    """Raises ValueError unless every variance can be divided by in float32."""
    if not 0.0 <= epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; expected a number of at least 0")
    for name, part in parts.items():
        if not (part.var.double() / 2 + epsilon).min() >= torch.finfo(torch.float32).tiny:
            raise ValueError(f"a weight of '{name}' never moved; expected an epsilon above 0")


def _replace(files: Dict[Path, Callable]) -> None:
    """Writes all files beside their places, then puts them there."""
    written: List[Tuple[str, Path]] = []
    try:
        for path, write in files.items():
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            written.append((temporary, path))
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
        while written:
            temporary, path = written[0]
            os.replace(temporary, path)
            written.pop(0)
    finally:
        for temporary, _ in written:
            os.unlink(temporary)
