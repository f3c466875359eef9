"""What is measured, most valuable first."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Case:
    """One measured configuration of one model.

    Attributes
    ----------
    kind
        ``infer``, ``prefill``, ``decode`` or ``train``.
    mode
        ``eager``, ``graph`` (CUDA graph of eager), ``compiled`` or ``compiled-graph``.
    seq
        Tokens a sequence; the context for ``decode``; 0 for images.
    autocast
        bf16 autocast over fp32 parameters; `dtype` then names the compute type.
    gb
        Device memory that a case needs while it compiles beside others, most of it what it holds
        between its steps [GB].
    """

    kind: str
    model: str
    mode: str
    batch: int
    seq: int = 0
    dtype: str = "bf16"
    layout: str = "contiguous"
    autocast: bool = False
    optimizer: str = ""
    implementation: str = ""
    checkpoint: bool = False
    benchmark: bool = True
    profile: bool = False
    kineto: bool = False
    gb: float = 2.5

    @property
    def key(self) -> str:
        """Identity in the files."""
        parts = [self.kind, self.model, self.mode, f"b{self.batch}", f"s{self.seq}", self.dtype]
        parts.append({"channels_last": "nhwc"}.get(self.layout, "nchw"))
        if self.kind == "train":
            parts += ["amp" if self.autocast else "pure", self.optimizer, self.implementation]
        if self.checkpoint:
            parts.append("ckpt")
        if not self.benchmark:
            parts.append("nobench")
        return "/".join(parts)

    @property
    def build(self) -> tuple[object, ...]:
        """What one built model is shared by."""
        return (self.kind == "train", self.model, self.dtype, self.layout, self.autocast,
                self.optimizer, self.implementation, self.checkpoint, self.benchmark)  # fmt: skip


NAMES = tuple(f.name for f in fields(Case))
# Grouped so that the first pass already holds every kind of network.
FIRST = ("resnet50", "mobilenet_v2", "efficientnet_b0", "vit_b_16", "convnext_tiny", "unet2d",
         "vgg16", "densenet121", "swin_t", "shufflenet_v2_x1_0", "resnet18")  # fmt: skip
SECOND = ("googlenet", "resnext50_32x4d", "mobilenet_v3_large", "wide_resnet50_2", "alexnet",
          "efficientnet_b4", "regnety_040", "deit_small_patch16_224", "segformer_b0", "unet3d",
          "detr_small", "espcn", "condensenet", "shufflenet_v1", "efficientnet_b2",
          "regnet_x_3_2gf", "squeezenet1_0", "inception_v3", "mnasnet1_0",
          "mixer_b16_224", "resnet101", "mobilenetv1_100")  # fmt: skip
THIRD = ("condensenet_86", "efficientnet_b1", "efficientnet_b3", "condensenet_cifar86")
FOURTH = ("regnet_y_1_6gf", "shufflenet_v2_x1_5", "densenet201", "resnet34", "mobilenet_v3_small",
          "efficientnet_v2_s", "resnext101_32x8d", "vgg19_bn", "regnet_x_800mf", "convnext_small",
          "wide_resnet101_2")  # fmt: skip
UNREAD = (
    ("vit_b_32", 4, 0), ("resnet152", 4, 0), ("roberta_base", 4, 256), ("neox_160m", 4, 512),
    ("regnet_y_400mf", 16, 0), ("opt_125m", 4, 256), ("vit_small_patch16_224", 4, 0),
    ("convnext_base", 4, 0), ("qwen2_05b", 4, 512), ("distilbert", 2, 128), ("resnet26d", 4, 0),
    ("squeezenet1_1", 4, 0), ("mnasnet0_5", 16, 0), ("swin_s", 4, 0), ("densenet169", 16, 0),
    ("vit_b_32", 32, 0), ("resnet152", 32, 0), ("roberta_base", 32, 256), ("neox_160m", 16, 256),
    ("regnet_y_400mf", 128, 0), ("opt_125m", 16, 512), ("vit_small_patch16_224", 128, 0),
    ("convnext_base", 32, 0), ("distilbert", 16, 256), ("resnet26d", 128, 0), ("swin_s", 32, 0),
)  # fmt: skip
"""Model, batch and sequence of a check."""
SHUFFLED = ("shufflenet_v1", "condensenet", "condensenet_cifar86")
"""Their grouped convolutions are put together from copies: kernels at batch 1 too."""
BATCHES = {"unet2d": (1, 8, 32), "unet3d": (1, 2, 8), "segformer_b0": (1, 8, 32),
           "detr_small": (1, 8, 32), "espcn": (1, 8, 32),
           "efficientnet_b4": (1, 8, 64)}  # fmt: skip
TOKENS = ("vit_b_16", "swin_t", "deit_small_patch16_224", "mixer_b16_224", "vit_b_32",
          "swin_s", "vit_small_patch16_224")  # fmt: skip
TEXT = {  # batch, sequence
    "gpt2_small": ((1, 128), (8, 512), (64, 128), (32, 512)),
    "bert_base": ((1, 128), (8, 512), (64, 128), (64, 512)),
    "t5_small": ((1, 128), (8, 512), (64, 512)),
    "whisper_tiny_encoder": ((1, 0), (8, 0), (64, 0)),
    "clip_vit_b32": ((1, 0), (8, 0), (64, 0)),
    "mixtral_small": ((1, 128), (8, 512)),
    "qwen3_moe_small": ((1, 128), (8, 512)),
    "tinyllama_hf": ((1, 128), (8, 512), (32, 512)),
    "mamba_130m": ((1, 128), (8, 128)),
}
KINETO = {("resnet18", 8, "eager"), ("mobilenet_v2", 8, "eager"), ("gpt2_small", 8, "eager"),
          ("vit_b_16", 8, "eager")}  # fmt: skip


def _infer(model: str, batch: int, seq: int = 0, **more: object) -> Iterator[Case]:
    layout = "contiguous" if seq or model in TEXT or model in TOKENS else "channels_last"
    base = Case("infer", model, "eager", batch, seq, layout=layout)
    base = replace(base, **more)  # type: ignore[arg-type]
    profile = batch in (8, 64) or base.dtype != "bf16" or (batch == 1 and model in SHUFFLED)
    yield replace(base, profile=profile, kineto=(model, batch, "eager") in KINETO)
    if base.benchmark:
        yield replace(base, mode="graph")


def _vision(models: tuple[str, ...]) -> Iterator[Case]:
    for model in models:
        for batch in BATCHES.get(model, (1, 8, 64, 256)):
            yield from _infer(model, batch)


def _text() -> Iterator[Case]:
    for model, shapes in TEXT.items():
        for batch, seq in shapes:
            yield from _infer(model, batch, seq)


def _llama(models: tuple[str, ...]) -> Iterator[Case]:
    for model in models:
        for batch, seq in ((1, 512), (1, 2048), (8, 512), (1, 8192), (8, 2048)):
            yield Case("prefill", model, "eager", batch, seq, profile=(batch, seq) != (8, 2048))
        for batch, seq in ((1, 512), (1, 2048), (8, 2048), (32, 2048), (1, 8192), (8, 8192), (32, 512), (8, 512), (32, 8192)):  # noqa: E501  # fmt: skip
            shown = (batch, seq) in ((1, 2048), (8, 2048), (32, 8192))
            yield Case("decode", model, "eager", batch, seq, profile=shown)
            yield Case("decode", model, "graph", batch, seq)


def _train(model: str, batch: int, seq: int = 0, amp: bool = True, **more: object) -> Case:
    layout = "contiguous" if seq or model in TOKENS else "channels_last"
    base = Case("train", model, "eager", batch, seq, layout=layout, autocast=amp,
                optimizer="adamw", implementation="fused", profile=True, gb=8.0)  # fmt: skip
    return replace(base, **more)  # type: ignore[arg-type]


def _training() -> Iterator[Case]:
    sgd = {"optimizer": "sgd", "implementation": "foreach"}
    yield _train("gpt2_small", 8, 1024, kineto=True)
    yield _train("resnet50", 64, **sgd)
    yield _train("llama_03b", 4, 2048)
    yield _train("vit_b_16", 64)
    yield _train("unet2d", 16)
    yield _train("gpt2_small", 8, 1024, amp=False)
    yield _train("llama_03b", 4, 2048, checkpoint=True)
    yield _train("llama_1b", 2, 2048, amp=False)
    yield _train(
        "resnet18", 64, implementation="for-loop", optimizer="sgd", amp=False, dtype="fp32"
    )
    yield _train("resnet50", 64, amp=False, dtype="tf32", layout="contiguous", **sgd)
    yield _train("gpt2_medium", 8, 512)
    yield _train("gpt2_medium", 8, 512, checkpoint=True)
    yield _train("llama_03b", 4, 2048, amp=False, implementation="foreach")
    yield _train("gpt2_small", 2, 256, implementation="foreach")
    yield _train("resnet50", 256, **sgd)
    yield _train("resnet50", 8, **sgd)
    yield _train("mobilenet_v2", 64, **sgd)
    yield _train("efficientnet_b0", 64)
    yield _train("vit_b_16", 64, amp=False)
    yield _train("convnext_tiny", 64)
    yield _train("swin_t", 64)
    yield _train("llama_1b", 2, 2048)
    yield _train("llama_1b", 4, 2048, checkpoint=True)
    yield _train("resnet50", 64, amp=False, implementation="fused", optimizer="sgd")
    yield _train("unet3d", 4)
    yield _train("bert_base", 16, 512, amp=True)
    yield _train("tinyllama_hf", 2, 2048, amp=False)
    yield _train("densenet121", 64, **sgd)
    yield _train("gpt2_small", 8, 1024, implementation="for-loop")


def _training_small() -> Iterator[Case]:
    """Small batches, which the host holds up, and other networks; a profile only where named."""
    foreach = {"implementation": "foreach", "profile": False}
    plain = {"profile": False}
    yield _train("gpt2_small", 8, 1024, checkpoint=True, **plain)
    yield _train("bert_base", 16, 512, checkpoint=True, **plain)
    yield _train("tinyllama_hf", 2, 2048, amp=False, checkpoint=True, **plain)
    yield _train("vit_b_16", 8, **plain)
    yield _train("bert_base", 4, 128, **foreach)
    yield _train("t5_small", 8, 512, **plain)
    yield _train("llama_1b", 1, 512, **plain)
    yield _train("llama_03b", 1, 1024, amp=False, **plain)
    yield _train("gpt2_small", 2, 256, amp=False, **plain)
    yield _train("deit_small_patch16_224", 16, **plain)
    yield _train("clip_vit_b32", 8, layout="contiguous", **plain)
    yield _train("gpt2_medium", 2, 512, **foreach)
    yield _train("swin_t", 16, **plain)
    yield _train("mixer_b16_224", 32, optimizer="sgd", **plain)
    yield _train("whisper_tiny_encoder", 8, layout="contiguous", **plain)
    yield _train("llama_3b", 1, 2048, amp=False, checkpoint=True, **plain)
    yield _train("unet2d", 2, **plain)
    yield _train("resnet18", 64, optimizer="sgd", **foreach)
    yield _train("resnet50", 8, optimizer="sgd", amp=False, **foreach)
    yield _train("segformer_b0", 8, **plain)
    yield _train("efficientnet_b0", 64, benchmark=False)


def _unread_infer() -> Iterator[Case]:
    """Networks, shapes and modes for a check: no fit reads them, and none was looked at before."""
    for model, batch, seq in UNREAD:
        yield from (replace(c, profile=False) for c in _infer(model, batch, seq))
    for model, batch, seq in (("llama_2b", 4, 1024), ("llama_7b", 2, 3072), ("llama_2b", 16, 4096)):
        yield Case("decode", model, "eager", batch, seq)
        yield Case("decode", model, "graph", batch, seq)
    yield Case("prefill", "llama_2b", "eager", 1, 1536)


def _unread_train() -> Iterator[Case]:
    plain = {"profile": False}
    yield _train("roberta_base", 8, 256, **plain)
    yield _train("qwen2_05b", 2, 1024, amp=False, **plain)
    yield _train("vit_b_32", 32, **plain)
    yield _train("neox_160m", 4, 512, checkpoint=True, **plain)
    yield _train("llama_2b", 1, 1024, amp=False, **plain)
    yield _train("opt_125m", 4, 512, implementation="foreach", **plain)
    yield _train("vit_small_patch16_224", 64, amp=False, **plain)
    yield _train("resnet26d", 32, optimizer="sgd", implementation="foreach", **plain)


def _unread_compiled() -> list[Case]:
    infer = (("vit_b_32", 4, 0), ("roberta_base", 4, 256), ("opt_125m", 4, 256),
             ("distilbert", 2, 128), ("resnet26d", 4, 0), ("vit_small_patch16_224", 128, 0),
             ("neox_160m", 16, 256))  # fmt: skip
    cases = [next(_infer(*one)) for one in infer]
    cases += [Case("decode", "llama_2b", "eager", 4, 1024, gb=6.0),
              Case("decode", "llama_7b", "eager", 2, 3072, gb=18.0)]  # fmt: skip
    train = {case.model: replace(case, gb=5.0) for case in _unread_train()}
    cases += [train[name] for name in ("roberta_base", "qwen2_05b", "vit_b_32", "neox_160m",
                                       "opt_125m", "vit_small_patch16_224")]  # fmt: skip
    return [replace(case, mode="compiled", profile=False, kineto=False) for case in cases]


def _variants() -> Iterator[Case]:
    for batch in (8, 64):
        yield from _infer("resnet50", batch, layout="contiguous")
        yield from _infer("resnet50", batch, dtype="fp16")
        yield from _infer("resnet50", batch, dtype="tf32", layout="contiguous")
        yield from _infer("resnet50", batch, dtype="fp32", layout="contiguous")
        yield from _infer("resnet50", batch, benchmark=False)
        yield from _infer("mobilenet_v2", batch, layout="contiguous", dtype="fp16")
        yield from _infer("vit_b_16", batch, dtype="fp16")
        yield from _infer("convnext_tiny", batch, dtype="tf32")
    yield from _infer("bert_base", 8, 512, dtype="tf32")
    yield from _infer("gpt2_small", 8, 512, dtype="fp16")
    yield from _infer("unet2d", 8, dtype="fp16", layout="contiguous")


def eager() -> list[Case]:
    """Eager and CUDA-graph cases, none of which compiles."""
    small, large = ("llama_1b", "llama_8b"), ("llama_03b", "llama_3b")
    train = list(_training())
    return [*_vision(FIRST), *train[:10], *_text(), *_llama(small), *train[10:20],
            *_vision(SECOND), *_variants(), *_llama(large), *train[20:],
            *_vision(THIRD), *_vision(FOURTH), *_training_small(),
            *_unread_infer(), *_unread_train()]  # fmt: skip


def clean() -> list[Case]:
    """Steps that the host holds up, timed alone.

    In an order that is the same in every run, and balanced wherever it is cut.
    """
    chosen = [
        replace(case, profile=False, kineto=False)
        for case in eager()
        if case.mode == "eager" and case.benchmark and _brief(case)
    ]
    random.Random(5).shuffle(chosen)
    return chosen


def _brief(case: Case) -> bool:
    if case.kind == "infer":
        return case.batch <= 8 and case.model not in ("mamba_130m",)
    return case.kind != "prefill" or case.batch * case.seq <= 2048


def compiled() -> list[Case]:
    """``torch.compile`` cases, in rounds of as many as there are cores."""
    cases: list[Case] = []

    def infer(model: str, batch: int, seq: int = 0, **more: object) -> None:
        base = replace(next(_infer(model, batch, seq, **more)), mode="compiled", profile=True, kineto=False)  # noqa: E501  # fmt: skip
        cases.append(base)

    def more_of(kind: str, model: str, batch: int, seq: int, gb: float) -> None:
        cases.append(Case(kind, model, "compiled", batch, seq, profile=True, gb=gb))

    for model in ("resnet50", "mobilenet_v2", "vit_b_16", "convnext_tiny", "efficientnet_b0",
                  "resnet18", "swin_t", "vgg16"):  # fmt: skip
        infer(model, 64)
    infer("unet2d", 8)
    infer("bert_base", 8, 512)
    infer("gpt2_small", 8, 512)
    more_of("decode", "llama_1b", 1, 2048, 5)
    more_of("decode", "llama_8b", 8, 2048, 22)
    more_of("prefill", "llama_1b", 1, 2048, 6)
    infer("resnet50", 1)
    train = list(_training())
    chosen = {0: 6, 1: 4, 2: 9, 3: 4, 4: 3, 5: 4, 6: 6, 7: 12}
    cases += [replace(train[i], mode="compiled", kineto=i == 0, gb=float(gb)) for i, gb in chosen.items()]  # noqa: E501  # fmt: skip
    infer("gpt2_small", 1, 128)
    infer("bert_base", 64, 128)
    infer("t5_small", 8, 512)
    infer("clip_vit_b32", 8)
    infer("densenet121", 64)
    infer("resnext50_32x4d", 64)
    infer("mobilenet_v3_large", 8)
    infer("segformer_b0", 8)
    infer("resnet18", 8)
    infer("deit_small_patch16_224", 8)
    infer("efficientnet_b0", 8)
    infer("mobilenet_v2", 8)
    infer("resnet50", 64, layout="contiguous")
    more_of("decode", "llama_8b", 1, 2048, 20)
    more_of("decode", "llama_03b", 8, 2048, 5)
    more_of("prefill", "llama_8b", 1, 2048, 22)
    infer("tinyllama_hf", 8, 512)
    infer("mixtral_small", 8, 512)
    infer("shufflenet_v2_x1_0", 64)
    infer("regnety_040", 64)
    infer("whisper_tiny_encoder", 8)
    infer("espcn", 8)
    infer("unet3d", 2)
    infer("resnet50", 64, dtype="tf32", layout="contiguous")
    cases += [
        replace(train[i], mode="compiled", kineto=False) for i in (10, 11, 12, 17, 18, 19, 16)
    ]
    held = (("gpt2_small", 2, 256, 3), ("bert_base", 16, 512, 5), ("t5_small", 8, 512, 6),
            ("deit_small_patch16_224", 16, 0, 3), ("resnet18", 64, 0, 4))  # fmt: skip
    for model, batch, seq, gb in held:
        sgd = {"optimizer": "sgd", "implementation": "foreach"} if model == "resnet18" else {}
        more: dict[str, object] = {"implementation": "foreach"} if batch == 2 else {}
        cases.append(_train(model, batch, seq, mode="compiled", gb=float(gb), **(more | sgd)))
    more_of("decode", "llama_03b", 1, 512, 2)
    more_of("decode", "llama_1b", 32, 2048, 5)
    more_of("decode", "llama_3b", 8, 2048, 9)
    return cases + _unread_compiled()


def h200() -> list[Case]:
    """A short spread over kinds, for a second chip."""
    picked: list[Case] = []
    for model in ("resnet50", "mobilenet_v2", "vit_b_16", "unet2d", "efficientnet_b0", "vgg16"):
        for batch in (8, 64) if model != "unet2d" else (8,):
            picked += _infer(model, batch)
    for model in ("gpt2_small", "bert_base"):
        picked += _infer(model, 8, 512)
    for batch, seq in ((1, 2048), (32, 2048), (8, 8192)):
        picked += [Case("decode", "llama_8b", "eager", batch, seq, profile=True),
                   Case("decode", "llama_8b", "graph", batch, seq)]  # fmt: skip
    picked.append(Case("prefill", "llama_8b", "eager", 1, 2048, profile=True))
    train = list(_training())
    picked += train[:8]
    return picked + [replace(c, mode="compiled", kineto=False) for c in
                     (picked[2], picked[10], train[0], train[1], train[2])]  # fmt: skip
