"""An unread draw of models that nothing had recorded before: trained, run and decoded."""

from __future__ import annotations

from dataclasses import replace

from validate.bench.models.cases import Case

LAST = ("inception_next_tiny", "dla60", "ese_vovnet39b", "edgenext_small", "resnetv2_50",
        "nextvit_small", "caformer_s18", "tf_efficientnetv2_b0", "focalnet_tiny",
        "davit_tiny")  # fmt: skip
"""Networks that run channels last."""
PURE: dict[str, object] = {"autocast": False}
FOREACH: dict[str, object] = {"implementation": "foreach"}
SGD: dict[str, object] = {"optimizer": "sgd", "implementation": "foreach"}
TRAINED: tuple[tuple[str, int, int, float, dict[str, object]], ...] = (
    ("gpt_bigcode_small", 4, 512, 7.0, {}),
    ("siglip_base", 16, 0, 5.0, {}),
    ("phi3_small", 2, 512, 6.0, PURE),
    ("dla60", 32, 0, 5.0, SGD),
    ("camembert_base", 8, 256, 5.0, {}),
    ("davit_tiny", 16, 0, 5.0, {}),
    ("gpt_210m", 4, 256, 5.0, {}),
    ("inception_next_tiny", 32, 0, 5.0, {}),
    ("smollm3_small", 2, 512, 5.0, FOREACH),
    ("esm2_35m", 8, 256, 3.0, {}),
    ("deit3_small_patch16_224", 32, 0, 4.0, PURE),
    ("biogpt_small", 4, 256, 5.0, {"checkpoint": True}),
    ("llama_260m", 2, 1024, 6.0, PURE),
    ("resnetv2_50", 32, 0, 5.0, SGD),
    ("rembert_small", 8, 128, 4.0, {}),
)
"""Model, batch, sequence, GB, and what differs from fused AdamW under autocast."""
INFERRED = (
    ("granite_small", 2, 256), ("siglip_base", 4, 0), ("levit_256", 8, 0),
    ("phi3_small", 1, 512), ("ese_vovnet39b", 16, 0), ("camembert_base", 4, 128),
    ("caformer_s18", 8, 0), ("resmlp_24_224", 8, 0), ("gpt_bigcode_small", 2, 256),
    ("edgenext_small", 16, 0), ("esm2_35m", 4, 256), ("focalnet_tiny", 8, 0),
    ("tf_efficientnetv2_b0", 32, 0), ("nextvit_small", 8, 0), ("vit_mae_like", 8, 0),
)  # fmt: skip
DECODED = (("llama_18b", 2, 1024, 6.0), ("gpt_210m", 4, 768, 2.0), ("llama_260m", 8, 512, 2.0))
COMPILED = ("granite_small", "siglip_base", "ese_vovnet39b", "camembert_base", "resmlp_24_224")
TRAINED_COMPILED = ("gpt_bigcode_small", "siglip_base", "dla60", "camembert_base", "gpt_210m",
                    "smollm3_small", "llama_260m", "deit3_small_patch16_224")  # fmt: skip


def _layout(model: str) -> str:
    return "channels_last" if model in LAST else "contiguous"


def trained() -> list[Case]:
    """Eager training."""
    table = []
    for model, batch, seq, gb, more in TRAINED:
        base = Case("train", model, "eager", batch, seq, layout=_layout(model), autocast=True,
                    optimizer="adamw", implementation="fused", gb=gb)  # fmt: skip
        table.append(replace(base, **more))  # type: ignore[arg-type]
    return table


def inferred() -> list[Case]:
    """Eager and captured inference."""
    table = []
    for model, batch, seq in INFERRED:
        base = Case("infer", model, "eager", batch, seq, layout=_layout(model))
        table += [base, replace(base, mode="graph")]
    return table


def decoded() -> list[Case]:
    """Decoding, eager and captured."""
    eager = [Case("decode", model, "eager", batch, seq) for model, batch, seq, _ in DECODED]
    return [case for one in eager for case in (one, replace(one, mode="graph"))]


def compiled() -> list[Case]:
    """Compiled steps of the same."""
    infer = {case.model: case for case in inferred() if case.mode == "eager"}
    train = {case.model: case for case in trained()}
    cases = [train[name] for name in TRAINED_COMPILED]
    cases += [replace(infer[name], gb=4.0) for name in COMPILED]
    cases += [
        Case("decode", model, "eager", batch, seq, gb=gb) for model, batch, seq, gb in DECODED
    ]
    return [replace(case, mode="compiled") for case in cases]


def eager() -> list[Case]:
    """Cases that nothing compiles."""
    return [*decoded(), *trained(), *inferred()]
