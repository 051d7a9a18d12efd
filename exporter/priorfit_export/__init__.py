"""Turns a PyTorch training run into a backbone (ONNX) and a prior over its weights for priorfit."""

from .snapshots import Snapshots

__all__ = ["Snapshots"]
