"""What the recorder writes down, operator by operator."""

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import perfmodel as pm  # noqa: E402
from perfmodel.workload.importers import autocast  # noqa: E402
from perfmodel.workload.importers.attention import FLASH_FIRST  # noqa: E402
from perfmodel.workload.program import load_program, save_program  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]


def targets(program, phase=None):
    return [
        node.target.removeprefix("aten.")
        for node in program.nodes
        if phase is None or node.phase == phase
    ]


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def test_nodes_carry_modules_lines_and_layout():
    model = nn.Sequential()
    model.add_module("first", nn.Conv2d(3, 8, 3, padding=1))
    model.add_module("second", nn.ReLU(inplace=True))
    program = pm.trace(model, meta(2, 3, 8, 8).to(memory_format=torch.channels_last))
    assert targets(program) == ["convolution", "relu_"]
    conv, relu = program.nodes
    assert (conv.name, conv.module, relu.module) == ("first/convolution", "first", "second")
    assert conv.inputs == ("input0", "first.weight", "first.bias")
    assert conv.attributes["padding"] == [1, 1]
    assert conv.attributes["groups"] == 1
    assert program.tensor(conv.outputs[0]).layout == "channels_last"
    assert program.tensor(relu.outputs[0]).storage == program.tensor(conv.outputs[0]).storage
    assert program.module_calls == 3
    assert program.parameters == 8 * 3 * 9 + 8
    assert program.tensor("first.weight").role == "parameter"
    assert program.inputs == ("input0",)
    assert program.outputs == relu.outputs
    assert program.origin.startswith("torch.record (torch ")


def test_the_users_line():
    program = pm.trace(Fn(lambda x: x.sin()), meta(4))
    file, _, line = program.nodes[0].source.rpartition(":")
    assert file.endswith("test_record.py")
    assert int(line) > 1


def test_weights_are_not_copied_and_the_module_is_left_alone():
    model = nn.Linear(4, 4)
    model.train()
    before = {name: value.data_ptr() for name, value in model.state_dict().items()}
    pm.trace(model, torch.ones(2, 4), training=pm.Training(loss=torch.sum))
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == before
    assert model.training
    assert model.weight.grad is None
    assert model.weight.device.type == "cpu"


def test_compiled_parts_are_recorded_as_they_are_written():
    inner = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.GELU()))
    names = ["t", "addmm", "gelu"]
    assert targets(pm.trace(inner, meta(2, 4))) == names
    assert targets(pm.trace(nn.Sequential(inner, nn.ReLU()), meta(2, 4))) == [*names, "relu"]


def test_tied_parameters_count_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    program = pm.trace(model, meta(2, 4))
    assert program.parameters == 16


@pytest.mark.parametrize(
    ("dtype", "norm", "training", "expected"),
    [
        (torch.float32, torch.float32, False, "cudnn_batch_norm"),
        (torch.float16, torch.float32, True, "cudnn_batch_norm"),
        (torch.float16, torch.float16, False, "native_batch_norm"),
        (torch.bfloat16, torch.float32, True, "native_batch_norm"),
    ],
)
def test_batch_norm_takes_cudnn_as_cuda_does(dtype, norm, training, expected):
    model = nn.BatchNorm2d(8, dtype=norm)
    how = pm.Training(loss=lambda y: y.float().sum()) if training else None
    program = pm.trace(model, meta(2, 8, 4, 4, dtype=dtype), training=how)
    assert expected in targets(program)
    if training:
        assert f"{expected}_backward" in targets(program)
    cudnn = expected.startswith("cudnn")
    assert ("empty" in targets(program)) != cudnn


def test_dropout_is_one_kernel_in_training_and_none_in_evaluation():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    assert "native_dropout" not in targets(pm.trace(model, meta(2, 4)))
    program = pm.trace(model, meta(2, 4), training=pm.Training(loss=torch.sum))
    assert "native_dropout" in targets(program, "forward")
    assert "native_dropout_backward" in targets(program, "backward")
    assert "bernoulli_" not in targets(program)


