"""Times priorfit, PyTorch and ONNX Runtime in turns on the same networks and writes the report.

    cargo build --release && python benches/peers/run.py
    cargo build --release && python benches/peers/run.py --device gpu --batch 32

The first run makes a virtual environment in the work folder and exports the networks there. Every
result is kept in the work folder's results.jsonl as it is made: a run that was stopped goes on, and
`--again` measures anew. What was measured is written to docs/performance.md and its plots.

With `--device gpu` PyTorch runs on CUDA, with TF32 off and on, memory is the device's, and the rate
of the prior and update pass stands beside that of a copy on the device. There, and with `--batch`,
`--size`, `--classes` or `--folded`, only steps are compared, and their tables are only printed.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

from cases import NETWORKS, PARTS, PRIOR_RANK, all_cases, exported, is_standard
from machine import machine
from measure import measure
from report import View, printed, write
from results import Results, round_key

HERE = Path(__file__).resolve().parent


def python_with_torch(work):
    """The interpreter of the work folder's virtual environment, made or completed if need be."""
    python = work / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted, installed = HERE / "requirements.txt", work / "venv" / "installed.txt"
    if not python.exists():
        venv.create(work / "venv", with_pip=True)
    if not installed.exists() or installed.read_text() != wanted.read_text():
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", str(wanted)], check=True)
        installed.write_text(wanted.read_text())
    return python


def interpreter(arguments):
    """Who runs the other sides and draws; nothing is installed only to write tables."""
    made = arguments.work / "venv"
    if arguments.tables_only and not arguments.python and not made.exists():
        return sys.executable
    return arguments.python or python_with_torch(arguments.work)


def export(arguments, python, cases):
    """Makes the ONNX files that are missing."""
    for size in sorted({case.size for case in cases}):
        missing = sorted({case.model for case in cases if case.size == size
                          and not exported(arguments, case).exists()})
        if missing:
            subprocess.run([python, HERE / "export.py", arguments.work / f"{size}px",
                            "--size", str(size), "--models", *missing], check=True)


def forget(arguments, results, cases):
    """Lets the cases be measured anew; the file keeps what was."""
    for case in cases:
        for side in case.sides:
            for turn in range(arguments.rounds):
                results.records.pop(round_key(arguments, case, side, turn), None)


def parsed():
    root = HERE.parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=root / "target" / "peers")
    parser.add_argument("--out", type=Path, default=root / "docs", help="where the report goes")
    parser.add_argument("--priorfit", type=Path, default=root / "target/release/priorfit")
    parser.add_argument("--python", type=Path, help="an interpreter that has the requirements")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--ranks", nargs="+", type=int, default=[0, PRIOR_RANK],
                        help="priors of the steps; 0: no prior")
    parser.add_argument("--device", default="cpu", help="cpu, gpu, or a part of a GPU's name")
    parser.add_argument("--batch", type=int, help="batch of all steps")
    parser.add_argument("--size", type=int, help="size of all steps' images")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for one process")
    parser.add_argument("--compile", action="store_true", help="time torch.compile as well")
    parser.add_argument("--folded", action="store_true",
                        help="give priorfit the default export, BatchNorm folded away")
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    parser.add_argument("--tables-only", action="store_true", help="only write the report anew")
    return parser.parse_args()


def main():
    arguments = parsed()
    arguments.work.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.work / "results.jsonl")
    python = interpreter(arguments)
    if not arguments.tables_only:
        cases = [case for case in all_cases(arguments)
                 if case.part in arguments.parts and case.model in arguments.models]
        if arguments.again:
            forget(arguments, results, cases)
        export(arguments, python, cases)
        results.add("machine", result=machine(arguments.priorfit))
        measure(arguments, python, results, cases)
    if is_standard(arguments):
        write(arguments, python, results)
    else:
        print("\n".join(printed(View(arguments, results))))


if __name__ == "__main__":
    main()
