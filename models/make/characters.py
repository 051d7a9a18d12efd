"""Makes the demo: a backbone that has learned letters, and handwritten digits to adapt it to.

    python characters.py data --fonts DIR   writes demo/characters.npz and demo/digits.npz
    python characters.py train --fonts DIR  trains on more such letters, writes demo/backbone.onnx
    python characters.py evaluate           how well its features separate the digits

The source task is letters, never digits: related strokes, other classes. Each picture goes through
what the digits went through (a 32x32 bitmap of the cropped character, counted in 4x4 blocks).
"""

import argparse
import copy
import io
import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from golden import stripped

OUT = Path(__file__).resolve().parent.parent / "demo"
SEED = 2205
# Capitals, the small letters that are no smaller copy of their capital (`l` looks like `I`), and
# signs with bows and crossings, which letters have few of.
CLASSES = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"abdefghnqrt", *"&?$%#@"]
MERGED = {c.upper(): c.upper() + c for c in "cijkmopsuvwxyz"}
# Families whose licences (OFL, MIT, Bitstream Vera) leave pictures made with them free.
FAMILIES = {
    "hand": ["dkg", "breip", "comic-neue", "andika"],
    "print": ["dejavu", "hack", "dosis", "quicksand", "inconsolata", "lobstertwo"],
}
CANVAS = 64
TRAINING, SHIPPED, TEST = 1000, 300, 60
MEAN, STD = 0.31, 0.37
SIZE = 16


def font_files(folder):
    """(path, weight) of every usable font: handwriting is drawn more often than print."""
    found = []
    for kind, share in (("hand", 0.65), ("print", 0.35)):
        for family in FAMILIES[kind]:
            paths = sorted(p for p in Path(folder).rglob("*.[ot]tf")
                           if family in str(p.relative_to(folder)).lower()
                           and p.is_file() and not re.search("Math|Light|Book", p.name))
            assert paths, f"no font of the family {family} in {folder}"
            weight = share / len(FAMILIES[kind]) / len(paths)
            found += [(path, weight) for path in paths]
    return found


def glyph(font, character):
    """The character, white on black, filling most of a square canvas."""
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), character, fill=255, font=font)
    scale = CANVAS * 0.62 / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(image.resize(size, Image.Resampling.BOX),
                 [(CANVAS - side) // 2 for side in size])
    return np.asarray(canvas, np.float32) / 255


def distort(image, rng):
    """A random affine and elastic map, then a random stroke thickness, as a bitmap."""
    angle, shear = rng.normal(0, 0.12), rng.normal(0, 0.2)
    stretch = np.exp(rng.normal(0, 0.12, 2))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1, 0], [shear, 1]]) @ np.diag(stretch)
    centre = (CANVAS - 1) / 2
    grid = np.stack(np.meshgrid(*[np.arange(CANVAS) - centre] * 2, indexing="ij"))
    smooth = rng.uniform(5, 10)
    wobble = ndimage.gaussian_filter(rng.normal(0, 1, grid.shape), (0, smooth, smooth))
    wobble *= rng.uniform(0, 0.45 * smooth) / wobble.std()
    where = np.tensordot(matrix, grid, 1) + wobble + centre
    warped = ndimage.map_coordinates(image, where, order=1)
    ink = warped > 0.25
    half_stroke = ndimage.distance_transform_edt(ink).max()
    growth = max(0, rng.uniform(2.0, 4.5) - half_stroke)
    return ndimage.distance_transform_edt(~ink) <= growth