def test_softmax_of_half_to_float_is_one_kernel_but_not_of_bfloat():
    def softmax(x):
        return F.softmax(x, -1, dtype=torch.float32)

    assert targets(pm.trace(Fn(softmax), meta(4, 4, dtype=torch.float16))) == ["_softmax"]
    assert targets(pm.trace(Fn(softmax), meta(4, 4, dtype=torch.bfloat16))) == [
        "_to_copy",
        "_softmax",
    ]


def test_inference_mode_gives_the_same_operators():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Dropout(0.1))

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            with torch.inference_mode():
                q = self.model(x).unflatten(-1, (2, 4)).transpose(1, 2)
                return F.scaled_dot_product_attention(q, q, q)

    class Plain(Wrapped):
        def forward(self, x):
            q = self.model(x).unflatten(-1, (2, 4)).transpose(1, 2)
            return F.scaled_dot_product_attention(q, q, q)

    x = meta(2, 5, 8)
    assert targets(pm.trace(Wrapped(), x)) == targets(pm.trace(Plain(), x))


# --- attention ---------------------------------------------------------------------------------
ATTENTION = {
    "bf16": ({}, "cudnn"),
    "bf16, no cudnn": ({"order": FLASH_FIRST}, "flash"),
    "fp32": ({"dtype": torch.float32}, "efficient"),
    "fp64": ({"dtype": torch.float64}, "math"),
    "mask": ({"mask": torch.float32}, "cudnn"),
    "mask, no cudnn": ({"mask": torch.bool, "order": FLASH_FIRST}, "efficient"),
    "odd head": ({"width": 20}, "flash"),
    "wide head": ({"width": 320}, "efficient"),
    "grouped": ({"kv": 2, "gqa": True}, "cudnn"),
    "grouped in fp32": ({"kv": 2, "gqa": True, "dtype": torch.float32}, "math"),
    "causal with longer keys": ({"keys": 24, "causal": True, "order": FLASH_FIRST}, "efficient"),
    "one key": ({"keys": 1}, "flash"),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_takes_the_kernel_that_cuda_takes(case):
    given, expected = ATTENTION[case]
    dtype = given.get("dtype", torch.bfloat16)
    width, heads = given.get("width", 32), 4
    keys = given.get("keys", 16)
    q = meta(2, heads, 16, width, dtype=dtype)
    k = meta(2, given.get("kv", heads), keys, width, dtype=dtype)
    mask = None
    if "mask" in given:
        kind = dtype if given["mask"] is torch.float32 else given["mask"]
        mask = meta(2, 1, 16, keys, dtype=kind)

    def attend(q, k, v, mask):
        return F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=given.get("causal", False), enable_gqa=given.get("gqa", False)
        )

    program = pm.trace(Fn(attend), (q, k, k, mask), attention=given.get("order", pm_order()))
    found = [t for t in targets(program) if "scaled_dot_product" in t]
    if expected == "math":
        assert not found
        assert targets(program).count("bmm") == 2
    else:
        assert found == [f"_scaled_dot_product_{expected}_attention"]
    assert program.tensor(program.outputs[0]).shape == (2, heads, 16, width)


def pm_order():
    return ("cudnn", "flash", "efficient", "math")


def test_attention_of_multi_head_modules_is_caught_and_has_a_backward():
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dtype=torch.bfloat16)
    x = meta(2, 8, 32, dtype=torch.bfloat16)
    program = pm.trace(model, x, training=pm.Training(loss=lambda y: y.sum()))
    names = targets(program)
    assert "_scaled_dot_product_cudnn_attention" in names
    assert "_scaled_dot_product_cudnn_attention_backward" in names


FUSED = {
    "encoder layer": "view transpose view transpose view transpose view t addmm view split view "
    "transpose view transpose view transpose _scaled_dot_product_cudnn_attention transpose view "
    "view t addmm view add_ native_layer_norm view t _addmm_activation view view t addmm view add_ "
    "native_layer_norm",
    "attention": "view transpose view transpose view transpose view t addmm view split view "
    "transpose view transpose view transpose _scaled_dot_product_cudnn_attention transpose view "
    "view t addmm view",
}


