"""Reading model descriptions: families, aliases, defaults, and refusals."""

import json
from importlib import resources

import pytest

from perfmodel.errors import WorkloadError
from perfmodel.workload.huggingface import known_model_types, model_from_config
from perfmodel.workload.transformer import ModelConfig, bundled_models, layer_kinds, load_model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def write(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models_load_and_state_their_source(name):
    file = resources.files("perfmodel.workload") / "models" / f"{name}.json"
    model = load_model(name)
    assert model.name == name
    assert len(json.loads(file.read_text())["source"]) > 20
    assert sum(kind.count for kind in layer_kinds(model)) == model.layers + model.encoder_layers
    # the native description of any model reads back as the same model
    again = model_from_config(json.loads(json.dumps(model.to_dict())))
    assert again == model


def test_contract_names_are_bundled():
    assert {"gpt3-175b", "llama-3-8b", "llama-3-70b"} <= set(bundled_models())


def test_every_model_type_is_exercised():
    types = {
        json.loads((resources.files("perfmodel.workload") / "models" / f"{n}.json").read_text())[
            "model_type"
        ]
        for n in bundled_models()
    }
    others = {"qwen2_moe", "gemma3_text", "phi3", "olmo2", "starcoder2"}
    assert set(known_model_types()) - types == others


def test_aliases_name_the_same_shape(tmp_path):
    gpt2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100}
    long = {
        "model_type": "gpt2",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "n_inner": None,
    }
    assert load_model(write(tmp_path, gpt2)) == load_model(write(tmp_path, long))
    assert load_model(tmp_path).ffn == 256


def test_sliding_window_layouts():
    assert [kind.name for kind in layer_kinds(load_model("mistral-7b"))] == ["dense-window"]
    gemma = load_model("gemma-2-27b")
    assert gemma.windowed[:4] == (True, False, True, False)
    pattern = LLAMA | {"model_type": "gemma3_text", "sliding_window": 8, "num_hidden_layers": 12}
    assert [i for i, w in enumerate(model_from_config(pattern).windowed) if not w] == [5, 11]
    qwen = LLAMA | {"model_type": "qwen2", "sliding_window": 8}
    assert model_from_config(qwen).window == 0
    qwen |= {"use_sliding_window": True, "max_window_layers": 1}
    assert model_from_config(qwen).windowed == (False, True)
    listed = LLAMA | {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2}
    listed |= {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]}
    assert model_from_config(listed).windowed == (False, True)


def test_moe_layouts():
    deepseek = load_model("deepseek-v3")
    assert deepseek.moe[:4] == (False, False, False, True)
    assert load_model("llama-4-maverick").moe[:4] == (False, True, False, True)
    sparse = LLAMA | {"model_type": "qwen2_moe", "num_experts": 4, "num_experts_per_tok": 2}
    sparse |= {"moe_intermediate_size": 32, "decoder_sparse_step": 2, "num_hidden_layers": 4}
    sparse |= {"shared_expert_intermediate_size": 48, "mlp_only_layers": [3]}
    model = model_from_config(sparse)
    assert model.moe == (False, True, False, False)
    assert (model.shared_ffn, model.shared_gate) == (48, True)


def test_wrapped_text_model():
    wrapped = {"model_type": "some_vision_wrapper", "text_config": LLAMA}
    assert model_from_config(wrapped).hidden == 64


@pytest.mark.parametrize(
    ("change", "where", "nearest"),
    [
        ({"model_type": "lama"}, "model_type", "llama"),
        ({"model_type": "mixtrl"}, "model_type", "mixtral"),
        ({"model_type": None}, "model_type", None),
        ({"model_type": ["llama"]}, "model_type", None),
        ({"hidden_size": "64"}, "hidden_size", None),
        ({"hidden_size": 64.0}, "hidden_size", None),
        ({"hidden_size": -64}, "hidden_size", None),
        ({"hidden_size": 0}, "hidden", None),
        ({"hidden_size": True}, "hidden_size", None),
        ({"hidden_size": 65}, "hidden", None),
        ({"vocab_size": 0}, "vocab", None),
        ({"num_key_value_heads": 3}, "kv_heads", None),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings", None),
        ({"num_hidden_layers": 10**30}, "layers", None),
    ],
)
def test_bad_values_say_where(change, where, nearest):
    with pytest.raises(WorkloadError) as caught:
        model_from_config(LLAMA | change)
    assert caught.value.where.endswith(where)
    assert caught.value.nearest == nearest
    assert all((caught.value.got, caught.value.accepted, caught.value.repair))


