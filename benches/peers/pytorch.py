"""Times PyTorch's training step, as the other side of `priorfit bench`.

A step is forward, cross-entropy, backward and SGD with Nesterov momentum. With --prior-rank K the
loss has the penalty -log p(weights)/N of a Gaussian with a diagonal and K columns, evaluated as the
method's reference does: torch.distributions on all backbone parameters joined into one vector.
With --compile the network goes through torch.compile; the prior and SGD stay eager.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.distributions import LowRankMultivariateNormal
from torch.nn import functional as F

from memory import peak_rss_mb
from models import MODELS, backbone

EXAMPLES = 1000
WARM_UP = 2


def joined(network):
    return torch.cat([parameter.view(-1) for parameter in network.parameters()])


def gaussian_prior(network, rank):
    """A prior of plausible scale centred on the current weights."""
    mean = joined(network).detach().clone()
    columns = torch.randn(len(mean), rank, device=mean.device) * 1e-2
    return LowRankMultivariateNormal(mean, columns, torch.full_like(mean, 0.1))


def timed(work, device):
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def copy_gb_per_s(repeats):
    """Bytes read and written a second by a copy within the device."""
    source = torch.empty(64 << 20, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    ms = statistics.median(timed(lambda: target.copy_(source), "cuda") for _ in range(repeats))
    return 2 * source.numel() * 4 / ms / 1e6


def measure(arguments):
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rss_before = peak_rss_mb()
    device = arguments.device
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
        torch.backends.cudnn.allow_tf32 = arguments.tf32
        torch.backends.cudnn.benchmark = True
    network = backbone(arguments.model, arguments.size).to(device)
    model = nn.Sequential(network, nn.Linear(network.num_features, arguments.classes)).to(device)
    model.train(arguments.batch_norm == "train")
    model = torch.compile(model) if arguments.compile else model
    prior = gaussian_prior(network, arguments.prior_rank) if arguments.prior_rank else None
    optimiser = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    labels = torch.randint(arguments.classes, (arguments.batch,), device=device)

    def step():
        optimiser.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        if prior is not None:
            loss = loss - prior.log_prob(joined(network)) / EXAMPLES
        loss.backward()
        optimiser.step()
        loss.item()

    def forward():
        with torch.no_grad():
            model(images)

    first_step_ms = timed(step, device)
    start_to_step_ms = (time.time() - arguments.started) * 1e3
    for _ in range(WARM_UP):
        step()
    step_ms = statistics.median(timed(step, device) for _ in range(arguments.repeats))
    peak = peak_rss_mb()
    forward()
    forward_ms = statistics.median(timed(forward, device) for _ in range(arguments.repeats))
    return {
        "model": arguments.model, "torch": torch.__version__, "threads": arguments.threads,
        "batch_norm": arguments.batch_norm, "compiled": arguments.compile,
        "prior_rank": arguments.prior_rank,
        "step_ms": round(step_ms, 2), "forward_ms": round(forward_ms, 2),
        "first_step_ms": round(first_step_ms, 2), "start_to_step_ms": round(start_to_step_ms, 2),
        "peak_rss_mb": round(peak, 1), "rss_before_mb": round(rss_before, 1),
        "device_mb": round(torch.cuda.max_memory_allocated() / 2**20, 1) if device == "cuda" else 0,
        "copy_gb_per_s": round(copy_gb_per_s(arguments.repeats), 1) if device == "cuda" else 0,
        "params": sum(parameter.numel() for parameter in network.parameters()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--prior-rank", type=int, default=0)
    parser.add_argument("--batch-norm", choices=["frozen", "train"], default="frozen",
                        help="statistics as stored, or those of the batch")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tf32", action="store_true", help="allow TF32 on a GPU")
    parser.add_argument("--compile", action="store_true", help="compile the network")
    parser.add_argument("--started", type=float, default=time.time(),
                        help="when this process was started, in seconds since the epoch")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:16}{value}")


if __name__ == "__main__":
    main()
