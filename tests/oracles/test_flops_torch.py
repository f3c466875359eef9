"""Oracle: FLOPs equal torch.utils.flop_counter on transformers models, forward and backward.

The counter sees matrix products only, and the full square of query-key pairs; so do the figures
compared. Eager attention keeps its backward pass at exactly twice the forward pass.
"""

import json
from importlib import resources

import pytest

from perfmodel.workload.huggingface import model_from_config
from perfmodel.workload.transformer import forward_flops, model_flops

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

DENSE = [
    "gpt3-175b",
    "opt-66b",
    "bloom-176b",
    "gpt-neox-20b",
    "mpt-30b",
    "llama-3-70b",
    "llama-3-8b",
    "qwen3-32b",
    "qwen2.5-7b",
    "gemma-7b",
    "nemotron-4-15b",
    "bert-large",
    "vit-l-16",
    "t5-3b",
]
# Routing depends on data, so these run for real, narrowed.
MOE = {
    "mixtral-8x7b": {},
    "qwen3-30b-a3b": {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24},
    "deepseek-v2-lite": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "kv_lora_rank": 16,
        "n_group": 1,
        "topk_group": 1,
    },
    "deepseek-v3": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "kv_lora_rank": 16,
        "q_lora_rank": 32,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
CLASSES = {
    "bert": "BertForMaskedLM",
    "vit": "ViTForImageClassification",
    "t5": "T5ForConditionalGeneration",
}


def config_of(name, **changes):
    file = resources.files("perfmodel.workload") / "models" / f"{name}.json"
    config = json.loads(file.read_text())
    config.pop("source")
    config |= {key: 2 for key in LAYERS if key in config}
    return config | changes


def build(config, device):
    config = dict(config)
    kind = config.pop("model_type")
    made = transformers.AutoConfig.for_model(kind, **config, attn_implementation="eager")
    with torch.device(device):
        if kind in CLASSES:
            model = getattr(transformers, CLASSES[kind])(made)
        else:
            model = transformers.AutoModelForCausalLM.from_config(made, attn_implementation="eager")
    if hasattr(model, "set_experts_implementation"):
        # the counter does not know the grouped product
        model.set_experts_implementation("eager")
    return model.train()


def counted(model, inputs):
    with FlopCounterMode(display=False) as forward:
        output = model(**inputs)
    with FlopCounterMode(display=False) as backward:
        output.logits.float().sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def inputs_for(config, batch, seq, device):
    if config["model_type"] == "vit":
        side = config["image_size"]
        return {"pixel_values": torch.zeros(batch, 3, side, side, device=device)}
    ids = torch.zeros(batch, seq, dtype=torch.long, device=device)
    if config["model_type"] == "t5":
        return {"input_ids": ids, "decoder_input_ids": ids}
    return {"input_ids": ids}


@pytest.mark.parametrize("name", DENSE)
def test_dense_flops_equal_counter(name):
    config = config_of(name)
    shape = model_from_config(config)
    seq = shape.image_tokens or 256
    forward, backward = counted(build(config, "meta"), inputs_for(config, 3, seq, "meta"))
    assert forward_flops(shape, seq, 3) == forward
    assert model_flops(shape, seq, 3) == forward + backward


@pytest.mark.parametrize("name", MOE)
def test_moe_flops_equal_counter(name):
    config = config_of(name, **(SMALL | MOE[name]))
    if "kv_lora_rank" in config:
        config |= {"num_key_value_heads": 4, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8}
        config |= {"v_head_dim": 16}
    if "head_dim" in config:
        config["head_dim"] = 16
    shape = model_from_config(config)
    torch.manual_seed(0)
    model = build(config, "cpu")
    forward, backward = counted(model, inputs_for(config, 2, 32, "cpu"))
    assert forward_flops(shape, 32, 2) == forward
    assert model_flops(shape, 32, 2) == forward + backward
