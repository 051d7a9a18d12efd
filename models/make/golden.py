"""Writes models/golden: tiny ONNX files with the outputs and gradients PyTorch computes for them.

For every file NAME.onnx, NAME.safetensors holds
    input            [2 or 1, C, H, W]
    output/OUTPUT    the network's output, named as in the ONNX file
    projection       a random cotangent of the output
    grad/INITIALISER d sum(output * projection) / d initialiser, in the initialiser's own layout
computed in float64 from the float32 weights in the file, with BatchNorm's statistics frozen.
Run it as `python golden.py [NAME ...]`.
"""

import argparse
import copy
import io
import json
import logging
import types
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import safetensors.numpy
import torch
from onnx import numpy_helper
from timm.models.swin_transformer import WindowAttention
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import tiny_models

OUT = Path(__file__).resolve().parent.parent / "golden"
SEED = 2205
# ONNX Runtime computes in float32 and PyTorch in float64: sums of a few hundred terms.
OUTPUT_TOLERANCE = 1e-5
# PyTorch's own float32 gradients must be this close, or a kink sits too near the golden point.
GRADIENT_TOLERANCE = 1e-4
# Weights folded by an exporter in float32 against those folded here in float64.
WEIGHT_TOLERANCE = 2e-5


@dataclass
class Golden:
    """One file: how the network is built, and how it is exported.

    exporter is one of
        default      torch.onnx.export: BatchNorm folded, linear weights transposed
        unoptimised  the same with optimize=False: every parameter under its own name
        legacy       the TorchScript exporter: as default, with numbered names
        legacy_bn    the TorchScript exporter with BatchNorm kept
    """

    name: str
    build: str
    size: int
    exporter: str = "default"
    opset: int = 18
    classes: int = 0
    symbolic_batch: bool = True
    kwargs: dict = field(default_factory=dict)

    @property
    def family(self):
        return self.build.rstrip("_")

    @property
    def folds(self):
        return self.exporter in ("default", "legacy")

    @property
    def batch(self):
        return 2 if self.symbolic_batch else 1


GOLDENS = [
    Golden("resnet_basic_folded", "resnet_basic", 64),
    Golden("resnet_basic_bn", "resnet_basic", 64, "unoptimised", 20),
    Golden("resnet_basic_classifier", "resnet_basic", 48, opset=19, classes=5),
    Golden("resnet_bottleneck_folded", "resnet_bottleneck", 48, opset=20),
    Golden("resnet_bottleneck_bn", "resnet_bottleneck", 48, "legacy_bn", 17),
    Golden("vgg_folded", "vgg", 32),
    Golden("vgg_bn", "vgg", 32, "legacy_bn", 17, classes=5),
    Golden("densenet_folded", "densenet_", 64),
    Golden("densenet_bn", "densenet_", 64, "unoptimised", 18),
    Golden("mobilenetv2_folded", "mobilenetv2", 32, opset=19),
    Golden("mobilenetv2_bn", "mobilenetv2", 32, "unoptimised", 20),
    Golden("mobilenetv2_legacy", "mobilenetv2", 32, "legacy", 17),
    Golden("mobilenetv3_folded", "mobilenetv3_", 40),
    Golden("mobilenetv3_bn", "mobilenetv3_", 40, "legacy_bn", 18),
    Golden("efficientnet_folded", "efficientnet_", 32, opset=20),
    Golden("efficientnet_bn", "efficientnet_", 32, "legacy_bn", 17),
    Golden("regnet_folded", "regnet_", 48),
    Golden("regnet_bn", "regnet_", 48, "unoptimised", 19, symbolic_batch=False),
    Golden("convnext_default", "convnext_", 64),
    Golden("convnext_legacy", "convnext_", 64, "legacy", 17, kwargs={"conv_mlp": True}),
    Golden("vit_default", "vit", 32),
    Golden("vit_unoptimised", "vit", 32, "unoptimised", 20, classes=5),
    Golden("vit_legacy", "vit", 32, "legacy", 17),
    Golden("deit_default", "deit_", 32, opset=19, symbolic_batch=False),
    Golden("deit_unoptimised", "deit_", 32, "unoptimised", 20),
    Golden("swin_default", "swin", 32, opset=20),
    Golden("swin_unoptimised", "swin", 32, "unoptimised", 18),
    Golden("swin_legacy", "swin", 32, "legacy", 17),
    Golden("mixer_default", "mixer", 32),
    Golden("mixer_legacy", "mixer", 32, "legacy", 18),
]


