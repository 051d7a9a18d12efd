"""Exports the timed networks to ONNX: features, a symbolic batch, random weights.

NAME.onnx is the default exporter's file. Networks with BatchNorm also get NAME_bn.onnx, which keeps
it: that file holds the same parameters, and asks for the same work, as PyTorch's own network.
"""

import argparse
from pathlib import Path

import torch

from models import MODELS, backbone, has_batch_norm


def export(network, size, path, optimize):
    image = torch.randn(2, 3, size, size)
    torch.onnx.export(network, (image,), str(path), dynamo=True, optimize=optimize,
                      external_data=False, input_names=["image"], output_names=["features"],
                      dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False)
    print(path, f"{path.stat().st_size / 1e6:.1f} MB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for model in arguments.models:
        network = backbone(model, arguments.size)
        export(network, arguments.size, arguments.folder / f"{MODELS[model]}.onnx", True)
        if has_batch_norm(network):
            export(network, arguments.size, arguments.folder / f"{MODELS[model]}_bn.onnx", False)


if __name__ == "__main__":
    main()
