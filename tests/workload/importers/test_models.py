"""Whole models of transformers, narrowed, from their configurations; no weights, no accelerator.

Oracles: parameter counts of PyTorch, and the FLOPs that ``torch.utils.flop_counter`` sees while the
same model runs.
"""

import math
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import perfmodel as pm  # noqa: E402
from perfmodel.workload.importers.decode import decode_inputs  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
T = transformers
META = torch.device("meta")


def image(side=64, batch=2):
    return (torch.empty(batch, 3, side, side, device=META),)


def tokens(length=16, batch=2, vocab=64):
    return torch.randint(1, vocab, (batch, length), device="cpu")


TEXT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GATED = {**TEXT, "intermediate_size": 64, "num_key_value_heads": 2, "use_cache": False}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def cnn(kind, **fields):
    config = getattr(T, f"{kind}Config")(num_labels=10, **fields)
    return getattr(T, f"{kind}ForImageClassification")(config), image(), {}


def detr():
    backbone = T.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"]
    )
    config = T.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, num_queries=5,
    )  # fmt: skip
    return T.DetrForObjectDetection(config), image(), {}


def t5():
    config = T.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        use_cache=False, decoder_start_token_id=0,
    )  # fmt: skip
    given = {"input_ids": tokens(), "labels": tokens(8)}
    return T.T5ForConditionalGeneration(config), (), given


def whisper():
    config = T.WhisperConfig(
        vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=50,
        use_cache=False, decoder_start_token_id=0, **SPECIAL,
    )  # fmt: skip
    audio = torch.empty(2, 80, 100, device=META)
    return T.WhisperForConditionalGeneration(config), (audio,), {"labels": tokens(8)}


def clip():
    text = {**TEXT, "intermediate_size": 64, "max_position_embeddings": 16, **SPECIAL}
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = T.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    given = {"input_ids": tokens(), "pixel_values": image(32)[0], "return_loss": True}
    return T.CLIPModel(config), (), given


def language(kind, **fields):
    config = getattr(T, f"{kind}Config")(**{**GATED, **SPECIAL, **fields})
    ids = tokens()
    return getattr(T, f"{kind}ForCausalLM")(config), (ids,), {"labels": ids}


def gpt2():
    config = T.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, use_cache=False, **SPECIAL)
    ids = tokens()
    return T.GPT2LMHeadModel(config), (ids,), {"labels": ids}


def mamba():
    config = T.MambaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, use_cache=False, **SPECIAL
    )
    ids = tokens()
    return T.MambaForCausalLM(config), (ids,), {"labels": ids}


