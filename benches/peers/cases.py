"""What is measured: networks, goals, the cases of each part, and the command of each side."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

OURS = "priorfit"
EAGER = "PyTorch"
TF32 = "PyTorch, TF32"
BATCH_STATISTICS = "PyTorch, batch statistics"
COMPILED = "PyTorch, compiled"
RUNTIME = "ONNX Runtime"

PARTS = ("steps", "inference", "curves", "load")
# How many times as many repeats: predictions are short, and steps under load vary.
REPEATS = {"inference": 4, "load": 3}


@dataclass(frozen=True)
class Network:
    title: str
    file: str
    batch_norm: bool
    batch: int = 8
    size: int = 224


NETWORKS = {
    "resnet18": Network("ResNet-18", "resnet18", True),
    "resnet50": Network("ResNet-50", "resnet50", True),
    "mobilenetv2": Network("MobileNetV2", "mobilenetv2_100", True),
    "vit_tiny": Network("ViT-Tiny/16", "vit_tiny_patch16_224", False),
    "convnext_atto": Network("ConvNeXt-Atto", "convnext_atto", False),
    "cifar_resnet14": Network("CIFAR ResNet-14", "cifar_resnet14", True, 64, 32),
}


@dataclass(frozen=True)
class Goals:
    """The most that priorfit should take, as a share of eager PyTorch with frozen statistics."""

    step: float
    prior: float
    memory: float


GOALS = {
    ("resnet18", 8, 224): Goals(0.6, 0.4, 0.5),
    ("resnet50", 8, 224): Goals(0.6, 0.4, 0.5),
    ("mobilenetv2", 8, 224): Goals(0.35, 0.35, 0.4),
    ("vit_tiny", 8, 224): Goals(0.7, 0.5, 0.5),
    ("convnext_atto", 8, 224): Goals(0.6, 0.5, 0.4),
    ("resnet18", 16, 64): Goals(0.6, 0.25, 0.4),
    ("cifar_resnet14", 64, 32): Goals(0.6, 0.5, 0.3),
}
PRIOR_RANK = 5
FORWARDS_A_STEP = 3.0
INFERENCE = 1.0
SHARE_OF_A_COPY = 0.8
FIRST_STEP_MS = {("resnet18", 8, 224): 1000.0}

CURVE_BATCHES = (1, 2, 4, 8, 16, 32)
CURVE_RANKS = (0, 1, 2, 5, 10, 20, 40)


@dataclass(frozen=True)
class Case:
    """One network at one size, and who is timed on it in turns."""

    part: str
    model: str
    batch: int
    size: int
    # None without a prior; 0 is a prior with a diagonal only.
    rank: int | None
    sides: tuple[str, ...]
    # Processes that do nothing but take time from the measured one.
    busy: int = 0

    @property
    def turn(self):
        """Cases of one turn are measured round by round together: drift hits all of them alike."""
        return self.part, None if self.part == "load" else self.model, self.size

    @property
    def prior(self):
        return "none" if self.rank is None else f"K = {self.rank}"

    @property
    def title(self):
        return f"{NETWORKS[self.model].title}, batch {self.batch}, {self.size} px"

    def repeats(self, arguments):
        return arguments.repeats * REPEATS.get(self.part, 1)

    def key(self, arguments, side):
        """What tells one result from another, but for the round."""
        prior = "no prior" if self.rank is None else f"rank {self.rank}"
        folded = ["folded"] if arguments.folded else []
        return "/".join([
            self.part, self.model, f"batch {self.batch}", f"{self.size} px", prior,
            f"{self.busy} busy", f"{arguments.classes} classes", f"{arguments.threads} threads",
            f"{self.repeats(arguments)} repeats", arguments.device, *folded, side])


def is_standard(arguments):
    """Whether the report has a place for what these arguments ask for."""
    changed = arguments.batch or arguments.size or arguments.folded or arguments.classes != 10
    return arguments.device == "cpu" and not changed


def step_sides(arguments, model, rank):
    if arguments.device != "cpu":
        return OURS, EAGER, TF32
    sides = [OURS, EAGER]
    if rank is None:
        sides += [BATCH_STATISTICS] if NETWORKS[model].batch_norm else []
        sides += [COMPILED] if arguments.compile else []
        sides += [RUNTIME]
    return tuple(sides)


def step_cases(arguments):
    def shapes():
        for model, network in NETWORKS.items():
            yield model, arguments.batch or network.batch, arguments.size or network.size
        if is_standard(arguments):
            yield "resnet18", 16, 64

    for model, batch, size in shapes():
        for rank in arguments.ranks:
            rank = rank or None
            yield Case("steps", model, batch, size, rank, step_sides(arguments, model, rank))


def inference_cases():
    for model, network in NETWORKS.items():
        for batch in (1, 8):
            yield Case("inference", model, batch, network.size, None, (OURS, RUNTIME))


def batch_curve():
    return [Case("curves", "resnet18", batch, 64, None, (OURS, EAGER)) for batch in CURVE_BATCHES]


def rank_curve():
    return [Case("curves", "resnet18", 8, 64, rank, (OURS,)) for rank in CURVE_RANKS]


def load_cases():
    return [Case("load", "resnet18", 16, 64, None, (OURS, EAGER), busy) for busy in (0, 1, 2)]


def all_cases(arguments):
    """Every case there is with these arguments, in the order of measuring."""
    cases = list(step_cases(arguments))
    if is_standard(arguments):
        cases += [*inference_cases(), *batch_curve(), *rank_curve(), *load_cases()]
    return cases


def exported(arguments, case):
    """The file: training keeps BatchNorm, inference has it folded by the exporter."""
    network = NETWORKS[case.model]
    kept = network.batch_norm and case.part != "inference" and not arguments.folded
    name = f"{network.file}_bn.onnx" if kept else f"{network.file}.onnx"
    return arguments.work / f"{case.size}px" / name


def command(arguments, python, case, side):
    """How one side is run. PyTorch and ONNX Runtime are also told when their process started."""
    shared = ["--batch", case.batch, "--threads", arguments.threads,
              "--repeats", case.repeats(arguments)]
    if side == OURS:
        return [arguments.priorfit, "bench", exported(arguments, case), *shared, "--json",
                "--image-size", case.size, "--device", arguments.device,
                *our_options(arguments, case)]
    if side == RUNTIME:
        file = exported(arguments, case)
        return [python, HERE / "runtime.py", file, *shared, "--size", case.size]
    extra = {BATCH_STATISTICS: ["--batch-norm", "train"], COMPILED: ["--compile"],
             TF32: ["--tf32"]}.get(side, [])
    device = [] if arguments.device == "cpu" else ["--device", "cuda"]
    return [python, HERE / "pytorch.py", "--model", case.model, "--size", case.size, *shared,
            "--classes", arguments.classes, "--prior-rank", case.rank or 0, "--json",
            *device, *extra]


def our_options(arguments, case):
    if case.part == "inference":
        return ["--predict"]
    prior = ["--no-prior"] if case.rank is None else ["--prior-rank", case.rank]
    return ["--classes", arguments.classes, *prior]
