"""Compares two ways to a prior's strength that nobody has to tune, on the same draws of labels:

- ours: `priorfit adapt` without tuning flags, whose strengths are cross-validated along a path;
- evidence: λ, τ and the posterior's width learned during one run by the data-emphasised evidence
  lower bound (Harvey et al. 2025, arXiv 2502.01861), in PyTorch: q = N(θ, σ²I) over all weights,
  N(μ, λI) for the backbone's and N(0, τI) for the head's, λ and τ by their closed forms, σ by its
  gradient, the likelihood weighed by weights / examples; of several rates the one with the best
  bound is kept. `--plain` weighs the likelihood by one.

    python benches/strength/run.py --backbone resnet14.onnx --pool cifar10_train.npz \\
        --mean 0.4914 0.4822 0.4465 --std 0.247 0.2435 0.2616

The pool's last images are the test set, `--draws` disjoint draws from the others the training sets.
The backbone's file has only convolutions with their BatchNorm folded, ReLU, sums and a mean over
pixels. Needs PyTorch, numpy and onnx: `benches/peers/requirements.txt`.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import numpy
import onnx
import onnx.numpy_helper
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F


class Backbone(nn.Module):
    """The few ops of a folded residual network, interpreted; its initialisers are parameters."""

    def __init__(self, path):
        super().__init__()
        self.graph = onnx.load(path).graph
        self.weights = nn.ParameterDict()
        self.constants = {}
        for tensor in self.graph.initializer:
            value = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
            if value.is_floating_point() and value.numel() > 1:
                self.weights[tensor.name.replace(".", "|")] = nn.Parameter(value)
            else:
                self.constants[tensor.name] = value

    def forward(self, x):
        values = {self.graph.input[0].name: x, "": None, **self.constants}
        values |= {name.replace("|", "."): weight for name, weight in self.weights.items()}
        for node in self.graph.node:
            inputs = [values[name] for name in node.input]
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            values[node.output[0]] = apply(node.op_type, inputs, attributes)
        return values[self.graph.output[0].name].flatten(1)


def apply(op, inputs, attributes):
    if op == "Conv":
        before, after = attributes["pads"][:2], attributes["pads"][2:]
        x = F.pad(inputs[0], (before[1], after[1], before[0], after[0]))
        return F.conv2d(x, *inputs[1:], stride=tuple(attributes["strides"]))
    if op == "Relu":
        return inputs[0].relu()
    if op == "Add":
        return inputs[0] + inputs[1]
    if op in ("ReduceMean", "GlobalAveragePool"):
        return inputs[0].mean((2, 3), keepdim=True)
    if op in ("Reshape", "Flatten", "Squeeze"):
        return inputs[0].flatten(1)
    if op == "Identity":
        return inputs[0]
    raise SystemExit(f"this comparison knows no {op}")


class Classifier(nn.Module):
    def __init__(self, path, features, classes):
        super().__init__()
        self.backbone = Backbone(path)
        self.head = nn.Linear(features, classes)

    def forward(self, x):
        return self.head(self.backbone(x))


def features_of(model, x):
    with torch.no_grad():
        return torch.cat([model.backbone(part) for part in x.split(500)])


def fit_probe(model, x, y):
    """The head that both sides begin with: the convex optimum under N(0, I)."""
    features = features_of(model, x)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    solver = torch.optim.LBFGS(model.head.parameters(), max_iter=300)

    def closure():
        solver.zero_grad()
        penalty = sum(p.square().sum() for p in model.head.parameters()) / (2 * len(y))
        loss = F.cross_entropy(model.head(features), y) + penalty
        loss.backward()
        return loss

    solver.step(closure)


def split(values):
    """Backbone's and head's, of a dict by name."""
    backbone = [v for name, v in values.items() if not name.startswith("head.")]
    head = [v for name, v in values.items() if name.startswith("head.")]
    return backbone, head


def closed_form(squares, sigma, number):
    """argmin over the variance of KL(N(θ, σ²I) ‖ N(μ, variance·I))."""
    return squares / number + sigma**2


def divergence(squares, sigma, number, variance):
    """KL(N(θ, σ²I) ‖ N(μ, variance·I))."""
    return 0.5 * ((squares + number * sigma**2) / variance - number
                  + number * torch.log(variance / sigma**2))


def learn(model, x, y, rate, arguments, generator):
    """One run that learns weights, σ, λ and τ; returns its last epochs' bound and the variances."""
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    raw = torch.tensor(math.log(math.expm1(arguments.sigma)), requires_grad=True)
    backbone, head = split(dict(model.named_parameters()))
    numbers = [sum(p.numel() for p in part) for part in (backbone, head)]
    weight = 1.0 if arguments.plain else sum(numbers) / len(y)
    solver = torch.optim.SGD([*backbone, *head], lr=rate, momentum=0.9, nesterov=True)
    # The gradient of σ has the scale of the bound, whatever the weights': Adam does not see it.
    width = torch.optim.Adam([raw], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, arguments.steps)
    bounds = []
    for step in range(arguments.steps):
        if step % max(1, len(y) // arguments.batch) == 0:
            order = torch.randperm(len(y), generator=generator)
        at = (step * arguments.batch) % len(y)
        rows = order[at:at + arguments.batch]
        sigma = F.softplus(raw)
        parameters = dict(model.named_parameters())
        sample = {name: p + sigma * torch.randn(p.shape, generator=generator)
                  for name, p in parameters.items()}
        loss = F.cross_entropy(functional_call(model, sample, (x[rows],)), y[rows])
        backbone, head = split(parameters)
        fixed, _ = split(start)
        squares = [sum((p - s).square().sum() for p, s in zip(backbone, fixed)),
                   sum(p.square().sum() for p in head)]
        variances = [closed_form(s.detach(), sigma.detach(), n) for s, n in zip(squares, numbers)]
        kl = sum(divergence(s, sigma, n, v) for s, n, v in zip(squares, numbers, variances))
        objective = loss + kl / (weight * len(y))
        solver.zero_grad()
        width.zero_grad()
        objective.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        solver.step()
        width.step()
        schedule.step()
        bounds.append(objective.item())
        if not math.isfinite(bounds[-1]):
            return math.inf, None
    last = bounds[-max(1, arguments.steps // 5):]
    return statistics.mean(last), [v.item() for v in variances] + [sigma.item()]


def measures(logits, y):
    return {"nll": F.cross_entropy(logits, y).item(),
            "accuracy": (logits.argmax(1) == y).double().mean().item()}


def evidence(arguments, normalised, train, test):
    """The run of the rate with the best bound, by its mean weights; the probe it began with."""
    x, y = normalised(train[0]), torch.from_numpy(train[1])
    test_x, test_y = normalised(test[0]), torch.from_numpy(test[1])
    classes = int(train[1].max()) + 1
    best = None
    for rate in arguments.rates:
        model = Classifier(arguments.backbone, arguments.features, classes)
        fit_probe(model, x, y)
        if best is None:
            with torch.no_grad():
                probe = measures(model.head(features_of(model, test_x)), test_y)
        bound, learned = learn(model, x, y, rate, arguments, torch.Generator().manual_seed(0))
        with torch.no_grad():
            result = measures(model.head(features_of(model, test_x)), test_y)
        result |= {"bound": bound, "rate": rate, "lambda_tau_sigma": learned}
        print(json.dumps({"evidence": result, "examples": len(y)}), flush=True)
        if best is None or bound < best["bound"]:
            best = result
    return probe, best


def ours(arguments, train, test):
    """`priorfit adapt` without tuning flags."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    files = {name: arguments.work / f"{name}.npz" for name in ("train", "test")}
    for name, (x, y) in (("train", train), ("test", test)):
        numpy.savez(files[name], x=x, y=y)
    posterior = arguments.work / "posterior"
    shutil.rmtree(posterior, ignore_errors=True)
    statistics_given = [text for key in ("mean", "std")
                        for text in (f"--{key}", ",".join(map(str, getattr(arguments, key))))]
    answer("adapt", "--backbone", arguments.backbone, "--train", files["train"], "--out", posterior,
           *statistics_given)
    report = answer("evaluate", "--posterior", posterior, "--data", files["test"])
    return {"nll": report["nll"]["mean"], "accuracy": report["accuracy"]}


def answer(*command):
    """Runs priorfit on the processor and reads its JSON."""
    command = [arguments.priorfit, *command, "--device", "cpu", "--threads",
               arguments.threads, "--json", "--quiet"]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def draws(pool, arguments):
    """The test set, and for each number of labels balanced training sets that share no image."""
    x, y = pool["x"], pool["y"]
    test = x[-arguments.test:], y[-arguments.test:]
    y = y[:-arguments.test]
    rng = numpy.random.default_rng(0)
    members = [rng.permutation(numpy.flatnonzero(y == c)) for c in range(int(y.max()) + 1)]
    for number in arguments.labels:
        each = number // len(members)
        for draw in range(arguments.draws):
            rows = numpy.concatenate([m[draw * each:(draw + 1) * each] for m in members])
            yield number, draw, (x[rows], y[rows]), test


def main(arguments):
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    mean, std = (torch.tensor(getattr(arguments, key)).view(1, -1, 1, 1) for key in ("mean", "std"))

    def normalised(x):
        return (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 - mean) / std

    table = {}
    for number, draw, train, test in draws(numpy.load(arguments.pool), arguments):
        begun = time.monotonic()
        probe, learned = evidence(arguments, normalised, train, test)
        row = {"probe": probe, "evidence": learned, "evidence_s": time.monotonic() - begun,
               "priorfit": ours(arguments, train, test)}
        print(json.dumps({"examples": number, "draw": draw, **row}), flush=True)
        table.setdefault(number, []).append(row)
    print("\n| N | probe | evidence | priorfit |\n|---|---|---|---|")
    for number, rows in table.items():
        cells = [" / ".join(f"{statistics.mean(row[who][key] for row in rows):.3f}"
                            for key in ("accuracy", "nll"))
                 for who in ("probe", "evidence", "priorfit")]
        print(f"| {number} | " + " | ".join(cells) + " |", flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--priorfit", type=Path, default=Path("target/release/priorfit"))
    parser.add_argument("--work", type=Path, default=Path("target/strength"))
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--features", type=int, default=128, help="features of the backbone")
    parser.add_argument("--pool", required=True, help="an .npz with x [N,H,W,3] and classes y [N]")
    parser.add_argument("--mean", type=float, nargs="+", required=True)
    parser.add_argument("--std", type=float, nargs="+", required=True)
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=400, help="of the evidence's runs, each")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.03, 0.01, 0.003])
    parser.add_argument("--sigma", type=float, default=1e-3, help="σ that a run begins with")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--plain", action="store_true", help="do not weigh the likelihood")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    main(arguments)
