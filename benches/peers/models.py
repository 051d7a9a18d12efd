"""The networks that priorfit and PyTorch are timed on, by their short names and those of files."""

import timm
from torch import nn
from torch.nn import functional as F

MODELS = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "mobilenetv2": "mobilenetv2_100",
    "vit_tiny": "vit_tiny_patch16_224",
    "convnext_atto": "convnext_atto",
    "cifar_resnet14": "cifar_resnet14",
}


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is projected where the shape changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.down = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.down is None else self.down(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet14(nn.Module):
    """A residual network for images of 32 px: three stages of two blocks, 0.70 M parameters."""

    num_features = 128

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layers = nn.Sequential(
            Block(32, 32, 1), Block(32, 32, 1),
            Block(32, 64, 2), Block(64, 64, 1),
            Block(64, 128, 2), Block(128, 128, 1),
        )

    def forward(self, x):
        return self.layers(F.relu(self.bn1(self.conv1(x)))).mean((2, 3))


def backbone(model, size):
    """The network without its classifier, with random weights, in evaluation mode."""
    if model == "cifar_resnet14":
        return CifarResNet14().eval()
    options = {"img_size": size} if model.startswith("vit") else {}
    return timm.create_model(MODELS[model], pretrained=False, num_classes=0, **options).eval()


def has_batch_norm(network):
    return any("BatchNorm" in type(module).__name__ for module in network.modules())
