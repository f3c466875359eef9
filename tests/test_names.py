"""Hardware and models by name, by file or as values: every door takes all three."""

import pytest

import perfmodel as pm
from perfmodel.errors import SpecError, WorkloadError
from perfmodel.hardware import accelerator_of, cluster_of, loaded

GEMM = pm.op_from_dict({"op": "gemm", "m": 512, "n": 512, "k": 512})


def test_names_and_values_say_the_same():
    model, cluster = pm.load_model("gpt2"), pm.load("dgx-h100")
    chip, plan = cluster.accelerator, pm.Plan(dp=8)
    assert (
        pm.train("gpt2", "dgx-h100", plan, 8, 128).step
        == pm.train(model, cluster, plan, 8, 128).step
    )
    assert pm.infer("gpt2", "h100-sxm5-80gb", 1, 16, 4) == pm.infer(model, chip, 1, 16, 4)
    for given in ("h100-sxm5-80gb", "dgx-h100", cluster):
        assert pm.price(GEMM, given).seconds == pm.price(GEMM, chip).seconds
        assert pm.cost_of(GEMM, given) == pm.cost_of(GEMM, chip)
        assert accelerator_of(given) == chip


@pytest.mark.parametrize(
    "ask",
    [
        lambda: pm.infer("gpt2", pm.load("nvlink4"), 1, 16, 4),
        lambda: pm.price(GEMM, pm.load("nvlink4")),
        lambda: pm.train("gpt2", pm.load("h100-sxm5-80gb"), pm.Plan(), 8, 128),
        lambda: pm.plan("gpt2", pm.load("h100-sxm5-80gb"), 8, 128),
        lambda: cluster_of("h100-sxm5-80gb"),
        lambda: loaded(5),
    ],
)
def test_hardware_of_another_kind_is_told(ask):
    with pytest.raises(SpecError) as caught:
        ask()
    assert caught.value.repair


def test_what_is_no_model_or_operator_is_told():
    with pytest.raises(WorkloadError, match="ModelConfig"):
        pm.train(5, "dgx-h100", pm.Plan(dp=8), 8, 128)
    with pytest.raises(WorkloadError, match="op_from_dict"):
        pm.price({"op": "gemm"}, "h100-sxm5-80gb")