def export(model, image, golden):
    """Exports and returns the ONNX model, without the exporter's source locations."""
    output = "logits" if golden.classes else "features"
    buffer = io.BytesIO()
    options = {"input_names": ["image"], "output_names": [output],
               "opset_version": golden.opset, "verbose": False}
    if golden.exporter in ("default", "unoptimised"):
        dynamic = ({0: torch.export.Dim("batch")},) if golden.symbolic_batch else None
        options |= {"dynamo": True, "optimize": golden.folds, "dynamic_shapes": dynamic,
                    "external_data": False}
    else:
        axes = {"image": {0: "batch"}, output: {0: "batch"}}
        mode = torch.onnx.TrainingMode
        options |= {"dynamo": False, "do_constant_folding": golden.folds,
                    "dynamic_axes": axes if golden.symbolic_batch else None,
                    "training": mode.EVAL if golden.folds else mode.PRESERVE}
    torch.onnx.export(model, (image,), buffer, **options)
    return stripped(onnx.load_model_from_string(buffer.getvalue()))


def stripped(model):
    """Removes stack traces and inferred types, which a reader has no use for."""
    graph = model.graph
    for item in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        item.doc_string = ""
        del item.metadata_props[:]
    del graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def fold_batch_norms(model, image):
    """Merges every BatchNorm into the convolution that feeds it, as exporters do."""
    made_by, pairs = {}, []

    def after_conv(module, _, output):
        made_by[id(output)] = (module, output)

    def before_norm(module, inputs):
        if id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])][0], module))

    handles = [m.register_forward_hook(after_conv) for m in model.modules()
               if isinstance(m, nn.Conv2d)]
    handles += [m.register_forward_pre_hook(before_norm) for m in model.modules()
                if isinstance(m, nn.BatchNorm2d)]
    model(image)
    for handle in handles:
        handle.remove()
    for conv, norm in pairs:
        folded = fuse_conv_bn_eval(conv, norm)
        replace(model, conv, folded)
        replace(model, norm, getattr(norm, "act", nn.Identity()))


def replace(model, old, new):
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


def gather_position_biases(model):
    """Makes Swin's gathered bias the parameter, as constant folding does to its table."""
    for module in model.modules():
        if isinstance(module, WindowAttention):
            bias = module._get_rel_pos_bias().detach().clone()
            del module.relative_position_bias_table
            module.relative_position_bias = nn.Parameter(bias)
            module._get_rel_pos_bias = types.MethodType(
                lambda self: self.relative_position_bias, module)


LAYOUTS = {
    "same": lambda tensor, shape: tensor,
    "transpose": lambda tensor, shape: tensor.T if tensor.ndim == 2 else tensor,
    "reshape": lambda tensor, shape: tensor.reshape(shape),
}


def match(initialiser, parameters):
    """The parameter and layout whose values the initialiser holds, or None."""
    for name, parameter in parameters.items():
        for layout, view in LAYOUTS.items():
            if parameter.numel() != initialiser.size:
                break
            values = view(parameter.detach(), initialiser.shape).numpy()
            if values.shape != initialiser.shape:
                continue
            if relative(initialiser, values) < WEIGHT_TOLERANCE:
                return name, layout
    return None


def bind(initialisers, model):
    """Pairs initialisers with parameters and copies the file's values into the parameters."""
    free, bound, constants = dict(model.named_parameters()), {}, []
    for name, values in initialisers.items():
        found = match(values, free)
        if found is None:
            constants.append(name)
            continue
        parameter = free.pop(found[0])
        view = LAYOUTS[found[1]](parameter.detach(), values.shape)
        view.copy_(torch.from_numpy(values.astype(np.float64)))
        bound[name] = found
    assert not free, f"parameters without an initialiser: {sorted(free)}"
    return bound, constants


def relative(actual, expected, floor=1e-30):
    """The largest difference, as a share of the largest expected value."""
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), floor))


