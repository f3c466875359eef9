"""Later cases: decoding of more models, training of more networks, and an unread draw of kinds."""

from __future__ import annotations

from dataclasses import replace

from validate.bench.models.cases import Case

DECODED = (
    ("gpt_124m", 1, 512, 1.5), ("gpt_355m", 8, 1024, 2.8), ("gpt_774m", 1, 1024, 2.8),
    ("gpt_1558m", 8, 512, 5.8), ("gpt_wide", 4, 2048, 2.6), ("llama_06b", 1, 1024, 2.7),
    ("llama_06b", 8, 1024, 3.0), ("llama_15b", 1, 2048, 4.8), ("llama_15b", 8, 512, 4.8),
    ("llama_135m", 1, 512, 1.4), ("llama_135m", 32, 256, 1.6), ("llama_27b", 1, 512, 6.5),
    ("gpt_124m", 16, 256, 1.5),
)  # fmt: skip
"""Model, batch, context, and GB that it holds."""
INFERRED = (
    ("deberta_v3_base", 4, 256), ("albert_base", 8, 256), ("gemma3_1b", 2, 512),
    ("olmo2_1b", 2, 512), ("phi_decode", 4, 1024), ("wav2vec2_base", 8, 80000),
    ("sam_encoder", 1, 0), ("latent_unet", 2, 0), ("dit_b", 16, 0), ("fno2d", 16, 128),
    ("hyena", 4, 1024), ("gat", 4, 8192), ("hrnet_w18", 16, 0), ("xcit_small_12_p16_224", 16, 0),
    ("coatnet_0_rw_224", 16, 0), ("fastvit_t8", 32, 0), ("vit_small_patch14_dinov2", 4, 0),
    ("pvt_v2_b1", 16, 0), ("dm_nfnet_f0", 16, 0), ("maxvit_t", 8, 0), ("deeplabv3_resnet50", 4, 0),
    ("r3d_18", 4, 0), ("swin3d_t", 2, 0), ("mamba2_130m", 4, 512),
)  # fmt: skip
IMAGES_LAST = ("hrnet_w18", "fastvit_t8", "deeplabv3_resnet50", "dm_nfnet_f0")
COMPILED = ("deberta_v3_base", "gemma3_1b", "dit_b", "latent_unet", "xcit_small_12_p16_224",
            "maxvit_t", "wav2vec2_base", "phi_decode", "vit_small_patch14_dinov2")  # fmt: skip
TRAINED = (
    ("dit_b", 16, 0, 6.0), ("xcit_small_12_p16_224", 16, 0, 6.0), ("olmo2_1b", 1, 512, 14.0),
    ("deeplabv3_resnet50", 8, 0, 12.0), ("hyena", 4, 512, 8.0), ("gat", 1, 8192, 4.0),
    ("r3d_18", 4, 0, 4.0), ("wav2vec2_base", 4, 80000, 8.0), ("latent_unet", 1, 0, 16.0),
    ("maxvit_t", 8, 0, 6.0),
)  # fmt: skip
TRAINED_COMPILED = ("dit_b", "xcit_small_12_p16_224", "olmo2_1b")


def _layout(model: str) -> str:
    return "channels_last" if model in IMAGES_LAST else "contiguous"


def _train(model: str, batch: int, seq: int, gb: float, **more: object) -> Case:
    base = Case("train", model, "eager", batch, seq, layout=_layout(model), autocast=True,
                optimizer="adamw", implementation="fused", gb=gb)  # fmt: skip
    return replace(base, **more)  # type: ignore[arg-type]


def kinds_inferred() -> list[Case]:
    """Eager and captured steps of many kinds of models, with a profile of the eager ones."""
    table = []
    for model, batch, seq in INFERRED:
        base = Case("infer", model, "eager", batch, seq, layout=_layout(model), profile=True)
        table += [base, replace(base, mode="graph", profile=False)]
    return table


def kinds_trained() -> list[Case]:
    """Eager training of the same."""
    pure = {"olmo2_1b": {"autocast": False}}
    return [
        _train(*one, profile=True, **pure.get(one[0], {}))  # type: ignore[arg-type]
        for one in TRAINED
    ]


def kinds_compiled() -> list[Case]:
    """Compiled steps of the same."""
    infer = {case.model: case for case in kinds_inferred() if case.mode == "eager"}
    train = {case.model: case for case in kinds_trained()}
    cases = [replace(infer[name], gb=4.0) for name in COMPILED]
    cases += [train[name] for name in TRAINED_COMPILED]
    return [replace(case, mode="compiled") for case in cases]


def decoded() -> list[Case]:
    """Decoding, eager and captured."""
    eager = [Case("decode", model, "eager", batch, seq) for model, batch, seq, _ in DECODED]
    return [case for one in eager for case in (one, replace(one, mode="graph"))]


def decoded_compiled() -> list[Case]:
    """Decoding, compiled, with and without a graph."""
    return [
        Case("decode", model, "compiled", batch, seq, gb=gb) for model, batch, seq, gb in DECODED
    ]


def trained() -> list[Case]:
    """Training of decoders in plain PyTorch, with and without checkpointed layers."""
    pure = {"autocast": False}
    return [
        _train("gpt_124m", 4, 512, 3.5),
        _train("gpt_355m", 4, 512, 7.0, checkpoint=True),
        _train("gpt_774m", 1, 1024, 18.0, checkpoint=True),
        _train("llama_06b", 1, 1024, 12.0, checkpoint=True),
        _train("llama_135m", 4, 1024, 4.5, checkpoint=True),
        _train("llama_06b", 1, 512, 6.5, **pure),
        _train("llama_135m", 8, 512, 4.5, implementation="foreach"),
        _train("gpt_wide", 2, 1024, 7.0, checkpoint=True, **pure),
        _train("llama_15b", 1, 2048, 22.0, checkpoint=True, **pure),
        _train("gpt_774m", 2, 512, 14.0, **pure),
        _train("gpt_wide", 1, 512, 9.5),
    ]


def trained_compiled() -> list[Case]:
    """The same compiled, as far as they are soon compiled."""
    kept = [case for case in trained() if case.model not in ("gpt_774m", "llama_15b")]
    return [replace(case, mode="compiled") for case in kept]


def eager() -> list[Case]:
    """Cases that nothing compiles."""
    return [*decoded(), *trained(), *kinds_inferred(), *kinds_trained()]


def compiled() -> list[Case]:
    """Compiled cases."""
    return [*decoded_compiled(), *trained_compiled(), *kinds_compiled()]