@pytest.mark.parametrize("given", [5, None, "lama-3-8b"])
def test_what_names_no_model_is_told(given):
    with pytest.raises(WorkloadError, match=str(given)):
        load_model(given)


def test_unknown_type_lists_the_known_ones():
    with pytest.raises(WorkloadError) as caught:
        model_from_config({"model_type": "rwkv"})
    assert all(kind in caught.value.accepted for kind in known_model_types())


@pytest.mark.parametrize("key", [key for key in LLAMA if key != "model_type"])
def test_missing_keys_are_named(key):
    with pytest.raises(WorkloadError, match=key):
        model_from_config({name: value for name, value in LLAMA.items() if name != key})


def test_misspelt_key_is_found():
    config = {key: value for key, value in LLAMA.items() if key != "hidden_size"}
    with pytest.raises(WorkloadError) as caught:
        model_from_config(config | {"hiden_size": 64})
    assert caught.value.nearest == "hiden_size"


def test_native_description_refuses_unknown_keys():
    native = load_model("palm-540b").to_dict()
    with pytest.raises(WorkloadError) as caught:
        model_from_config(native | {"hiden": 3})
    assert caught.value.nearest == "hidden"
    with pytest.raises(WorkloadError, match="no vocab"):
        model_from_config({key: value for key, value in native.items() if key != "vocab"})
    with pytest.raises(WorkloadError, match="list"):
        model_from_config(native | {"moe": "all"})
    with pytest.raises(WorkloadError, match="norm"):
        model_from_config(native | {"norm": "batchnorm"})
    with pytest.raises(WorkloadError, match="flags"):
        model_from_config(native | {"windowed": [True]})


def test_moe_needs_its_sizes():
    base = {"name": "x", "layers": 1, "hidden": 8, "heads": 2, "ffn": 8, "vocab": 8}
    with pytest.raises(WorkloadError, match="experts_per_token"):
        ModelConfig(**base, experts=4, experts_per_token=5, expert_ffn=8)
    with pytest.raises(WorkloadError, match="expert_ffn"):
        ModelConfig(**base, experts=4, experts_per_token=2)
    with pytest.raises(WorkloadError, match="true or false"):
        ModelConfig(**base, gated=1)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", '{"model_type": "llama", "model_type": "gpt2"}', "[" * 10**5]
)
def test_bad_json_is_refused(tmp_path, text):
    with pytest.raises(WorkloadError):
        load_model(write(tmp_path, text))


def test_two_gigabyte_config_is_refused_unread(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2 * 2**30)
    with pytest.raises(WorkloadError, match="not the weights"):
        load_model(path)


def test_misspelt_name_gets_the_nearest():
    with pytest.raises(WorkloadError) as caught:
        load_model("lama-3-70b")
    assert caught.value.nearest == "llama-3-70b"
    with pytest.raises(WorkloadError):
        load_model("/nowhere/config.json")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        (
            "llama3",
            "llama-3-70b, llama-3-8b, llama-3.1-405b, llama-3.2-1b, llama-3.2-3b, llama-30b",
        ),
        ("LLaMA-3-8B", "llama-3-8b"),
        ("mixtral", "mixtral-8x22b, mixtral-8x7b"),
        ("qwen25", "qwen2.5-72b, qwen2.5-7b"),
        ("--", None),
    ],
)
def test_the_beginning_of_a_name_gets_all_that_begin_so(name, nearest):
    with pytest.raises(WorkloadError) as caught:
        load_model(name)
    assert caught.value.nearest == nearest
