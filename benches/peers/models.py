"""The networks that priorfit and PyTorch are timed on, by their short and their timm names."""

import timm

MODELS = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "mobilenetv2": "mobilenetv2_100",
    "vit_tiny": "vit_tiny_patch16_224",
    "convnext_atto": "convnext_atto",
}


def backbone(model, size):
    """The network without its classifier, with random weights, in evaluation mode."""
    options = {"img_size": size} if model.startswith("vit") else {}
    return timm.create_model(MODELS[model], pretrained=False, num_classes=0, **options).eval()


def has_batch_norm(network):
    return any("BatchNorm" in type(module).__name__ for module in network.modules())
