"""Models beyond the usual ones: families of transformers, quantised layers, graphs, transforms.

Oracles: parameter counts of PyTorch, that every operator is known to the lowering, and arithmetic.
"""

import math

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import perfmodel as pm  # noqa: E402
from perfmodel.errors import WorkloadError  # noqa: E402
from perfmodel.workload.lowering import lower  # noqa: E402
from perfmodel.workload.stack import load_stack  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
T = transformers
META = torch.device("meta")
EAGER = load_stack("torch-eager")


def tokens(batch=2, length=16):
    return torch.randint(5, 64, (batch, length), device="cpu")


def image(side, *more):
    return torch.empty(*(more or (2,)), 3, side, side, device=META)


TEXT = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
GATED = {**TEXT, "num_key_value_heads": 2, "use_cache": False}
VISION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
SPEECH = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2),
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "vocab_size": 32,
}  # fmt: skip


def language(kind, config=None, **fields):
    config = getattr(T, config or f"{kind}Config")(**{**GATED, **fields})
    ids = tokens()
    return getattr(T, f"{kind}ForCausalLM")(config), (), {"input_ids": ids, "labels": ids}


MODELS = {
    "gemma3": lambda: language("Gemma3", "Gemma3TextConfig", head_dim=8, sliding_window=8),
    "deepseek_v3": lambda: language(
        "DeepseekV3", num_key_value_heads=4, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, num_experts_per_tok=2, n_group=2,
        moe_intermediate_size=16, n_shared_experts=1, first_k_dense_replace=1, topk_group=1,
    ),
    "gpt_oss": lambda: language(
        "GptOss", head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8
    ),
    "jamba": lambda: language(
        "Jamba", attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
        expert_layer_offset=1, num_experts=4, mamba_d_state=8, use_mamba_kernels=False,
    ),
    "falcon": lambda: language("Falcon"),
    "bigbird": lambda: (
        T.BigBirdModel(
            T.BigBirdConfig(**TEXT, max_position_embeddings=64, block_size=4, num_random_blocks=1)
        ),
        (),
        {"input_ids": tokens(length=64)},
    ),
    "dinov2": lambda: (T.Dinov2Model(T.Dinov2Config(**VISION)), (image(32),), {}),
    "beit": lambda: (
        T.BeitModel(
            T.BeitConfig(
                **VISION,
                intermediate_size=64,
                use_relative_position_bias=True,
                use_mask_token=False,
            )
        ),
        (image(32),),
        {},
    ),
    "videomae": lambda: (
        T.VideoMAEForVideoClassification(
            T.VideoMAEConfig(**VISION, intermediate_size=64, num_frames=4)
        ),
        (image(32, 2, 4),),
        {},
    ),
    "wav2vec2": lambda: (
        T.Wav2Vec2ForCTC(T.Wav2Vec2Config(**SPEECH, num_feat_extract_layers=2)),
        (torch.empty(2, 4000, device=META),),
        {},
    ),
    "transformer": lambda: (
        nn.Transformer(32, 4, 1, 1, 64, batch_first=True),
        (torch.empty(2, 16, 32), torch.empty(2, 8, 32)),
        {},
    ),
}  # fmt: skip


def loss(out):
    found = getattr(out, "loss", None)
    if found is not None:
        return found
    leaves = torch.utils._pytree.tree_leaves(out)
    return next(leaf for leaf in leaves if torch.is_tensor(leaf)).float().mean()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("train", [False, True])
def test_families(name, train):
    model, args, kwargs = MODELS[name]()
    given = pm.Training(loss=loss) if train else None
    program = pm.trace(model, args, kwargs, training=given)
    assert program.parameters == sum(p.numel() for p in model.parameters())
    lowered = lower(program, EAGER)
    assert not lowered.unknown
    assert {kernel.phase for kernel in lowered.kernels} >= ({"backward"} if train else {"forward"})


class Layer(nn.Module):
    def __init__(self, forward, **parts):
        super().__init__()
        self.step = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args):
        return self.step(self, *args)


@pytest.mark.parametrize("name", ["beit", "deepseek_v3"])
def test_exported_programs(name):
    """Tables that an export lifts out of the code, and its stand-in for grouped products."""
    model, args, kwargs = MODELS[name]()
    kwargs.pop("labels", None)
    program = pm.trace(model, args, kwargs, via="export")
    assert not lower(program, EAGER).unknown
    assert ("aten._grouped_mm" in {n.target for n in program.nodes}) == (name == "deepseek_v3")


def test_a_transform_and_its_inverse():
    def step(self, x):
        seen = torch.stft(x, 64, 16, window=self.window, return_complex=True)
        return torch.istft(seen, 64, 16, window=self.window)

    window = nn.Parameter(torch.hann_window(64), requires_grad=False)
    program = pm.trace(Layer(step, window=window), torch.empty(2, 1024))
    assert program.tensor(program.outputs[0]).shape == (2, 1024)
    assert any("checks" in text for text in program.assumptions)
    assert not lower(program, EAGER).unknown


def test_dropped_layers_are_kept_below_a_half():
    def step(self, x):
        return x if torch.rand([]) < 0.1 else self.linear(x)

    with META:  # numbers without a device are made there
        model = Layer(step, linear=nn.Linear(8, 8))
        program = pm.trace(model, torch.empty(2, 8))
    assert "aten.addmm" in {node.target for node in program.nodes}
    assert any("one half" in text for text in program.assumptions)


