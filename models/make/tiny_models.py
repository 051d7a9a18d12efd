"""Tiny members of the architecture families that priorfit imports, with random weights."""

import math
from functools import partial

import torch
from timm.models import convnext, deit, densenet, efficientnet, mlp_mixer, mobilenetv3
from timm.models import regnet, resnet, swin_transformer, vision_transformer
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def
from torch import nn
from torchvision.models import vgg as torchvision_vgg


def resnet_basic(classes=0):
    """BasicBlock ResNet with a stem of three convolutions and an overlapping max pool."""
    return resnet.ResNet(resnet.BasicBlock, (1, 1, 1, 1), classes, stem_width=4, stem_type="deep",
                         channels=(8, 8, 12, 16), zero_init_last=False)


def resnet_bottleneck(classes=0):
    """Bottleneck ResNet with the original 7x7 stem, which is always 64 wide."""
    return resnet.ResNet(resnet.Bottleneck, (1, 1, 1, 1), classes, channels=(4, 4, 6, 8),
                         zero_init_last=False)


def vgg(classes=0):
    """VGG with BatchNorm and a flattening, two-layer head."""
    features = torchvision_vgg.make_layers([8, "M", 12, "M", 16, 16, "M"], batch_norm=True)
    model = torchvision_vgg.VGG(features, num_classes=10)
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    layers = [nn.Linear(16 * 4, 24), nn.ReLU(), nn.Dropout()]
    if classes:
        layers.append(nn.Linear(24, classes))
    model.classifier = nn.Sequential(*layers)
    return model


def densenet_(classes=0):
    """DenseNet: concatenations, and BatchNorm that cannot be folded into a convolution."""
    return densenet.DenseNet(growth_rate=8, block_config=(2, 2), num_classes=classes, bn_size=2)


def mobilenetv2(classes=0):
    """Inverted residuals with ReLU6 and depthwise convolutions."""
    blocks = [["ds_r1_k3_s1_c8"], ["ir_r2_k3_s2_e3_c12"], ["ir_r1_k3_s2_e3_c20"]]
    return efficientnet.EfficientNet(
        decode_arch_def(blocks), classes, num_features=40, stem_size=8, fix_stem=True,
        round_chs_fn=int, norm_layer=nn.BatchNorm2d, act_layer=nn.ReLU6)


def mobilenetv3_(classes=0):
    """Hard-swish, squeeze-excite with a hard sigmoid, and a convolution after the pooling."""
    blocks = [["ds_r1_k3_s2_e1_c8_se0.25_nre"], ["ir_r2_k3_s2_e3_c12_nre"],
              ["ir_r1_k5_s2_e3_c16_se0.25"], ["cn_r1_k1_s1_c32"]]
    return mobilenetv3.MobileNetV3(
        decode_arch_def(blocks), classes, num_features=40, stem_size=8, fix_stem=True,
        round_chs_fn=int, norm_layer=nn.BatchNorm2d, act_layer=nn.Hardswish,
        se_layer=partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU,
                         rd_round_fn=lambda width: max(4, int(width))))


def efficientnet_(classes=0):
    """MBConv with SiLU and squeeze-excite."""
    blocks = [["ds_r1_k3_s1_e1_c8_se0.25"], ["ir_r2_k3_s2_e3_c12_se0.25"],
              ["ir_r1_k5_s2_e3_c20_se0.25"]]
    return efficientnet.EfficientNet(
        decode_arch_def(blocks), classes, num_features=40, stem_size=8, fix_stem=True,
        round_chs_fn=int, norm_layer=nn.BatchNorm2d, act_layer=nn.SiLU)


def regnet_(classes=0):
    """RegNetY: grouped convolutions and squeeze-excite."""
    config = regnet.RegNetCfg(depth=4, w0=8, wa=8.0, wm=1.4, group_size=4, se_ratio=0.25,
                              stem_width=8)
    return regnet.RegNet(config, num_classes=classes, zero_init_last=False)


def convnext_(classes=0, conv_mlp=False):
    """ConvNeXt: 7x7 depthwise convolutions, LayerNorm over channels, layer scale."""
    return convnext.ConvNeXt(num_classes=classes, depths=(1, 1, 1, 1), dims=(8, 8, 12, 16),
                             conv_mlp=conv_mlp)


def vit(classes=0):
    """Vision transformer with a class token."""
    return vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, num_classes=classes, embed_dim=24, depth=2, num_heads=3,
        mlp_ratio=2)


def deit_(classes=0):
    """Distilled DeiT: two tokens, whose features are averaged."""
    return deit.VisionTransformerDistilled(
        img_size=32, patch_size=8, num_classes=classes, embed_dim=24, depth=2, num_heads=3,
        mlp_ratio=2)


def swin(classes=0):
    """Swin: shifted windows, relative position bias, patch merging."""
    return swin_transformer.SwinTransformer(
        img_size=32, patch_size=2, num_classes=classes, embed_dim=12, depths=(2, 1),
        num_heads=(2, 3), window_size=4, mlp_ratio=2)


def mixer(classes=0):
    """MLP-Mixer: matrix products over patches and over channels."""
    return mlp_mixer.MlpMixer(num_classes=classes, img_size=32, patch_size=8, num_blocks=2,
                              embed_dim=32, mlp_ratio=(0.5, 2.0))


def randomise(model, seed):
    """Gives every parameter and BatchNorm statistic a distinct, well-scaled random value."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor, scale):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)

    def uniform(tensor, low, high):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("token", "pos_embed", "bias_table")):
                normal(parameter, 0.5)
            elif parameter.ndim > 1:
                normal(parameter, math.sqrt(2 / parameter[0].numel()))
            elif name.endswith("bias"):
                normal(parameter, 0.2)
            else:
                uniform(parameter, 0.5, 1.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                normal(buffer, 0.2)
            elif name.endswith("running_var"):
                uniform(buffer, 0.5, 1.5)
    return model.eval()
