"""Markdown tables, numbers as text, and the straight line through points."""


def table(header, rows):
    """The table, or a word where nothing was measured."""
    if not rows:
        return ["Not measured.", ""]
    width = len(header)
    lines = [header, ["---"] * width, *rows]
    return [*("| " + " | ".join(padded(line, width)) + " |" for line in lines), ""]


def padded(cells, width):
    cells = [str(cell).replace("|", "\\|") for cell in cells]
    return cells + [""] * (width - len(cells))


def number(value):
    """Three digits or so, and never more than are worth reading."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def ratio(value):
    return f"{value:.2f}"


def pair(ours, theirs):
    return f"{number(ours)} / {number(theirs)}"


def holds(met):
    return "yes" if met else "no"


def fit(points):
    """The line of least squares: its value at zero, its slope, and R²."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    start = mean_y - slope * mean_x
    left = sum((y - start - slope * x) ** 2 for x, y in points)
    total = sum((y - mean_y) ** 2 for _, y in points)
    return start, slope, 1 - left / total if total else 1.0
