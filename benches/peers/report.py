"""Writes the generated part of docs/performance.md and its plots from the kept results."""

import json
import subprocess
import sys
import textwrap
from argparse import Namespace
from pathlib import Path

from cases import (
    BATCH_STATISTICS, COMPILED, EAGER, FIRST_STEP_MS, FORWARDS_A_STEP, GOALS, INFERENCE, OURS,
    PRIOR_RANK, REPEATS, RUNTIME, SHARE_OF_A_COPY, TF32, batch_curve, inference_cases, load_cases,
    rank_curve, step_cases,
)
from measure import reason
from tables import fit, holds, number, pair, ratio, table

HERE = Path(__file__).resolve().parent
FROM, TO = "<!-- written by benches/peers from here -->", "<!-- to here -->"
FRAME = f"""# Performance

A training step, a prediction and their parts, beside PyTorch and ONNX Runtime on the same networks.

{FROM}
{TO}
"""


class View:
    """What the results say of the cases that the report has a place for."""

    def __init__(self, arguments, results):
        self.arguments, self.results = arguments, results

    def of(self, case, side):
        return self.results.of(self.arguments, case, side)

    def steps(self, rank="any"):
        """Step cases, with all sides that may have been measured."""
        ranks = self.arguments.ranks
        if self.arguments.device == "cpu":
            ranks = sorted({0, PRIOR_RANK, *ranks})
        asked = Namespace(**{**vars(self.arguments), "ranks": ranks, "compile": True})
        return [case for case in step_cases(asked) if rank in ("any", case.rank)]

    def version(self, name):
        records = reversed(self.results.records.values())
        found = (record.get("result", {}).get(name) for record in records)
        return next((version for version in found if version), "not run")


def compared(view, case, other, labels, cells):
    """The row of two sides; why it could not be made; or no row if a side was not measured."""
    ours, theirs = view.of(case, OURS), view.of(case, other)
    if ours is None or theirs is None:
        return []
    for side, result in ((OURS, ours), (other, theirs)):
        if "error" in result:
            return [[*labels, f"not run ({side}): {result['error']}"]]
    return [[*labels, *cells(ours, theirs)]]


def goals_of(case, side):
    """The goals that hold for this row, if any: those of eager PyTorch with frozen statistics."""
    return GOALS.get((case.model, case.batch, case.size)) if side == EAGER else None


def peers(case):
    kinds = (EAGER, TF32, BATCH_STATISTICS, COMPILED)
    return [side for side in case.sides if side in kinds]


def step_times(view):
    rows = []
    for case in view.steps():
        for side in peers(case):
            goals = goals_of(case, side)
            goal = goals and {None: goals.step, PRIOR_RANK: goals.prior}.get(case.rank)

            def cells(ours, theirs):
                share = ours["step_ms"] / theirs["step_ms"]
                judged = [goal, holds(share <= goal)] if goal else []
                return [pair(ours["step_ms"], theirs["step_ms"]),
                        pair(ours["forward_ms"], theirs["forward_ms"]), ratio(share), *judged]

            rows += compared(view, case, side, [case.title, case.prior, side], cells)
    return table(["network", "prior", "beside", "step ms", "forward ms", "step ×", "goal",
                  "holds"], rows)


def peak_mb(view, result):
    """The process's peak, or what was asked of the device."""
    if view.arguments.device == "cpu":
        return result["peak_rss_mb"]
    return result.get("device_mb") or result["planned_bytes"] / 2**20


def step_memory(view):
    """All of priorfit's process counts in both ratios; of the other, all or what it added."""
    rows = []
    for case in view.steps():
        for side in peers(case):
            goals = goals_of(case, side)

            def cells(ours, theirs):
                start = theirs["rss_before_mb"] if view.arguments.device == "cpu" else 0
                mine, whole = peak_mb(view, ours), peak_mb(view, theirs)
                shares = mine / whole, mine / (whole - start)
                judged = [goals.memory, *(holds(share <= goals.memory) for share in shares)] \
                    if goals else []
                return [pair(mine, whole), number(start or None), *map(ratio, shares), *judged]

            rows += compared(view, case, side, [case.title, case.prior, side], cells)
    return table(["network", "prior", "beside", "peak MB", "theirs at start", "whole ×",
                  "beyond start ×", "goal", "whole holds", "beyond holds"], rows)


def first_steps(view):
    rows = []
    for case in view.steps():
        goal = FIRST_STEP_MS.get((case.model, case.batch, case.size))

        def cells(ours, theirs):
            took = ours["first_step_ms"]
            judged = [f"{goal:.0f} ms", holds(took < goal)] if goal else []
            return [number(took), number(theirs["start_to_step_ms"]),
                    number(theirs["first_step_ms"]), *judged]

        rows += compared(view, case, EAGER, [case.title, case.prior], cells)
    return table(["network", "prior", "priorfit ms", "PyTorch ms", "PyTorch's step alone", "goal",
                  "holds"], rows)