@pytest.mark.parametrize("name", FUSED)
def test_the_fused_path_of_evaluation(name):
    """The operators inside ``aten::_native_multi_head_attention`` in a profile of an H100."""
    x = meta(2, 8, 32, dtype=torch.bfloat16)
    if name == "attention":
        model = nn.MultiheadAttention(32, 4, batch_first=True, dtype=torch.bfloat16)
        program = pm.trace(model, (x, x, x), {"need_weights": False})
    else:
        model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dtype=torch.bfloat16)
        program = pm.trace(model, x)
    assert targets(program) == FUSED[name].split()
    whole = "_transformer_encoder_layer_fwd" if "layer" in name else "_native_multi_head_attention"
    assert {node.attributes["within"] for node in program.nodes} == {f"aten.{whole}"}


def test_the_fused_path_with_weights_and_masks():
    model = nn.MultiheadAttention(32, 4, batch_first=True)
    x, y = meta(2, 8, 32), meta(2, 6, 32)
    names = targets(pm.trace(model, (x, x, x)))
    assert "_transform_bias_rescale_qkv" in names
    assert names.count("bmm") == 2
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    masked = pm.trace(layer, x, {"src_mask": meta(8, 8, dtype=torch.bool)})
    assert "_masked_softmax" in targets(masked)
    assert masked.tensor(masked.outputs[0]).shape == (2, 8, 32)
    assert "cat" in targets(pm.trace(model, (x, y, y))) or len(names) > 10


def test_flash_keeps_the_logsumexp_for_backward_only():
    def attend(q):
        return F.scaled_dot_product_attention(q, q, q)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Parameter(meta(2, 4, 16, 32, dtype=torch.bfloat16))

        def forward(self):
            return attend(self.q)

    def kept(training):
        program = pm.trace(Model(), training=training, attention=FLASH_FIRST)
        peak = max(program.live_bytes())
        return peak - sum(program.storages[n] for n in program.resident)

    assert kept(pm.Training(loss=torch.sum, optimizer="sgd")) > kept(None)


# --- training ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("implementation", "optimizer", "expected"),
    [
        ("foreach", "adamw", "_foreach_addcdiv_"),
        ("fused", "adamw", "_fused_adamw_"),
        ("fused", "sgd", "_fused_sgd_"),
        ("for-loop", "adam", "addcdiv_"),
    ],
)
def test_the_optimizers_kernels(implementation, optimizer, expected):
    how = pm.Training(optimizer=optimizer, implementation=implementation, loss=torch.sum)
    program = pm.trace(nn.Linear(4, 4), meta(2, 4), training=how)
    assert expected in targets(program, "optimizer")
    assert {t.role for t in program.tensors} >= {"parameter", "gradient", "state"}
    if implementation == "foreach":
        node = next(n for n in program.nodes if n.target == "aten._foreach_addcdiv_")
        assert set(node.attributes["lists"].values()) == {2}


def test_gradients_are_born_in_backward_and_die_at_the_end():
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    program = pm.trace(model, meta(4, 8), training=pm.Training(loss=torch.sum))
    gradients = {t.storage for t in program.tensors if t.role == "gradient"}
    assert len(gradients) == 4
    assert gradients <= set(program.nodes[-1].frees)
    assert not gradients & set(program.resident)
    backward = [n for n in program.nodes if n.phase == "backward"]
    assert {n.module for n in backward} >= {"0", "1", "2"}
    gelu = next(n for n in backward if n.target == "aten.gelu_backward")
    assert gelu.module == "1"
    assert gelu.source.endswith(tuple(f":{n}" for n in range(1, 10**3)))


def test_checkpointing_runs_the_forward_again():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(
                nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)) for _ in range(4)
            )

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x.sum()

    x = meta(512, 64)
    kept = pm.trace(Model(), x, training=pm.Training())
    again = pm.trace(Model(), x, training=pm.Training(checkpoint=("layers.*",)))
    assert targets(kept, "backward").count("gelu") == 0
    assert targets(again, "backward").count("gelu") == 4
    assert max(again.live_bytes()) < 0.6 * max(kept.live_bytes())