def gradients(model, image, projection, bound, initialisers):
    """The output, and the gradient of each bound initialiser in the initialiser's layout."""
    parameters = dict(model.named_parameters())
    output = model(image)
    grads = torch.autograd.grad((output * projection).sum(), list(parameters.values()))
    by_name = dict(zip(parameters, grads))
    laid_out = {
        name: LAYOUTS[layout](by_name[parameter], initialisers[name].shape).numpy()
        for name, (parameter, layout) in bound.items()
    }
    return output.detach().numpy(), laid_out


def make(golden):
    """Writes one golden pair and returns its entry in the index."""
    build = getattr(tiny_models, golden.build)
    model = tiny_models.randomise(build(golden.classes, **golden.kwargs), SEED)
    generator = torch.Generator().manual_seed(SEED + 1)
    image = torch.randn(golden.batch, 3, golden.size, golden.size, generator=generator)
    file = export(model, image, golden)
    initialisers = {i.name: numpy_helper.to_array(i) for i in file.graph.initializer
                    if i.data_type == onnx.TensorProto.FLOAT}

    exact = copy.deepcopy(model).double()
    if golden.folds:
        fold_batch_norms(exact, image.double())
        gather_position_biases(exact)
        exact.requires_grad_(True)
    bound, constants = bind(initialisers, exact)
    with torch.no_grad():
        projection = torch.randn(exact(image.double()).shape, generator=generator)
    output, grads = gradients(exact, image.double(), projection.double(), bound, initialisers)
    single = copy.deepcopy(exact).float()
    _, single_grads = gradients(single, image, projection, bound, initialisers)

    output_name = file.graph.output[0].name
    session = onnxruntime.InferenceSession(file.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    ort_error = relative(session.run(None, {"image": image.numpy()})[0], output)
    # Some gradients are zero but for rounding: a bias that a LayerNorm removes, for one.
    floor = 1e-3 * max(np.abs(grad).max() for grad in grads.values())
    grad_error = max(relative(single_grads[name], grads[name], floor) for name in grads)
    assert ort_error < OUTPUT_TOLERANCE, (golden.name, ort_error)
    assert grad_error < GRADIENT_TOLERANCE, (golden.name, grad_error)

    tensors = {"input": image.numpy(), f"output/{output_name}": output,
               "projection": projection.numpy()}
    tensors |= {f"grad/{name}": grad for name, grad in grads.items()}
    tensors = {name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()}
    # One key: the writer orders keys at random, and these files are to be reproducible.
    metadata = {"golden": json.dumps({
        "architecture": golden.family, "exporter": golden.exporter,
        "kwargs": {"classes": golden.classes, **golden.kwargs},
        "torch": torch.__version__, "seed": SEED,
        "parameters": bound, "constants": constants,
    })}
    OUT.mkdir(exist_ok=True)
    onnx.save(file, OUT / f"{golden.name}.onnx")
    safetensors.numpy.save_file(tensors, OUT / f"{golden.name}.safetensors", metadata)
    return {
        "name": golden.name, "family": golden.family, "exporter": golden.exporter,
        "opset": file.opset_import[0].version,
        "input": ["batch" if golden.symbolic_batch else 1, *image.shape[1:]],
        "output": output_name, "width": output.shape[1],
        "head": "classifier" if golden.classes else "features",
        "parameters": sum(g.size for g in grads.values()), "tensors": len(grads),
        "constants": len(constants),
    }, ort_error, grad_error


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these (the index is then left alone)")
    names = parser.parse_args().names
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    index = []
    print(f"{'name':26}{'exporter':13}{'opset':>6}{'parameters':>11}{'KB':>6}"
          f"{'ORT error':>11}{'f32 error':>11}")
    for golden in GOLDENS:
        if names and golden.name not in names:
            continue
        entry, ort_error, grad_error = make(golden)
        size = sum(path.stat().st_size for path in OUT.glob(f"{golden.name}.*")) / 1000
        print(f"{golden.name:26}{golden.exporter:13}{entry['opset']:6}{entry['parameters']:11}"
              f"{size:6.0f}{ort_error:11.1e}{grad_error:11.1e}", flush=True)
        index.append(entry)
    if not names:
        lines = ",\n  ".join(json.dumps(entry) for entry in index)
        (OUT / "index.json").write_text(f"[\n  {lines}\n]\n")


if __name__ == "__main__":
    main()
