"""Makes models/foreign/: priors as other programs store them, around one tiny network.

    python models/make/foreign.py

Their moments are stored as the reference implementation of "Pre-Train Your Loss" does (flat
vectors) and as swa_gaussian does (buffers), by the formulas those programs publish;
`expected.safetensors` holds what a reader should make of each, computed in float64.
"""

import io
import pathlib
import warnings

import safetensors.torch
import torch
from torch import nn

FOLDER = pathlib.Path(__file__).parents[1] / "foreign"
SNAPSHOTS = 7
# How many deviations the two programs keep.
REFERENCE_RANK = 5
SWAG_RANK = 4
# The least variance of the reference.
CLAMP = 1e-6


class Network(nn.Module):
    """Two convolutions with BatchNorm and a shortcut; `fc` is its head."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(4, 4, 1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + self.shortcut(x))
        return self.fc(x.mean((2, 3)))


def network(seed):
    torch.manual_seed(seed)
    model = Network()
    with torch.no_grad():
        for norm in (model.bn1, model.bn2):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


def snapshots(model, count=SNAPSHOTS, step=0.01):
    """Weights by name, one dict a snapshot: a random walk around the model's."""
    generator = torch.Generator().manual_seed(1)
    here = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for _ in range(count):
        yield {
            name: weight + step * torch.randn(weight.shape, generator=generator)
            for name, weight in here.items()
        }


def without_head(weights):
    return {name: weight for name, weight in weights.items() if not name.startswith("fc.")}


def flat(weights):
    return torch.cat([weight.flatten() for weight in weights.values()])


def save(name, value, **options):
    torch.save(value, FOLDER / name, **options)


def reference(model):
    """The four files of the reference: all REFERENCE_RANK snapshots are kept, so row 0 is zero."""
    mean = square = None
    rows = []
    for count, weights in enumerate(snapshots(model, REFERENCE_RANK)):
        w = flat(without_head(weights))
        if mean is None:
            mean, square = torch.zeros_like(w), torch.zeros_like(w)
        mean = mean * (count / (count + 1)) + w / (count + 1)
        square = square * (count / (count + 1)) + w**2 / (count + 1)
        rows.append(w - mean)
    raw = torch.stack(rows)
    state = model.state_dict()
    for name in list(state):
        if name.startswith("fc."):
            del state[name]
    save("reference_model.pt", state)
    save("reference_mean.pt", mean)
    save("reference_variance.pt", (square - mean**2).clamp(min=CLAMP))
    save("reference_covmat.pt", raw)
    # The same, as others might have written it.
    save("normalised_covmat.pt", raw / (REFERENCE_RANK - 1) ** 0.5)
    save("legacy_model.pt", state, _use_new_zipfile_serialization=False)
    order = sorted(state, reverse=True)
    save("permuted_model.pt", {name: state[name] for name in order})
    save("legacy_mean.pt", mean.double(), _use_new_zipfile_serialization=False)
    save("protocol4_variance.pt", (square - mean**2).clamp(min=CLAMP), pickle_protocol=4)
    # Columns of a larger tensor: strides that are not those of its shape.
    wide = torch.cat([raw, raw], 1)
    save("strided_covmat.pt", wide[:, : raw.shape[1]])
    return expected(list(snapshots(model, REFERENCE_RANK)), REFERENCE_RANK)


def swa_gaussian(model):
    """A checkpoint of swa_gaussian; one weight has a variance that its mean square cannot show."""
    state = torch.nn.Module()
    state.base = torch.nn.Module()
    names = [name for name, _ in model.named_parameters()]
    moments = {}
    taken = []
    for count, weights in enumerate(snapshots(model, SNAPSHOTS)):
        first = model.bn1.weight.detach()[0]
        weights["bn1.weight"][0] = first + 1e-5 * (-1) ** count * count
        taken.append(weights)
        for name in names:
            w = weights[name]
            mean, square, rows = moments.get(
                name, (torch.zeros_like(w), torch.zeros_like(w), w.new_empty((0, w.numel())))
            )
            mean = mean * (count / (count + 1.0)) + w / (count + 1.0)
            square = square * (count / (count + 1.0)) + w**2 / (count + 1.0)
            rows = torch.cat((rows, (w - mean).view(1, -1)))[-SWAG_RANK:]
            moments[name] = mean, square, rows
    buffers = {"n_models": torch.tensor([SNAPSHOTS], dtype=torch.long)}
    for name, (mean, square, rows) in moments.items():
        buffers[f"base.{name}_mean"] = mean
        buffers[f"base.{name}_sq_mean"] = square
        buffers[f"base.{name}_cov_mat_sqrt"] = rows
    for name, buffer in model.named_buffers():
        buffers[f"base.{name}"] = buffer
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    save("swag.pt", {"epoch": 3, "state_dict": buffers, "optimizer": optimizer.state_dict()})
    return expected(taken, SWAG_RANK)


def expected(taken, rank):
    """Mean, variance and the rows of Q whose QᵀQ/(rows - 1) is the covariance, in float64."""
    tensors = {}
    for name in without_head(taken[0]):
        w = torch.stack([weights[name].double() for weights in taken])
        running = torch.stack([w[: t + 1].mean(0) for t in range(len(w))])
        rows = (w - running)[-rank:]
        if rank == len(w):  # the first row is zero
            rows = rows[1:] * ((rank - 2) / (rank - 1)) ** 0.5
        tensors[f"mean/{name}"] = w.mean(0).float()
        tensors[f"var/{name}"] = w.var(0, correction=0).float()
        tensors[f"dev/{name}"] = rows.float()
    return tensors


def backbone(model):
    """The network without its head, BatchNorm kept, every weight under its own name."""
    model.fc = nn.Identity()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, 8, 8),),
            file,
            dynamo=False,
            opset_version=17,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            keep_initializers_as_inputs=True,
            input_names=["input"],
            output_names=["features"],
            dynamic_axes={"input": {0: "batch"}, "features": {0: "batch"}},
        )
    return file.getvalue()


def main():
    FOLDER.mkdir(exist_ok=True)
    tensors = {f"reference/{name}": t for name, t in reference(network(0)).items()}
    tensors |= {f"swag/{name}": t for name, t in swa_gaussian(network(0)).items()}
    (FOLDER / "expected.safetensors").write_bytes(safetensors.torch.save(tensors))
    (FOLDER / "backbone.onnx").write_bytes(backbone(network(0)))
    (FOLDER / "other.onnx").write_bytes(backbone(network(2)))


if __name__ == "__main__":
    main()
