"""Image models: torchvision, timm, and the ones of `nets`."""

from __future__ import annotations

import functools
from typing import Any

import torch

from validate.bench.models.zoo import nets
from validate.bench.models.zoo.entry import Entry

# image side [pixels] that each network was published with
_TORCHVISION = {
    "resnet18": 224, "resnet50": 224, "resnet101": 224, "resnext50_32x4d": 224,
    "wide_resnet50_2": 224, "vgg16": 224, "alexnet": 224, "googlenet": 224, "inception_v3": 299,
    "densenet121": 224, "mobilenet_v2": 224, "mobilenet_v3_large": 224, "efficientnet_b0": 224,
    "efficientnet_b1": 240, "efficientnet_b2": 288, "efficientnet_b3": 300,
    "efficientnet_b4": 380, "shufflenet_v2_x1_0": 224,
    "squeezenet1_0": 224, "mnasnet1_0": 224, "regnet_x_3_2gf": 224, "convnext_tiny": 224,
    "vit_b_16": 224, "swin_t": 224,
    "resnet34": 224, "vgg19_bn": 224, "densenet201": 224, "shufflenet_v2_x1_5": 224,
    "mobilenet_v3_small": 224, "efficientnet_v2_s": 384, "regnet_y_1_6gf": 224,
    "regnet_x_800mf": 224, "resnext101_32x8d": 224, "convnext_small": 224,
    "wide_resnet101_2": 224,
    "resnet152": 224, "vit_b_32": 224, "convnext_base": 224, "regnet_y_400mf": 224,
    "mnasnet0_5": 224, "squeezenet1_1": 224, "densenet169": 224, "swin_s": 224,
}  # fmt: skip
_TIMM = {
    "regnety_040": 224,
    "deit_small_patch16_224": 224,
    "mixer_b16_224": 224,
    "resnetv2_50": 224,
    "mobilenetv1_100": 224,
    "vit_small_patch16_224": 224,
    "resnet26d": 224,
}
_FIXED = {
    "vit_b_16", "vit_b_32", "swin_t", "swin_s", "vit_small_patch16_224", "deit_small_patch16_224",
    "mixer_b16_224", "inception_v3",
}  # fmt: skip
_NETS = {
    "unet2d": (nets.UNet2d, (3, 256, 256), (3, 64, 64)),
    "unet3d": (nets.UNet3d, (1, 64, 128, 128), (1, 16, 16, 16)),
    "espcn": (nets.Espcn, (1, 360, 640), (1, 36, 64)),
    "detr_small": (nets.DetrSmall, (3, 512, 512), (3, 128, 128)),
    "shufflenet_v1": (nets.ShuffleNetV1, (3, 224, 224), (3, 64, 64)),
    "condensenet": (
        functools.partial(nets.CondenseNet, (4, 6, 8, 10, 8)),
        (3, 224, 224),
        (3, 64, 64),
    ),
    # 14 layers in all five stages: deeper than the paper's -86, which is the one for CIFAR
    "condensenet_86": (
        functools.partial(nets.CondenseNet, (14,) * 5),
        (3, 224, 224),
        (3, 64, 64),
    ),
    "condensenet_cifar86": (
        functools.partial(nets.CondenseNet, (14,) * 3, small=True),
        (3, 32, 32),
        (3, 32, 32),
    ),
}


def _torchvision(name: str, tiny: bool) -> Any:
    from torchvision import models

    del tiny
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        extra = {"aux_logits": False, "init_weights": False}
    return getattr(models, name)(weights=None, **extra)


def _timm(name: str, tiny: bool) -> Any:
    import timm

    del tiny
    return timm.create_model(name, pretrained=False)


def _image(
    shape: tuple[int, ...], small: tuple[int, ...], batch: int, seq: int, dtype: Any, tiny: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    del seq
    return (torch.randn(batch, *(small if tiny else shape)).to(dtype),), {}


def _net(kind: Any, tiny: bool) -> Any:
    return kind(tiny)


def _entries() -> dict[str, Entry]:
    table = {}
    for names, build in ((_TORCHVISION, _torchvision), (_TIMM, _timm)):
        for name, side in names.items():
            small = side if name in _FIXED else 64
            inputs = functools.partial(_image, (3, side, side), (3, small, small))
            table[name] = Entry(functools.partial(build, name), inputs)
    for name, (kind, shape, small_shape) in _NETS.items():
        inputs = functools.partial(_image, shape, small_shape)
        table[name] = Entry(functools.partial(_net, kind), inputs)
    return table


ENTRIES = _entries()