def against_forward(view):
    rows = []
    for case in view.steps(None):
        def cells(ours, theirs):
            share = ours["step_ms"] / theirs["predict_ms"]
            return [number(ours["step_ms"]), number(theirs["predict_ms"]), ratio(share),
                    FORWARDS_A_STEP, holds(share <= FORWARDS_A_STEP)]

        rows += compared(view, case, RUNTIME, [case.title], cells)
    return table(["network", "priorfit's step ms", "ONNX Runtime's forward ms", "×", "goal",
                  "holds"], rows)


def predictions(view):
    def cells(ours, theirs):
        share = ours["predict_ms"] / theirs["predict_ms"]
        return [pair(ours["predict_ms"], theirs["predict_ms"]), ratio(share), INFERENCE,
                holds(share <= INFERENCE), pair(ours["first_ms"], theirs["first_ms"]),
                pair(ours["peak_rss_mb"], theirs["peak_rss_mb"])]

    rows = []
    for case in inference_cases():
        rows += compared(view, case, RUNTIME, [case.title], cells)
    return table(["network", "prediction ms", "×", "goal", "holds", "start to first ms",
                  "peak MB"], rows)


def updates(view):
    rows = []
    for case in view.steps():
        ours = view.of(case, OURS)
        if case.rank is None or ours is None:
            continue
        labels = [case.title, case.prior]
        if "error" in ours:
            rows.append([*labels, f"not run: {ours['error']}"])
            continue
        cells = [f"{ours['params'] / 1e6:.2f}", number(ours["prior_update_ms"]),
                 number(ours["update_gb_per_s"])]
        rows.append([*labels, *cells, *beside_copy(view, case, ours)])
    return table(["network", "prior", "M weights", "update ms", "GB/s", "a copy's GB/s", "share",
                  "goal", "holds"], rows)


def beside_copy(view, case, ours):
    """On a GPU the copy is PyTorch's, since priorfit does not time one there."""
    theirs = view.of(case, EAGER) or {}
    copy = ours.get("copy_gb_per_s") or theirs.get("copy_gb_per_s")
    if not copy:
        return ["no copy was timed"]
    share = ours["update_gb_per_s"] / copy
    return [number(copy), ratio(share), SHARE_OF_A_COPY, holds(share >= SHARE_OF_A_COPY)]


def points(view, cases, side, across, up):
    """The points of a curve from left to right, without those that were not run."""
    found = [(case, view.of(case, side)) for case in cases]
    return sorted((across(case, result), result[up]) for case, result in found
                  if result and "error" not in result)


def case_of_each_network(view):
    """The first case of each network with the prior that the goals are for."""
    first = {}
    for case in view.steps(PRIOR_RANK):
        first.setdefault(case.model, case)
    return first.values()


def curves(view):
    """What is plotted: file, title, axes, and the points of each side."""
    batch, rank, weights = (
        lambda case, _: case.batch, lambda case, _: case.rank,
        lambda _, result: result["params"] / 1e6)
    return [
        ("batch", "Step over batch: ResNet-18, 64 px, no prior", "batch", "step ms",
         [(side, points(view, batch_curve(), side, batch, "step_ms")) for side in (OURS, EAGER)]),
        ("rank", "Prior and update over K: ResNet-18", "K", "prior and update ms",
         [(OURS, points(view, rank_curve(), OURS, rank, "prior_update_ms"))]),
        ("weights", f"Prior and update over weights: K = {PRIOR_RANK}", "million weights",
         "prior and update ms",
         [(OURS, points(view, case_of_each_network(view), OURS, weights, "prior_update_ms"))]),
    ]


def curve_failures(view):
    for case in [*batch_curve(), *rank_curve()]:
        for side in case.sides:
            result = view.of(case, side)
            if result and "error" in result:
                yield f"Not run: {case.title}, prior {case.prior}, {side}: {result['error']}"


def curve_tables(view):
    lines = []
    for file, title, x, y, series in curves(view):
        rows = [[side, ", ".join(f"{place(across)}: {number(up)}" for across, up in found),
                 *line(found, x)] for side, found in series if len(found) > 1]
        lines += [f"### {title}", "", *table(["side", f"{x}: {y}", "line, ms", "R²"], rows)]
        if rows:
            lines += [f"![{title}](performance-{file}.svg)", ""]
    for failure in curve_failures(view):
        lines += [failure, ""]
    return lines


def place(across):
    return across if isinstance(across, int) else f"{across:.2f}"


def line(found, x):
    start, slope, r2 = fit(found)
    return [f"{start:.2f} + {slope:.3g} × {x}", f"{r2:.4f}"]


def draw(view, python, folder):
    """Lets the interpreter that has matplotlib draw; a report without plots is still one."""
    plots = []
    for file, title, x, y, series in curves(view):
        series = [
            {"name": side, "points": found, "start": fit(found)[0], "slope": fit(found)[1]}
            for side, found in series if len(found) > 1]
        if series:
            plots.append({"file": f"performance-{file}.svg", "title": title, "x": x, "y": y,
                          "series": series})
    done = subprocess.run([str(python), str(HERE / "plots.py"), str(folder)],
                          input=json.dumps(plots), capture_output=True, text=True)
    if done.returncode != 0:
        print("the plots were not drawn:", reason(done), file=sys.stderr)


