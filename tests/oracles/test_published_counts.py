"""Oracle: parameter counts that the models' own papers and cards print."""

import pytest

from perfmodel.workload.transformer import active_parameters, load_model, parameters

# exact counts of the released weights (Hugging Face model cards, safetensors metadata)
EXACT = {
    "bloom-176b": 176_247_271_424,
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen2.5-7b": 7_615_616_512,
    "gemma-7b": 8_537_680_896,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
}
# billions as printed, with the last digit's rounding
PRINTED = {
    # Narayanan et al. 2021, table 1
    "megatron-3.6b": (3.6, 0.05),
    "megatron-7.5b": (7.5, 0.05),
    "megatron-18b": (18.4, 0.05),
    "megatron-39b": (39.1, 0.05),
    "megatron-76b": (76.1, 0.05),
    "megatron-145b": (145.6, 0.05),
    "megatron-310b": (310.1, 0.05),
    "megatron-530b": (529.6, 0.05),
    "megatron-1t": (1008.0, 0.05),
    "gpt3-175b": (174.6, 0.05),
    "palm-540b": (540.35, 0.01),
    "deepseek-v2": (236, 0.5),
    "deepseek-v3": (671, 0.5),
    "nemotron-4-340b": (341, 0.5),
    "gpt-neox-20b": (20.6, 0.05),
    "qwen3-235b-a22b": (235, 0.5),
}
ACTIVE = {
    "mixtral-8x7b": (12.9, 0.05),
    "mixtral-8x22b": (39, 0.5),
    "deepseek-v2": (21, 0.5),
    "deepseek-v3": (37, 0.6),
    "qwen3-235b-a22b": (22, 0.5),
    "qwen3-30b-a3b": (3.3, 0.06),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact(name):
    assert parameters(load_model(name)) == EXACT[name]


@pytest.mark.parametrize("name", PRINTED)
def test_printed(name):
    billions, rounding = PRINTED[name]
    assert parameters(load_model(name)) / 1e9 == pytest.approx(billions, abs=rounding)


@pytest.mark.parametrize("name", ACTIVE)
def test_active(name):
    billions, rounding = ACTIVE[name]
    assert active_parameters(load_model(name)) / 1e9 == pytest.approx(billions, abs=rounding)
