"""The known networks by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.workload.convnets import kernelbench
from perfmodel.workload.convnets.build import Builder, Convnet
from perfmodel.workload.convnets.classic import VGG, alexnet, googlenet, vgg
from perfmodel.workload.convnets.dense import DENSENETS, condensenet, densenet
from perfmodel.workload.convnets.dense_output import espcn, unet
from perfmodel.workload.convnets.mobile import (
    EFFICIENTNETS,
    SHUFFLE_V1,
    SHUFFLE_V2,
    efficientnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    shufflenet_v1,
    shufflenet_v2,
)
from perfmodel.workload.convnets.residual import (
    CONVNEXTS,
    DEPTHS,
    REGNETS,
    convnext,
    regnet,
    resnet,
)


@dataclass(frozen=True, slots=True)
class _Recipe:
    build: Callable[..., int]
    options: dict[str, Any] = field(default_factory=dict)
    sides: tuple[int, ...] = (224, 224)
    channels: int = 3


_CONDENSE_74: Final = {"layers": (4, 6, 8, 10, 8), "growths": (8, 16, 32, 64, 128)}
_CONDENSE_86: Final = {
    "layers": (14, 14, 14), "growths": (8, 16, 32), "cifar": True, "classes": 10
}  # fmt: skip
_CONDENSE_142: Final = {"layers": (14,) * 5, "growths": (8, 16, 32, 64, 128), "whole_head": True}
_CIFAR: Final = (32, 32)

_RECIPES: Final = MappingProxyType(
    {
        "alexnet": _Recipe(alexnet),
        "alexnet-one-tower": _Recipe(kernelbench.alexnet_one_tower),
        "squeezenet1_0": _Recipe(kernelbench.squeezenet),
        **{f"vgg{depth}": _Recipe(vgg, {"depth": depth}) for depth in VGG},
        "googlenet": _Recipe(googlenet),
        "googlenet-plain": _Recipe(googlenet, {"old": True}),
        "googlenet-linear": _Recipe(googlenet, {"old": True, "linear": True}),
        **{f"resnet{depth}": _Recipe(resnet, {"depth": depth}) for depth in DEPTHS},
        "resnext50-32x4d": _Recipe(resnet, {"depth": 50, "groups": 32, "width": 4}),
        "resnext101-32x4d": _Recipe(resnet, {"depth": 101, "groups": 32, "width": 4}),
        "resnext101-32x8d": _Recipe(resnet, {"depth": 101, "groups": 32, "width": 8}),
        "se-resnext101-32x4d": _Recipe(
            resnet, {"depth": 101, "groups": 32, "width": 4, "squeeze": 16}
        ),
        "wide-resnet50-2": _Recipe(resnet, {"depth": 50, "width": 128}),
        "wide-resnet101-2": _Recipe(resnet, {"depth": 101, "width": 128}),
        **{f"densenet{depth}": _Recipe(densenet, {"depth": depth}) for depth in DENSENETS},
        **{
            f"densenet{depth}-plain": _Recipe(densenet, {"depth": depth, "bottleneck": False})
            for depth in DENSENETS
        },
        "condensenet-74": _Recipe(condensenet, _CONDENSE_74),
        "condensenet-74-whole-head": _Recipe(condensenet, _CONDENSE_74 | {"whole_head": True}),
        "condensenet-74-g8": _Recipe(condensenet, _CONDENSE_74 | {"groups": 8, "condense": 8}),
        "condensenet-86": _Recipe(condensenet, _CONDENSE_86, _CIFAR),
        # not published: as deep for ImageNet's five stages as -86 is for CIFAR's three
        "condensenet-142-whole-head": _Recipe(condensenet, _CONDENSE_142),
        **{
            f"shufflenet-v1-g{groups}": _Recipe(shufflenet_v1, {"groups": groups})
            for groups in SHUFFLE_V1
            if groups != 1
        },
        **{
            f"shufflenet-v2-{kind}": _Recipe(shufflenet_v2, {"kind": kind}) for kind in SHUFFLE_V2
        },
        "mobilenet-v1": _Recipe(mobilenet_v1),
        "mobilenet-v1-relu": _Recipe(mobilenet_v1, {"act": "relu"}),
        "mobilenet-v2": _Recipe(mobilenet_v2),
        "mobilenet-v2-chain": _Recipe(mobilenet_v2, {"sums": False}),
        "mobilenet-v3-large": _Recipe(mobilenet_v3, {"kind": "large"}),
        "mobilenet-v3-small": _Recipe(mobilenet_v3, {"kind": "small"}),
        **{
            f"efficientnet-{kind}": _Recipe(efficientnet, {"kind": kind}, (side, side))
            for kind, (_, _, side) in EFFICIENTNETS.items()
        },
        **{
            f"efficientnet-widese-{kind}": _Recipe(
                efficientnet, {"kind": kind, "wide_squeeze": True}, (side, side)
            )
            for kind, (_, _, side) in EFFICIENTNETS.items()
        },
        "efficientnet-b0-plain": _Recipe(kernelbench.efficientnet_plain),
        "efficientnet-b1-chain": _Recipe(kernelbench.efficientnet_chain, {}, (240, 240)),
        "efficientnet-b2-pooled": _Recipe(kernelbench.efficientnet_pooled),
        "plain-chain": _Recipe(kernelbench.plain_chain),
        "shufflenet-v1-unhalved": _Recipe(kernelbench.shufflenet_unhalved),
        **{f"regnet-{kind}": _Recipe(regnet, {"kind": kind}) for kind in REGNETS},
        **{f"convnext-{kind}": _Recipe(convnext, {"kind": kind}) for kind in CONVNEXTS},
        "unet-2d": _Recipe(
            unet, {"widths": (64, 128, 256, 512, 1024)}, (512, 512), channels=1
        ),
        "unet-3d": _Recipe(
            unet, {"widths": (32, 64, 128, 256, 320), "norm": "instance", "classes": 3},
            (128, 128, 128), channels=4,
        ),
        "unet-2d-norm": _Recipe(
            unet, {"widths": (64, 128, 256, 512, 1024), "norm": "batch"}, (256, 256)
        ),
        "unet-3d-norm": _Recipe(
            unet, {"widths": (32, 64, 128, 256), "norm": "batch"}, (64, 128, 128), channels=1
        ),
        # NVIDIA's BraTS set-up of nnU-Net
        "nnunet-2d": _Recipe(
            unet,
            {"widths": (32, 64, 128, 256, 512, 512), "norm": "instance", "strided": True,
             "classes": 4},
            (192, 160), channels=5,
        ),
        "nnunet-3d": _Recipe(
            unet,
            {"widths": (32, 64, 128, 256, 320, 320), "norm": "instance", "strided": True,
             "classes": 4},
            (128, 128, 128), channels=5,
        ),
        "espcn": _Recipe(espcn, {}, (224, 224), channels=1),
    }
)  # fmt: skip

CONVNETS: Final = tuple(_RECIPES)
"""Names that :func:`convnet` knows."""
LARGEST_SIDE: Final = 8192


@lru_cache(maxsize=128)
def convnet(name: str, image_size: int | tuple[int, ...] | None = None) -> Convnet:
    """A network by name.

    Parameters
    ----------
    name : str
        One of :data:`CONVNETS`.
    image_size : int or tuple of int, optional
        Side, or sides, of the image; by default those of its publication.

    Raises
    ------
    WorkloadError
        If the name is unknown, or the image too small or of the wrong number of sides.

    Examples
    --------
    >>> convnet("resnet50").parameters
    25557032
    """
    recipe = _RECIPES.get(name)
    if recipe is None:
        raise WorkloadError(
            "convnet",
            name,
            ", ".join(CONVNETS),
            nearest=nearest_name(name, CONVNETS),
            repair="use one of the known networks",
        )
    sides = recipe.sides
    if image_size is not None:
        sides = (image_size,) * len(sides) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != len(recipe.sides) or not all(
        type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides
    ):
        raise WorkloadError(
            f"convnet {name}: image_size",
            image_size,
            f"one side, or {len(recipe.sides)} of them, from 1 to {LARGEST_SIDE}",
            repair="give whole numbers of pixels",
        )
    b = Builder()
    recipe.build(b, b.start(recipe.channels, sides), **recipe.options)
    return b.done(name)
