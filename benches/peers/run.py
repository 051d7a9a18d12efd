"""Times `priorfit bench` and PyTorch in turns on the same networks and prints a table.

    cargo build --release && python benches/peers/run.py
    cargo build --release && python benches/peers/run.py --device gpu --batch 32

With `--device gpu` PyTorch runs on CUDA, with TF32 off and on, memory is the device's, and below
each network stands the rate of the prior and update pass beside that of a copy on the device.

The first run makes a virtual environment in the work folder and exports the networks there.
Ratios are priorfit's share of the other's; below 1 is better. "of start" is what the process held
before it made the network: PyTorch's libraries, which are far smaller in its CPU-only build.
"""

import argparse
import json
import statistics
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
TIMM_NAMES = {
    "resnet18": "resnet18_bn", "resnet50": "resnet50_bn", "mobilenetv2": "mobilenetv2_100_bn",
    "vit_tiny": "vit_tiny_patch16_224", "convnext_atto": "convnext_atto",
}


def python_with_torch(work):
    """The interpreter of the work folder's virtual environment, made if missing."""
    python = work / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        venv.create(work / "venv", with_pip=True)
        requirements = str(HERE / "requirements.txt")
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
    return python


def json_from(command):
    """Runs the command and reads the last line it prints."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"failed: {' '.join(str(part) for part in command)}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def commands(arguments, python, model, rank):
    """Who is timed, and how, for one network with or without a prior."""
    shared = ["--batch", arguments.batch, "--classes", arguments.classes,
              "--threads", arguments.threads, "--json"]
    file = exported(arguments, model)
    peer = [python, HERE / "pytorch.py", "--model", model, "--size", arguments.size,
            "--repeats", arguments.repeats, "--prior-rank", rank, *shared]
    prior = ["--prior-rank", rank] if rank else ["--no-prior"]
    yield "priorfit", [arguments.priorfit, "bench", file, "--image-size", arguments.size,
                       "--device", arguments.device, *prior, *shared]
    if arguments.device != "cpu":
        yield "PyTorch", [*peer, "--device", "cuda"]
        yield "PyTorch, TF32", [*peer, "--device", "cuda", "--tf32"]
        return
    yield "PyTorch", peer
    if TIMM_NAMES[model].endswith("_bn"):
        yield "PyTorch, batch statistics", [*peer, "--batch-norm", "train"]


def exported(arguments, model):
    name = TIMM_NAMES[model]
    name = name.removesuffix("_bn") if arguments.folded else name
    return arguments.work / f"{arguments.size}px" / f"{name}.onnx"


def measure(arguments, python, model, rank):
    """Everyone's median over the rounds, taken in turns so that drift hits all alike."""
    seen = {}
    for _ in range(arguments.rounds):
        for name, command in commands(arguments, python, model, rank):
            seen.setdefault(name, []).append(json_from(command))
    keys = ("step_ms", "forward_ms", "first_step_ms", "peak_rss_mb", "rss_before_mb",
            "planned_bytes", "device_mb", "update_gb_per_s", "copy_gb_per_s")
    medians = {name: {key: statistics.median(run.get(key, 0) for run in runs) for key in keys}
               for name, runs in seen.items()}
    if arguments.device != "cpu":
        for result in medians.values():
            result["peak_rss_mb"] = result["device_mb"] or result["planned_bytes"] / 2**20
    return medians


def show(model, rank, results):
    ours = results["priorfit"]
    for name, result in results.items():
        print(f"{model:15}{rank:>5}  {name:26}{result['step_ms']:9.1f}{result['forward_ms']:10.1f}"
              f"{result['first_step_ms']:10.1f}{result['peak_rss_mb']:9.0f}{result['rss_before_mb']:9.0f}"
              f"{ours['step_ms'] / result['step_ms']:8.2f}"
              f"{ours['peak_rss_mb'] / result['peak_rss_mb']:8.2f}", flush=True)
    copy = max(result["copy_gb_per_s"] for result in results.values())
    if copy:
        rate = ours["update_gb_per_s"]
        print(f"{'':22}prior and update {rate:.0f} GB/s, a copy {copy:.0f} GB/s: {rate / copy:.2f}")


def main():
    root = HERE.parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=root / "target" / "peers")
    parser.add_argument("--priorfit", type=Path, default=root / "target/release/priorfit")
    parser.add_argument("--python", type=Path, help="an interpreter that has PyTorch and timm")
    parser.add_argument("--models", nargs="+", choices=TIMM_NAMES, default=list(TIMM_NAMES))
    parser.add_argument("--ranks", nargs="+", type=int, default=[0, 5], help="0: no prior")
    parser.add_argument("--device", default="cpu", help="cpu, gpu, or a part of a GPU's name")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folded", action="store_true",
                        help="give priorfit the default export, BatchNorm folded away")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    python = arguments.python or python_with_torch(arguments.work)
    missing = [m for m in arguments.models if not exported(arguments, m).exists()]
    if missing:
        folder = arguments.work / f"{arguments.size}px"
        subprocess.run([python, HERE / "export.py", folder, "--size", str(arguments.size),
                        "--models", *missing], check=True)
    print(f"{'network':15}{'rank':>5}  {'':26}{'step ms':>9}{'forward':>10}{'first':>10}"
          f"{'peak MB':>9}{'of start':>9}{'step ×':>8}{'MB ×':>8}")
    for model in arguments.models:
        for rank in arguments.ranks:
            show(model, rank, measure(arguments, python, model, rank))


if __name__ == "__main__":
    main()
