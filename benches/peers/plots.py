"""Draws curves with the straight lines fitted to them as SVG files; reads JSON from its input.

It is a program of its own so that only the interpreter that has matplotlib needs it.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
# The same results make the same bytes, and text stays text.
matplotlib.rcParams.update({"svg.hashsalt": "priorfit", "svg.fonttype": "none", "font.size": 10})

from matplotlib import pyplot  # noqa: E402


def draw(plot, folder):
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for number, series in enumerate(plot["series"]):
        colour = f"C{number}"
        across, up = zip(*series["points"])
        axes.plot(across, up, "o", color=colour, label=series["name"])
        ends = [0, max(across)]
        line = [series["start"] + series["slope"] * end for end in ends]
        axes.plot(ends, line, "-", color=colour, linewidth=1)
    axes.set(title=plot["title"], xlabel=plot["x"], ylabel=plot["y"])
    axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    if len(plot["series"]) > 1:
        axes.legend()
    figure.savefig(folder / plot["file"], metadata={"Date": None})
    pyplot.close(figure)


def main():
    for plot in json.load(sys.stdin):
        draw(plot, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
