"""Makes models/exported/: what `exporter/` makes of a short training run, and what it should be.

    python models/make/exported.py
"""

import sys
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "exporter"))

from priorfit_export import Snapshots  # noqa: E402

FOLDER = ROOT / "models" / "exported"


class Network(nn.Module):
    """BatchNorm after two convolutions and before a third, a residual, a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.pre = nn.BatchNorm2d(6)
        self.wide = nn.Conv2d(6, 8, 1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.bn1(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv(x)))
        x = torch.relu(self.wide(self.pre(x)))
        return self.fc(x.mean((2, 3)))


def mean_network(states):
    """The network without its head whose folded weights are the means over `states`, in float64."""
    folded = []
    for state in states:
        model = Network().double()
        model.load_state_dict(state)
        model.eval()
        model.stem, model.bn1 = fuse_conv_bn_eval(model.stem, model.bn1), nn.Identity()
        model.conv, model.bn2 = fuse_conv_bn_eval(model.conv, model.bn2), nn.Identity()
        model.fc = nn.Identity()
        folded.append(model)
    means = {
        name: torch.stack([model.state_dict()[name].double() for model in folded]).mean(0)
        for name in folded[0].state_dict()
    }
    folded[0].load_state_dict(means)
    return folded[0].eval()


def main():
    torch.manual_seed(0)
    model = Network()
    # Two classes of pictures: bright on the left or on the right.
    x = torch.rand(64, 3, 8, 8)
    y = torch.arange(64) % 2
    x[y == 1, :, :, :4] += 1.0
    x[y == 0, :, :, 4:] += 1.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    snapshots = Snapshots(model, x[:2], rank=4, head="fc")
    states = []
    for epoch in range(8):
        model.train()
        for images, labels in zip(x.split(16), y.split(16)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        if epoch >= 2:
            snapshots.collect()
            states.append({name: t.clone() for name, t in model.state_dict().items()})
    snapshots.export(FOLDER, num_data=64, epochs=6, learning_rate=0.05, schedule="constant")
    with torch.no_grad():
        features = mean_network(states)(x[:4].double()).float()
    tensors = {"input": x[:4].contiguous(), "features": features}
    data = safetensors.torch.save(tensors)
    (FOLDER / "expected.safetensors").write_bytes(data)


if __name__ == "__main__":
    main()
