"""Runs the sides of each case in turns and keeps what they print."""

import itertools
import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager

from cases import OURS, command
from results import round_key

# It looks after its parent, so that it also ends when the parent is killed.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n" \
       "    for _ in range(10**6): pass"


class NotRun(Exception):
    """A side that cannot run, and why."""


def measure(arguments, python, results, cases):
    """Measures what is missing; one failure of a side in a case spares its other rounds."""
    for _, group in itertools.groupby(cases, lambda case: case.turn):
        group, failed = list(group), set()
        for turn in range(arguments.rounds):
            for case in group:
                missing = [
                    side for side in case.sides if (case, side) not in failed
                    and not results.has(round_key(arguments, case, side, turn))]
                failed |= one_round(arguments, python, results, case, missing, turn)


def one_round(arguments, python, results, case, sides, turn):
    """Times each side once; returns those that could not run."""
    failed = set()
    with busy(case.busy if sides else 0):
        for side in sides:
            key = round_key(arguments, case, side, turn)
            try:
                result = json_from(command(arguments, python, case, side), side,
                                   arguments.timeout)
                results.add(key, result=result)
                said = f"{result.get('step_ms', result.get('predict_ms')):.2f} ms"
            except NotRun as reason:
                results.add(key, error=str(reason))
                failed.add((case, side))
                said = f"not run: {reason}"
            print(f"{key}: {said}", flush=True)
    return failed


def json_from(words, side, timeout):
    """Runs the command and reads the last line it prints."""
    words = [str(word) for word in words]
    if side != OURS:
        words += ["--started", repr(time.time())]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise NotRun(f"took longer than {timeout} s") from None
    except OSError as error:
        raise NotRun(error.strerror) from None
    if done.returncode != 0:
        raise NotRun(reason(done))
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        raise NotRun("printed no result") from None


def reason(done):
    """The line of a failed process that says most, without the folders of this machine."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("error")), None)
    said = said or (lines[-1] if lines else f"exit status {done.returncode}")
    return re.sub(r"(?<!\w)/(?:[\w.+-]+/)+", "", said.removeprefix("error: "))[:160]


@contextmanager
def busy(count):
    """That many processes which only take time, ended whatever happens."""
    processes = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen([sys.executable, "-c", BUSY]))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