def under_load(view):
    rows, quiet = [], {}
    for case in load_cases():
        def cells(ours, theirs):
            times = {OURS: ours["step_ms"], EAGER: theirs["step_ms"]}
            if case.busy == 0:
                quiet.update(times)
            slower = [ratio(times[side] / quiet[side]) if quiet else "–" for side in times]
            return [number(times[OURS]), slower[0], number(times[EAGER]), slower[1],
                    ratio(times[OURS] / times[EAGER])]

        rows += compared(view, case, EAGER, [case.busy], cells)
    return table(["busy processes", "priorfit ms", "× quiet", "PyTorch ms", "× quiet", "step ×"],
                 rows)


def head(view):
    facts = view.results.facts("machine")
    arguments = view.arguments
    options = [f"--{name} {getattr(arguments, name)}" for name, usual in
               (("threads", 2), ("repeats", 5), ("rounds", 2)) if getattr(arguments, name) != usual]
    again = " ".join(["python benches/peers/run.py", *options])
    memory = f"{number(facts.get('memory_gib'))} GiB"
    said = [
        f"Processor: {facts.get('processor')}, cores {facts.get('cores')}, hardware threads "
        f"{facts.get('hardware_threads')}, widest vectors {facts.get('vectors')}; memory {memory}; "
        f"{facts.get('system')}.",
        f"Versions: priorfit {facts.get('priorfit')}, PyTorch {view.version('torch')}, ONNX "
        f"Runtime {view.version('onnxruntime')}.",
        f"Every side has {arguments.threads} threads and f32. Each is a process of its own, in "
        f"turns with the others. Figures are medians of {arguments.repeats} steps "
        f"({REPEATS['inference'] * arguments.repeats} predictions, "
        f"{REPEATS['load'] * arguments.repeats} steps under load), and of "
        f"{arguments.rounds} such rounds.",
        "A ratio (×) is priorfit's share of the other; below 1 is better for priorfit. In a cell "
        "with two numbers the first is priorfit's.",
    ]
    return [
        *(textwrap.fill(f"- {item}", 100, subsequent_indent="  ") for item in said), "",
        "```text", "cargo build --release", again, again + " --tables-only", "```", "",
        "It goes on where it was stopped; the last line only rewrites what follows.",
        "`--compile` adds `torch.compile`, which takes minutes.",
        "",
    ]


STEPS = """\
Forward, cross-entropy with 10 classes, backward, prior, and SGD with Nesterov's momentum.
PyTorch is eager, with BatchNorm's statistics frozen as in priorfit; with those of the batch where a
row says so. Its prior is a low-rank normal over all weights by `torch.distributions`.
"""
MEMORY = """\
Peak of the whole process. What PyTorch holds before it makes the network is its libraries, which
depend on the build ("theirs at start"). "Beyond start" takes that away from PyTorch, and nothing
from priorfit.
"""
FIRST = """\
From the start of the process to the end of its first step: for priorfit reading the file, import,
planning and setting up the prior; for PyTorch its imports and making the network.
"""
FORWARD = "A step without a prior beside ONNX Runtime's forward pass of the same file."
PREDICTION = "The default export, whose BatchNorm is folded into the convolutions, on both sides."
UPDATE = """\
The last part of a step reads weight, gradient, moments and prior of each weight and writes what
changes. Its rate beside that of a copy in memory; what lies in a cache may be faster than a copy.
"""
LOAD = "ResNet-18, batch 16, 64 px, no prior, while other processes compute on the same processor."


def printed(view):
    """What is shown where the report has no place: a GPU, or shapes that were asked for."""
    return [*step_times(view), *step_memory(view), *updates(view)]


def body(view):
    sections = [
        ("Steps", STEPS, step_times(view)), ("Memory of a step", MEMORY, step_memory(view)),
        ("First step", FIRST, first_steps(view)),
        ("A step beside a forward pass", FORWARD, against_forward(view)),
        ("Predictions", PREDICTION, predictions(view)), ("Prior and update", UPDATE, updates(view)),
        ("Curves", "Points, and the straight line of least squares.", curve_tables(view)),
        ("Competing load", LOAD, under_load(view)),
    ]
    lines = head(view)
    for title, text, rows in sections:
        lines += [f"## {title}", "", *text.strip().splitlines(), "", *rows]
    return "\n".join(lines)


def write(arguments, python, results):
    """Replaces what stands between the two comments and leaves the rest of the file."""
    view = View(arguments, results)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "performance.md"
    text = path.read_text(encoding="utf-8") if path.exists() else FRAME
    if FROM not in text or TO not in text:
        text += f"\n{FROM}\n{TO}\n"
    before, _, rest = text.partition(FROM)
    _, _, after = rest.partition(TO)
    path.write_text(f"{before}{FROM}\n\n{body(view)}\n{TO}{after}", encoding="utf-8")
    draw(view, python, arguments.out)
    print(path)
