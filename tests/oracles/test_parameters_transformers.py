"""Oracle: parameter counts equal those of Hugging Face transformers on the meta device."""

import json
from importlib import resources

import pytest

from perfmodel.workload.transformer import bundled_models, load_model, parameters

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CLASSES = {
    "bert": "BertForMaskedLM",
    "vit": "ViTForImageClassification",
    "t5": "T5ForConditionalGeneration",
    "kimi_k2": "DeepseekV3ForCausalLM",
    "llama4_text": "Llama4ForCausalLM",
}


def config_of(name):
    file = resources.files("perfmodel.workload") / "models" / f"{name}.json"
    return json.loads(file.read_text())


def build(config):
    config = {key: value for key, value in config.items() if key != "source"}
    kind = config.pop("model_type")
    if kind == "kimi_k2":
        kind = "deepseek_v3"
    made = transformers.AutoConfig.for_model(kind, **config)
    with torch.device("meta"):
        name = CLASSES.get(kind)
        if name is None:
            return transformers.AutoModelForCausalLM.from_config(made)
        return getattr(transformers, name)(made)


@pytest.mark.parametrize(
    "name", [name for name in bundled_models() if config_of(name)["model_type"] != "transformer"]
)
def test_parameters_equal_transformers(name):
    model = build(config_of(name))
    assert parameters(load_model(name)) == sum(p.numel() for p in model.parameters())