def counted(bitmap, rng):
    """The cropped bitmap at 32x32, counted in 4x4 blocks: 8x8 values from 0 to 16."""
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    crop = bitmap[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    height, width = crop.shape
    wide = int(np.clip(26 * width / height * np.exp(rng.normal(0, 0.15)), 5, 26))
    scaled = Image.fromarray(crop).convert("L").resize((wide, 32), Image.Resampling.BILINEAR)
    page = np.zeros((32, 32), bool)
    start = (32 - wide) // 2
    page[:, start:start + wide] = np.asarray(scaled) > 100
    return page.reshape(8, 4, 8, 4).sum((1, 3))


def characters(folder, per_class, seed):
    """per_class pictures of every class, shuffled: uint8 [N, 8, 8] and int64 [N].

    A class's first pictures are the same however many are asked for.
    """
    files = font_files(folder)
    fonts = [ImageFont.truetype(str(path), 72) for path, _ in files]
    weights = np.array([weight for _, weight in files])
    cache, pictures, labels = {}, [], []
    for label, name in enumerate(CLASSES):
        rng = np.random.default_rng([seed, label])
        for _ in range(per_class):
            key = (rng.choice(len(fonts), p=weights), rng.choice([*MERGED.get(name, name)]))
            if key not in cache:
                cache[key] = glyph(fonts[key[0]], key[1])
            pictures.append(counted(distort(cache[key], rng), rng))
            labels.append(label)
    order = np.random.default_rng(seed).permutation(len(labels))
    return as_bytes(np.stack(pictures))[order], np.array(labels, np.int64)[order]


def as_bytes(counts):
    return np.round(counts * (255 / 16)).astype(np.uint8)


def write_data(folder):
    OUT.mkdir(exist_ok=True)
    pictures, labels = characters(folder, SHIPPED, SEED)
    np.savez_compressed(OUT / "characters.npz", x=pictures, y=labels)
    digits = load_digits()
    np.savez_compressed(OUT / "digits.npz", x=as_bytes(digits.images),
                        y=digits.target.astype(np.int64))
    preprocess = {"mean": [MEAN], "std": [STD], "height": SIZE, "width": SIZE, "channels": 1}
    (OUT / "preprocess.json").write_text(json.dumps(preprocess) + "\n")


def prepared(pictures):
    """uint8 [N, 8, 8] as the backbone's input [N, 1, 16, 16]."""
    scaled = torch.from_numpy(pictures).float().div(255)[:, None]
    larger = F.interpolate(scaled, (SIZE, SIZE), mode="bilinear", align_corners=False)
    return (larger - MEAN) / STD


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                                          nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Backbone(nn.Module):
    """[N, 1, 16, 16] to 64 features."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16),
                                  nn.ReLU())
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))

    def forward(self, x):
        return self.blocks(self.stem(x)).mean((2, 3))


def train(folder, epochs=6, batch=128, rate=0.1):
    torch.manual_seed(SEED)
    x, y = characters(folder, TRAINING, SEED)
    test_x, test_y = characters(folder, TEST, SEED + 1)
    x, y, test_x = prepared(x), torch.from_numpy(y), prepared(test_x)
    print(f"{len(x)} characters, mean {x.mean() * STD + MEAN:.3f}, deviation {x.std() * STD:.3f}")
    backbone, head = Backbone(), nn.Linear(64, len(CLASSES))
    model = nn.Sequential(backbone, head)
    steps = epochs * (len(x) // batch)
    optimiser = torch.optim.SGD(model.parameters(), rate, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.2)
    for epoch in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(batch)[:len(x) // batch]:
            optimiser.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            right = (model(test_x).argmax(1).numpy() == test_y).mean()
        print(f"epoch {epoch + 1}: {right:.4f} of new characters", flush=True)
    export(backbone)
    evaluate(backbone)


def export(backbone):
    buffer = io.BytesIO()
    torch.onnx.export(backbone.eval(), (torch.randn(2, 1, SIZE, SIZE),), buffer, dynamo=True,
                      input_names=["image"], output_names=["features"], external_data=False,
                      dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False)
    onnx.save(stripped(onnx.load_model_from_string(buffer.getvalue())), OUT / "backbone.onnx")


def evaluate(backbone=None, labels_per_class=10, seeds=5):
    """Digits from a few labels: raw pixels, the exported features, and fine-tuning."""
    data = np.load(OUT / "digits.npz")
    session = onnxruntime.InferenceSession(str(OUT / "backbone.onnx"),
                                           providers=["CPUExecutionProvider"])
    features = session.run(None, {"image": prepared(data["x"]).numpy()})[0]
    pixels = data["x"].reshape(len(data["x"]), -1) / 255
    results = {"raw pixels": [], "frozen features": []} | ({"fine-tuned": []} if backbone else {})
    for seed in range(seeds):
        rows = few(data["y"], labels_per_class, np.random.default_rng(seed))
        rest = np.setdiff1d(np.arange(len(pixels)), rows)
        for name, x in (("raw pixels", pixels), ("frozen features", features)):
            probe = LogisticRegression(max_iter=2000).fit(x[rows], data["y"][rows])
            results[name].append(probe.score(x[rest], data["y"][rest]))
        if backbone:
            tuned = fine_tuned(copy.deepcopy(backbone), probe, data, rows, rest, seed)
            results["fine-tuned"].append(tuned)
    for name, values in results.items():
        print(f"{name:16} {np.mean(values):.4f} +- {np.std(values):.4f}")


def few(labels, per_class, rng):
    return np.concatenate([rng.choice(np.flatnonzero(labels == c), per_class, replace=False)
                           for c in np.unique(labels)])


def fine_tuned(backbone, probe, data, rows, rest, seed, steps=150, rate=0.02):
    """Accuracy after plain SGD from the linear probe, BatchNorm's statistics frozen."""
    torch.manual_seed(seed)
    head = nn.Linear(64, 10)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(probe.coef_))
        head.bias.copy_(torch.from_numpy(probe.intercept_))
    model = nn.Sequential(backbone, head).eval()
    x, y = prepared(data["x"]), torch.from_numpy(data["y"])
    optimiser = torch.optim.SGD(model.parameters(), rate, 0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        picked = torch.from_numpy(rows)[torch.randint(len(rows), (50,))]
        optimiser.zero_grad()
        F.cross_entropy(model(x[picked]), y[picked]).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return (model(x[rest]).argmax(1) == y[rest]).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["data", "train", "evaluate"])
    parser.add_argument("--fonts", help="the folder that holds the fonts")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.what == "evaluate":
        evaluate()
    else:
        {"data": write_data, "train": train}[arguments.what](arguments.fonts)


if __name__ == "__main__":
    main()
