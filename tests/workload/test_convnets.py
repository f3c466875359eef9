"""Networks: published parameter and multiply-add counts, lowering, memory."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from perfmodel.errors import WorkloadError
from perfmodel.workload.convnet import (
    CONVNETS,
    FUSIONS,
    OPTIMIZERS,
    Setting,
    convnet,
    convnet_calls,
    inference_memory,
    training_memory,
)

PUBLISHED = Path(__file__).parents[2] / "validate" / "published"

# torchvision 0.2x model documentation ("num_params"); mobilenet-v1, resnext101-32x4d and
# se-resnext101-32x4d: timm results table (M)
PARAMETERS = {
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "googlenet": 6_624_904,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50-32x4d": 25_028_904,
    "resnext101-32x8d": 88_791_336,
    "wide-resnet50-2": 68_883_240,
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "shufflenet-v2-x0_5": 1_366_792,
    "shufflenet-v2-x1_0": 2_278_604,
    "shufflenet-v2-x1_5": 3_503_624,
    "shufflenet-v2-x2_0": 7_393_996,
    "mobilenet-v2": 3_504_872,
    "mobilenet-v3-large": 5_483_032,
    "mobilenet-v3-small": 2_542_856,
    "efficientnet-b0": 5_288_548,
    "efficientnet-b1": 7_794_184,
    "efficientnet-b2": 9_109_994,
    "efficientnet-b3": 12_233_232,
    "efficientnet-b4": 19_341_616,
    "regnet-x_400mf": 5_495_976,
    "regnet-y_400mf": 4_344_144,
    "regnet-x_800mf": 7_259_656,
    "regnet-y_800mf": 6_432_512,
    "regnet-x_1_6gf": 9_190_136,
    "regnet-y_1_6gf": 11_202_430,
    "regnet-x_3_2gf": 15_296_552,
    "regnet-y_3_2gf": 19_436_338,
    "regnet-x_8gf": 39_572_648,
    "regnet-y_8gf": 39_381_472,
    "convnext-tiny": 28_589_128,
    "convnext-small": 50_223_688,
    "convnext-base": 88_591_464,
    "convnext-large": 197_767_336,
    "squeezenet1_0": 1_248_424,
    "wide-resnet101-2": 126_886_696,
    # of KernelBench's code, as PyTorch counts them
    "alexnet-one-tower": 62_378_344,
    "efficientnet-b0-plain": 3_922_408,
    "efficientnet-b1-chain": 2_661_928,
    "efficientnet-b2-pooled": 6_868_328,
    "plain-chain": 1_149_770,
    "shufflenet-v1-unhalved": 3_338_524,
}
# multiply-adds [G] of the papers: CondenseNet tables 2 and 4, ShuffleNet v1 table 2
PAPERS = {
    "condensenet-74": (4.8e6, 0.529e9, 0.03),
    "condensenet-74-g8": (2.9e6, 0.274e9, 0.05),
    "condensenet-86": (0.52e6, 0.065e9, 0.06),
    "shufflenet-v1-g2": (None, 0.140e9, 0.02),
    "shufflenet-v1-g3": (None, 0.137e9, 0.02),
    "shufflenet-v1-g4": (None, 0.133e9, 0.02),
    "shufflenet-v1-g8": (None, 0.137e9, 0.02),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_exact(name: str) -> None:
    assert convnet(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", PAPERS)
def test_counts_of_the_papers(name: str) -> None:
    parameters, macs, tolerance = PAPERS[name]
    net = convnet(name)
    if parameters is not None:
        assert net.parameters == pytest.approx(parameters, rel=0.02)
    # the papers count norms and poolings too
    assert macs * (1 - tolerance) <= net.multiply_adds <= macs * 1.02


def test_counts_of_timm() -> None:
    with (PUBLISHED / "convnet_counts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 50
    for row in rows:
        net = convnet(row["network"], int(row["img_size"]))
        assert net.parameters / 1e6 == pytest.approx(float(row["mparams"]), abs=0.006), row
        # fvcore's count includes norms and poolings
        ratio = net.multiply_adds / 1e9 / float(row["gmacs"])
        rounding = 0.006 / float(row["gmacs"])
        assert 0.92 - rounding < ratio <= 1.0 + rounding, row


@pytest.mark.parametrize("name", CONVNETS)
def test_lowering_conserves_arithmetic(name: str) -> None:
    net = convnet(name)
    for fusion in FUSIONS:
        calls = convnet_calls(name, 2, fusion=fusion)
        products = [c for c in calls if c.module in ("conv", "linear")]
        assert sum(c.op.flops for c in products) == 4 * net.multiply_adds
    training = convnet_calls(name, 2, training=True)
    backward = sum(c.op.flops for c in training if c.module in ("conv", "linear") and c.grad)
    first = next(node for node in net.nodes if node.kind == "conv")
    assert backward == 2 * 4 * net.multiply_adds - 4 * net.macs(first)
    weight = [c for c in training if c.grad == "weight" and c.module in ("conv", "linear")]
    assert len(weight) == sum(node.kind in ("conv", "linear") for node in net.nodes)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet-b0", "densenet121", "unet-3d"])
def test_fusion_moves_less(name: str) -> None:
    for training in (False, True):
        plain, fused = (
            convnet_calls(name, 2, training=training, fusion=fusion) for fusion in FUSIONS
        )
        assert sum(c.op.bytes_moved * c.count for c in fused) < sum(
            c.op.bytes_moved * c.count for c in plain
        )
        assert len(fused) < len(plain)


def test_transposed_convolution_is_an_input_gradient() -> None:
    calls = convnet_calls("unet-2d", 1)
    ups = [c.op for c in calls if c.module == "conv" and c.op.direction == "dgrad"]
    assert len(ups) == 4
    assert ups[0].c_out == 1024
    assert ups[0].c_in == 512
    assert (ups[0].h_out, ups[0].h) == (32, 64)


def test_variants_leave_out_what_they_say() -> None:
    def kinds(name: str) -> Counter[str]:
        return Counter(node.kind for node in convnet(name).nodes)

    # 58 layers of one convolution, a stem, three transitions
    assert kinds("densenet121-plain")["conv"] == 62
    assert kinds("densenet121")["conv"] == 120
    assert kinds("mobilenet-v2")["add"] == 10
    assert kinds("mobilenet-v2-chain") + Counter(add=10) == kinds("mobilenet-v2")
    assert kinds("googlenet-linear")["act"] == 3
    assert kinds("googlenet-plain")["act"] == 57
    words = {node.word for node in convnet("mobilenet-v1-relu").nodes if node.kind == "act"}
    assert words == {"relu"}


def test_norms_in_training_count_their_batches() -> None:
    calls = convnet_calls("resnet18", 2, training=True)
    assert sum(call.module == "counter" for call in calls) == 20
    assert all(call.module != "counter" for call in convnet_calls("resnet18", 2))


def test_memory() -> None:
    net = convnet("resnet50")
    half = Setting(32, "fp16", amp=True, training=True)
    small, large = (training_memory(net, Setting(n, "fp16", amp=True)) for n in (16, 32))
    assert large.activations == 2 * small.activations
    assert large.weights == 6 * net.parameters
    # published activations: 11.1 M elements at 224, outputs of convolutions alone
    assert large.activations > 32 * 11.1e6 * 2
    assert training_memory(net, half, "adamw").optimizer == 8 * net.parameters
    inference = inference_memory(net, Setting(32, "fp16"))
    # the largest moment holds input and output of the first stage
    assert 32 * 64 * 112 * 112 * 2 <= inference.activations <= 0.2 * large.activations


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer: str) -> None:
    calls = convnet_calls("resnet18", 4, training=True, optimizer=optimizer)
    assert calls[-1].module == "optimizer"
    assert calls[-1].op.bytes_moved > 12 * convnet("resnet18").parameters


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"name": "resnet51"}, "resnet50|resnet101"),
        ({"image_size": 3, "name": "vgg16"}, "image|stride"),
        ({"image_size": (1, 2, 3)}, "one side, or 2"),
        ({"batch": 0}, "batch"),
        ({"dtype": "fp17"}, "fp16"),
        ({"layout": "nhcw"}, "nhwc"),
        ({"fusion": "all"}, "pointwise"),
        ({"optimizer": "sdg", "training": True}, "sgd"),
    ],
)
def test_bad_input(bad: dict[str, object], match: str) -> None:
    arguments = {"name": "resnet18", "batch": 2} | bad
    with pytest.raises(WorkloadError, match=match):
        convnet_calls(**arguments)  # type: ignore[arg-type]