def test_clipping_is_recorded():
    how = pm.Training(loss=torch.sum, clip_norm=1.0)
    program = pm.trace(nn.Linear(4, 4), meta(2, 4), training=how)
    assert "_foreach_norm" in targets(program, "optimizer")


# --- autocast ----------------------------------------------------------------------------------
def test_cast_lists_are_those_that_this_pytorch_registers_for_cuda():
    have = {
        name.removeprefix("aten::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::")
        and torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCUDA")
    }
    ours = {
        *autocast.LOWER,
        *autocast.UPPER,
        *autocast.UPPER_DTYPE,
        *autocast.PROMOTE,
        *autocast.NORMS,
    }
    # cudnn_* are called by no model; binary_cross_entropy is refused under autocast
    assert have - ours <= {
        "cudnn_convolution",
        "cudnn_convolution_transpose",
        "binary_cross_entropy",
    }


def test_autocast_casts_a_weight_once_and_norms_in_fp32():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x):
            return self.fc(self.fc(self.norm(x)))

    program = pm.trace(Model(), meta(2, 8), autocast="bf16")
    casts = [n for n in program.nodes if n.target == "aten._to_copy"]
    assert [n.inputs[0] for n in casts if n.inputs[0].startswith("fc.")] == ["fc.weight", "fc.bias"]
    norm = next(n for n in program.nodes if n.target == "aten.native_layer_norm")
    assert program.tensor(norm.outputs[0]).dtype == "fp32"
    assert program.tensor(program.outputs[0]).dtype == "bf16"


def test_autocast_is_that_of_the_cpu_where_the_lists_agree():
    """An independent run: real CPU autocast on a module whose operators both devices cast alike."""
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4))
    with torch.autocast("cpu", torch.bfloat16):
        real = model(torch.ones(2, 8)).dtype
    program = pm.trace(model, torch.ones(2, 8), autocast="bf16")
    assert real == torch.bfloat16
    assert program.tensor(program.outputs[0]).dtype == "bf16"


def test_autocast_regions_inside_a_module():
    def forward(x):
        with torch.autocast("cuda", torch.float16):
            y = x @ x
            with torch.autocast("cuda", enabled=False):
                z = x @ x
        return y, z, x @ x

    program = pm.trace(Fn(forward), meta(4, 4))
    assert [program.tensor(name).dtype for name in program.outputs] == ["fp16", "fp32", "fp32"]


def test_nothing_of_autocast_or_the_patches_stays_behind():
    enabled = torch.is_autocast_enabled
    pm.trace(nn.Linear(4, 4), meta(2, 4), autocast="fp16", training=pm.Training(loss=torch.sum))
    with pytest.raises(pm.PerfmodelError):
        pm.trace(Fn(lambda x: x.item()), meta(1), autocast="fp16")
    assert torch.is_autocast_enabled is enabled
    assert not torch.is_autocast_enabled("cuda")
    x = torch.ones(2, 2)
    assert (x @ x).dtype == torch.float32
    q = meta(1, 1, 8, 8, dtype=torch.bfloat16)
    assert F.scaled_dot_product_attention(q, q, q).shape == q.shape
    weight = nn.Parameter(meta(2))
    weight.grad = meta(2)
    with pytest.raises(RuntimeError, match="supported devices"):
        torch.optim.AdamW([weight], fused=True).step()


# --- values ------------------------------------------------------------------------------------
def test_a_model_may_look_at_what_follows_from_its_integer_inputs():
    def forward(x, mask):
        if mask.all():
            return x + 1
        return x[mask.nonzero()[:, 0]]

    whole = pm.trace(Fn(forward), (meta(4, 2), torch.ones(4, dtype=torch.bool)))
    assert targets(whole)[-1] == "add"
    half = pm.trace(Fn(forward), (meta(4, 2), torch.tensor([True, False, True, False])))
    assert half.tensor(half.outputs[0]).shape == (2, 2)
    assert "_local_scalar_dense" in targets(half)


def test_values_made_inside_are_followed_through_writes():
    def forward(x):
        rate = torch.linspace(0, 1, 5, device=x.device)
        rate[2] = 7.0
        return x * rate[2].item()

    program = pm.trace(Fn(forward), meta(4))
    assert program.nodes[-1].attributes["other"] == 7.0


