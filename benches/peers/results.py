"""Results, kept line by line as they are made, and what the rounds of one case come to."""

import json
import statistics


class Results:
    """One record for each process that was timed: its key and either its result or an error."""

    def __init__(self, path):
        self.path = path
        self.records = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            self.keep(line)
        if text and not text.endswith("\n"):
            self.write("")

    def keep(self, line):
        """Takes a line in; the last of a file may have been cut off when a run was stopped."""
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            return
        self.records[record["key"]] = record

    def add(self, key, **what):
        record = {"key": key, **what}
        self.records[key] = record
        self.write(json.dumps(record))

    def write(self, line):
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def has(self, key):
        """Whether it was measured. What failed is tried again."""
        return "result" in self.records.get(key, {})

    def facts(self, key):
        return self.records.get(key, {}).get("result", {})

    def of(self, arguments, case, side):
        """The median of each number over the rounds, an error, or None if nothing was run."""
        keys = [round_key(arguments, case, side, turn) for turn in range(arguments.rounds)]
        found = [self.records[key] for key in keys if key in self.records]
        runs = [record["result"] for record in found if "result" in record]
        if runs:
            return {name: middle([run.get(name) for run in runs]) for name in runs[0]}
        return {"error": found[0]["error"]} if found else None


def round_key(arguments, case, side, turn):
    return f"{case.key(arguments, side)}/round {turn}"


def middle(values):
    """The median of numbers; of anything else the first."""
    if all(isinstance(value, (int, float)) for value in values):
        return statistics.median(values)
    return values[0]