MODELS = {
    "resnet": lambda: cnn(
        "ResNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    ),
    "mobilenet_v2": lambda: cnn("MobileNetV2", depth_multiplier=0.35),
    "efficientnet": lambda: cnn("EfficientNet", width_coefficient=0.25, depth_coefficient=0.3,
        hidden_dim=320,
    ),
    "convnext": lambda: cnn("ConvNext", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    "regnet": lambda: cnn("RegNet", hidden_sizes=[8, 16], depths=[1, 1], groups_width=8),
    "vit": lambda: cnn(
        "ViT", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        image_size=64,
    ),
    "swin": lambda: cnn(
        "Swin", image_size=64, embed_dim=12, depths=[2, 2], num_heads=[2, 4], window_size=4
    ),
    "segformer": lambda: (
        T.SegformerForSemanticSegmentation(
            T.SegformerConfig(
                hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, decoder_hidden_size=16, num_labels=5
            )
        ),
        image(),
        {},
    ),
    "detr": detr,
    "bert": lambda: (
        T.BertForMaskedLM(T.BertConfig(**TEXT, intermediate_size=64)),
        (tokens(),),
        {"labels": tokens(), "attention_mask": tokens() // 64 + 1},
    ),
    "t5": t5,
    "gpt2": gpt2,
    "llama": lambda: language("Llama"),
    "mixtral": lambda: language("Mixtral", num_local_experts=4),
    "qwen2_moe": lambda: language(
        "Qwen2Moe", num_experts=4, moe_intermediate_size=32, shared_expert_intermediate_size=64
    ),
    "qwen3_moe": lambda: language(
        "Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=8
    ),
    "mamba": mamba,
    "whisper": whisper,
    "clip": clip,
}  # fmt: skip
NO_LOSS = {
    "segformer", "detr", "resnet", "mobilenet_v2", "efficientnet", "convnext", "regnet", "vit",
    "swin",
}  # fmt: skip


def flops(program):
    """FLOPs of the matrix products and convolutions of a program, from shapes alone."""
    total = 0
    for node in program.nodes:
        shapes = [program.tensor(name).shape for name in node.inputs]
        out = [program.tensor(name).shape for name in node.outputs]
        match node.target.removeprefix("aten."):
            case "mm" | "bmm":
                total += 2 * math.prod(out[0]) * shapes[0][-1]
            case "addmm" | "baddbmm":
                total += 2 * math.prod(out[0]) * shapes[1][-1]
            case "convolution":
                weight = math.prod(shapes[1][1:])
                transposed = node.attributes["transposed"]
                spread = shapes[0][2:] if transposed else out[0][2:]
                total += 2 * out[0][0] * math.prod(spread) * shapes[1][0] * weight
            case "_scaled_dot_product_efficient_attention":
                (batch, heads, queries, width), keys = shapes[0], shapes[1][2]
                total += 2 * batch * heads * queries * keys * (width + shapes[2][3])
    return total


@pytest.mark.parametrize("name", MODELS)
def test_inference(name):
    with META:
        model, args, kwargs = MODELS[name]()
    kwargs = {key: value for key, value in kwargs.items() if key not in ("labels", "return_loss")}
    if name in ("t5", "whisper"):
        kwargs["decoder_input_ids"] = tokens(8)
    program = pm.trace(model, args, kwargs)
    assert program.parameters == sum(p.numel() for p in model.parameters())
    assert all(node.target.startswith("aten.") for node in program.nodes)
    assert sum(bool(node.module) for node in program.nodes) > 0.5 * len(program.nodes)
    experts = {"mixtral", "qwen2_moe", "qwen3_moe"}
    assert ("aten._grouped_mm" in {n.target for n in program.nodes}) == (name in experts)
    assert bool(program.assumptions) == (name in experts)
    if name in experts:
        return  # the counter has no rule for grouped products
    model = MODELS[name]()[0].eval()
    args = [torch.zeros(value.shape, dtype=value.dtype) for value in args]
    kwargs = {k: torch.ones(v.shape, dtype=v.dtype) for k, v in kwargs.items()}
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    assert flops(program) == counter.get_total_flops() > 0


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"segformer", "detr"}))
def test_training(name):
    with META:
        model, args, kwargs = MODELS[name]()
    if name in NO_LOSS:
        kwargs["labels"] = tokens(1).squeeze(1) % 10
    program = pm.trace(model, args, kwargs, training=pm.Training(), autocast="bf16")
    gradients = {t.storage for t in program.tensors if t.role == "gradient"}
    sizes = sum(program.storages[number] for number in gradients)
    trained = sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    assert 0.9 * trained <= sizes <= trained  # some models leave a parameter unused
    assert [p for p in ("forward", "backward", "optimizer") if not program.phase_nodes(p)] == []


@pytest.mark.parametrize("static", [False, True])
def test_decoding(static):
    with META:
        model = MODELS["llama"]()[0].to(torch.bfloat16)
    args, kwargs = decode_inputs(model, batch_size=3, past_length=31, static=static)
    program = pm.trace(model, args, kwargs)
    attention = next(n for n in program.nodes if "scaled_dot_product" in n.target)
    query, key = (program.tensor(name).shape for name in attention.inputs[:2])
    assert (query[0], query[1] * query[2], key[2]) == (3, 4, 32)  # one query for each head
    assert program.tensor(program.outputs[0]).shape == (3, 1, 64)


LARGE = """
import resource, time
import torch, transformers
import perfmodel as pm
config = transformers.LlamaConfig(
    vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80,
    num_attention_heads=64, num_key_value_heads=8, use_cache=False)
with torch.device("meta"):
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
ids = torch.zeros(1, 4096, dtype=torch.long)
begin = time.perf_counter()
program = pm.trace(model, ids, {"labels": ids}, training=pm.Training())
seconds = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(program.parameters, len(program.nodes), peak, seconds)
"""


@pytest.mark.slow
def test_seventy_billion_parameters_fit_in_4_gib():
    """A training step of an 80-layer Llama, recorded in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, timeout=600
    )
    parameters, nodes, peak, _ = done.stdout.split()
    assert int(parameters) == 70_553_706_496
    assert int(nodes) > 10_000
    assert int(peak) < 4 * 2**30


def test_recording_speed(benchmark):
    """Time of recording a forward pass of four Llama layers at full width."""
    config = T.LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=4, num_attention_heads=64,
        num_key_value_heads=8, use_cache=False,
    )  # fmt: skip
    with META:
        model = T.LlamaForCausalLM(config)
    program = benchmark.pedantic(pm.trace, (model, tokens(128)), rounds=3)
    assert len(program.nodes) > 200
