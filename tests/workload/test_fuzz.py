"""Whatever the file says, the answer is a value or a five-part error, never another exception."""

import json
from importlib import resources

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfmodel.errors import WorkloadError
from perfmodel.workload.huggingface import model_from_config
from perfmodel.workload.op import FAMILIES, op_from_dict
from perfmodel.workload.transformer import bundled_models, layer_kinds, parameters

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**70, -1, 0, 10**6]),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(-2, 5), max_size=3),
    st.lists(st.sampled_from(["full_attention", "sliding_attention", "x"]), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def configs():
    folder = resources.files("perfmodel.workload") / "models"
    kinds = {}
    for name in bundled_models():
        config = json.loads((folder / f"{name}.json").read_text())
        kinds.setdefault(config["model_type"], config)
    extra = ("layer_types", "attn_config", "mlp_only_layers", "sliding_window", "head_dim")
    return [config | {key: config.get(key) for key in extra} for config in kinds.values()]


CONFIGS = configs()
NATIVE = [config for config in CONFIGS if config["model_type"] == "transformer"]
for config in NATIVE:
    for key in ("layer_types", "attn_config", "mlp_only_layers", "sliding_window"):
        config.pop(key, None)


def check(error):
    assert all((error.where, error.got, error.accepted, error.repair))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_configs(data):
    config = dict(data.draw(st.sampled_from(CONFIGS)))
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=2)):
        config[key] = data.draw(ODD)
    try:
        model = model_from_config(config)
    except WorkloadError as error:
        check(error)
        return
    assert parameters(model) > 0
    assert sum(kind.count for kind in layer_kinds(model)) == model.layers + model.encoder_layers


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_operators(data):
    family = data.draw(st.sampled_from([*FAMILIES, "all_reduce", "p2p"]))
    keys = ["m", "n", "k", "rows", "cols", "numel", "kind", "dtype", "pass", "direction", "tokens"]
    keys += ["vocab", "dim", "bytes", "world", "groups", "op", "copy_dtype", "batch"]
    record = data.draw(st.dictionaries(st.sampled_from(keys), ODD, max_size=6))
    try:
        op = op_from_dict(record | {"op": family})
    except WorkloadError as error:
        check(error)
        return
    assert op.flops >= 0
    assert op.bytes_moved >= 0