def test_numbers_of_the_program_text_keep_their_values():
    def forward(x):
        picks = x.new_tensor([1, 0], dtype=torch.long)
        scale = torch.tensor([2.0, 3.0], device=x.device)
        y = x[[0, 2]] * x[:, [1, 0]][:2]
        y[[0]] = 0.0
        return y * scale[picks].sum().item()

    program = pm.trace(Fn(forward), meta(4, 2))
    assert program.nodes[-1].attributes["other"] == 5.0
    assert program.tensor(program.outputs[0]).shape == (2, 2)


def test_what_is_written_from_unknown_values_is_unknown():
    def forward(x):
        flag = torch.zeros(4, device=x.device)
        flag.copy_(x)
        return flag.sum().item()

    with pytest.raises(pm.PerfmodelError, match="_local_scalar_dense"):
        pm.trace(Fn(forward), meta(4))


def test_activations_are_taken_as_finite_and_it_says_so():
    def forward(x):
        return x.clamp(-1, 1) if torch.isinf(x).any() or not torch.isfinite(x).all() else x * 2

    program = pm.trace(Fn(forward), meta(4))
    assert targets(program)[-1] == "mul"
    assert "finite" in program.assumptions[0]


# --- other forms -------------------------------------------------------------------------------
def test_sparse_operands_keep_their_count_of_values():
    class Gcn(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x, adjacency):
            x = self.fc(torch.sparse.mm(adjacency, x))
            return torch.sparse.mm(adjacency, F.relu(x))

    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    adjacency = torch.sparse_coo_tensor(edges, torch.ones(4), (6, 6)).coalesce()
    for form in (adjacency, adjacency.to_sparse_csr()):
        how = pm.Training(loss=lambda y: y.square().mean())
        program = pm.trace(Gcn(), (torch.ones(6, 8), form), training=how)
        spmm = next(n for n in program.nodes if "sparse" in n.target)
        assert spmm.attributes["nonzeros"] == [4]
        assert program.tensor("input1").layout == "sparse"
        assert "mm" in targets(program, "backward")


def test_fft_and_complex_parameters():
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(3, 3, 4, 4, dtype=torch.complex64))

        def forward(self, x):
            full = torch.fft.rfft2(x)
            out = torch.zeros_like(full)
            out[:, :, :4, :4] = torch.einsum("bixy,ioxy->boxy", full[:, :, :4, :4], self.weight)
            return torch.fft.irfft2(out, s=x.shape[-2:])

    program = pm.trace(Spectral(), meta(2, 3, 16, 16), training=pm.Training(loss=torch.sum))
    names = targets(program)
    assert "_fft_r2c" in names
    assert "_fft_c2r" in names
    assert program.tensor("weight").dtype == "complex64"


def test_infinite_attributes_survive_the_file(tmp_path):
    program = pm.trace(Fn(lambda x: x.masked_fill(x > 0, -math.inf)), meta(4))
    assert program.nodes[-1].attributes["value"] == "-inf"
    save_program(program, tmp_path / "p.json.gz")
    assert load_program(tmp_path / "p.json.gz") == program


def test_inputs_may_be_nested_and_named():
    class Pair(nn.Module):
        def forward(self, pair, *, scale=None):
            return {"out": pair[0] + pair[1]["b"] * scale}

    program = pm.trace(Pair(), ([meta(2), {"b": meta(2)}],), {"scale": torch.ones(2)})
    assert program.inputs == ("input0.0", "input0.1", "scale")
    assert len(program.outputs) == 1


def test_absent_and_listed_tensors_are_told_apart():
    program = pm.trace(Fn(lambda x: F.layer_norm(x, (4,))), meta(2, 4))
    assert program.nodes[-1].attributes["absent"] == ["weight", "bias"]
    program = pm.trace(Fn(lambda x: torch.cat([x, x, x])), meta(2, 4))
    assert program.nodes[-1].attributes["lists"] == {"tensors": 3}
    assert len(program.nodes[-1].inputs) == 3