def test_rows_are_repeated_as_often_as_a_known_input_says():
    model = Layer(lambda self, x, counts: x.repeat_interleave(counts, 0))
    program = pm.trace(model, (torch.empty(3, 4), torch.tensor([1, 2, 3])))
    assert program.tensor(program.outputs[0]).shape == (6, 4)
    with pytest.raises(WorkloadError) as caught:
        pm.trace(Layer(lambda self, x: x.repeat_interleave(x[0].long(), 0)), torch.empty(4, 4))
    assert "output_size" in caught.value.repair


def test_packed_weights_are_read_packed():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.zeros(8, 8, 32, 4, dtype=torch.int32))
            self.register_buffer("scales", torch.zeros(8, 64, 2, dtype=torch.bfloat16))

        def forward(self, x):
            return torch._weight_int4pack_mm(x, self.weight, 32, self.scales)

    program = pm.trace(Packed(), torch.empty(4, 256, dtype=torch.bfloat16))
    assert program.tensor(program.outputs[0]).shape == (4, 64)
    lowered = lower(program, EAGER)
    assert lowered.unknown == {"aten._weight_int4pack_mm": 1}
    kernel = lowered.kernels[0]
    assert kernel.bytes_read == 8 * 8 * 32 * 4 * 4 + 8 * 64 * 2 * 2 + 4 * 256 * 2
    assert len(kernel.upper) == 2


def test_eight_bits_by_hand():
    def step(self, x):
        scale = x.abs().amax(1, keepdim=True) / 127
        rows = (x / scale).round().clamp(-128, 127).to(torch.int8)
        return torch._int_mm(rows, self.weight.t()).float() * scale

    model = Layer(step)
    model.register_buffer("weight", torch.zeros(64, 64, dtype=torch.int8))
    lowered = lower(pm.trace(model, torch.empty(32, 64)), EAGER)
    assert not lowered.unknown
    (product,) = (kernel for kernel in lowered.kernels if kernel.kind == "gemm")
    assert product.ops[0].dtype == "int8"
    assert product.flops == 2 * 32 * 64 * 64


@pytest.mark.parametrize(
    ("function", "cubes"),
    [(torch.linalg.cholesky, 1 / 3), (torch.linalg.inv, 2.0), (torch.linalg.eigvalsh, 9.0)],
)
def test_factorizations_are_bounded_by_their_arithmetic(function, cubes):
    program = pm.trace(Layer(lambda self, x: function(x)), torch.empty(4, 256, 256))
    lowered = lower(program, EAGER)
    assert sum(lowered.unknown.values()) == 1
    (kernel,) = (kernel for kernel in lowered.kernels if not kernel.known)
    assert kernel.flops == pytest.approx(cubes * 4 * 256**3, rel=0.1)
    assert sum(op.flops for op in kernel.upper) > kernel.flops
    assert len(kernel.upper) > 256


def test_triangular_systems_are_solved_by_panels():
    right = torch.empty(6, 96, 40)
    solve = Layer(lambda self, x: torch.linalg.solve_triangular(x, right, upper=False))
    lowered = lower(pm.trace(solve, torch.empty(6, 96, 96)), EAGER)
    assert not lowered.unknown
    copy, solved = (kernel for kernel in lowered.kernels if "triangular" in kernel.name)
    assert copy.bytes_written == right.numel() * 4
    # rows of the triangle: 96^2 / 2 products a column, and half of each panel's square
    assert solved.flops == pytest.approx(6 * 40 * (96**2 + 3 * 32**2))


def test_distances_between_rows():
    program = pm.trace(Layer(lambda self, x, y: torch.cdist(x, y)), (torch.empty(2, 16, 8),) * 2)
    lowered = lower(program, EAGER)
    assert not lowered.unknown
    work = [kernel.flops for kernel in lowered.kernels if "cdist" in kernel.name]
    assert work == [pytest.approx(3 * 8 * 2 * 16 * 16)]


def test_rare_functions_element_by_element():
    def step(self, x):
        y = torch.special.i1(x) + torch.special.zeta(x, x) + torch.hypot(x, x) + torch.i0(x)
        return F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2)

    lowered = lower(pm.trace(Layer(step), torch.empty(1, 2, 8, 8)), EAGER)
    assert not lowered.unknown


def test_detectors_say_what_can_be_traced():
    torchvision = pytest.importorskip("torchvision")
    build = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    with META:
        model = build(weights=None, weights_backbone=None)
    with pytest.raises(WorkloadError) as caught:
        pm.trace(model, ([torch.empty(3, 64, 64)],))
    assert "torchvision/" in caught.value.where
    assert "model.backbone" in caught.value.repair
    backbone = pm.trace(model.backbone, torch.empty(1, 3, 64, 64))
    assert not lower(backbone, EAGER).unknown


def test_sparse_gradients_name_the_optimizer_that_takes_them():
    model = Layer(lambda self, i: self.table(i), table=nn.EmbeddingBag(64, 8, sparse=True))
    ids = torch.randint(0, 64, (4, 3))
    with pytest.raises(WorkloadError) as caught:
        pm.trace(model, ids, training=pm.Training(loss=lambda out: out.sum()))
    assert 'optimizer="sgd"' in caught.value.repair
    given = pm.Training(optimizer="sgd", loss=lambda out: out.sum())
    program = pm.trace(model, ids, training=given)
    assert math.prod(program.tensor(program.outputs[0]).shape) == 1
