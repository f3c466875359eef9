"""Recurrent layers, losses, picked rows: what the meta device takes apart or refuses."""

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import perfmodel as pm  # noqa: E402
from perfmodel.errors import WorkloadError  # noqa: E402
from perfmodel.workload.importers.training import Training  # noqa: E402
from perfmodel.workload.lowering import lower  # noqa: E402
from perfmodel.workload.stack import load_stack  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
EAGER, COMPILED = load_stack("torch-eager"), load_stack("torch-compile")
STEPS, BATCH, WIDTH, HIDDEN, LAYERS = 12, 8, 16, 32, 3


class Fn(nn.Module):
    """A function over parts as a module."""

    def __init__(self, function, *parts):
        super().__init__()
        self.parts, self.function = nn.ModuleList(parts), function

    def forward(self, *args):
        return self.function(*self.parts, *args)


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


def targets(program, phase="forward"):
    return [n.target.removeprefix("aten.") for n in program.nodes if n.phase == phase]


def products(kernels):
    return sum(kernel.flops for kernel in kernels if kernel.kind in ("gemm", "recurrent"))


def mean(output, *_):
    return output.mean()


@pytest.mark.parametrize(
    ("kind", "gates", "ways"), [(nn.LSTM, 4, 1), (nn.GRU, 3, 2), (nn.RNN, 1, 1)]
)
def test_a_layer_is_one_call_whose_products_are_those_of_its_steps(kind, gates, ways):
    layer = kind(WIDTH, HIDDEN, LAYERS, bidirectional=ways == 2)
    program = pm.trace(Fn(lambda part, x: part(x)[0], layer), meta(STEPS, BATCH, WIDTH))
    assert targets(program).count("_cudnn_rnn") == 1
    assert not {"mm", "addmm", "sigmoid", "tanh"} & set(targets(program))
    result = program.tensor(program.outputs[0])
    assert result.shape == (STEPS, BATCH, ways * HIDDEN)
    lowered = lower(program, EAGER)
    assert lowered.unknown == {}
    widths = [WIDTH, *[ways * HIDDEN] * (LAYERS - 1)]
    expected = sum(2 * STEPS * BATCH * gates * HIDDEN * (width + HIDDEN) * ways for width in widths)
    # in unidirectional stacks a turn holds a whole number of cells
    assert products(lowered.kernels) == pytest.approx(expected, rel=0.12)
    assert products(lower(program, COMPILED).kernels) == products(lowered.kernels)


@pytest.mark.parametrize("projection", [0, 16])
def test_a_longer_sequence_takes_more_steps(projection):
    layer = nn.LSTM(WIDTH, HIDDEN, proj_size=projection)
    short, long = (
        lower(pm.trace(Fn(lambda part, x: part(x)[0], layer), meta(n, BATCH, WIDTH)), EAGER).kernels
        for n in (10, 20)
    )
    assert products(long) == pytest.approx(2 * products(short))
    # only a projection is taken apart into kernels for every step
    assert len(long) - len(short) >= (2 * 10 if projection else 0)


def test_training_a_layer_keeps_its_gates_and_runs_cudnns_backward():
    program = pm.trace(
        Fn(lambda part, x: part(x)[0], nn.LSTM(WIDTH, HIDDEN, batch_first=True)),
        meta(BATCH, STEPS, WIDTH),
        training=Training(loss=mean),
    )
    assert targets(program, "backward").count("_cudnn_rnn_backward") == 1
    (node,) = [n for n in program.nodes if n.target == "aten._cudnn_rnn"]
    reserve = program.tensor(node.outputs[3])
    assert program.storages[reserve.storage] >= 4 * STEPS * BATCH * 4 * HIDDEN
    lowered = lower(program, EAGER)
    assert lowered.unknown == {}
    forward, backward = (
        products(k for k in lowered.kernels if k.phase == phase)
        for phase in ("forward", "backward")
    )
    assert backward == pytest.approx(2 * forward, rel=0.02)


def test_autocast_runs_layers_in_half():
    program = pm.trace(
        Fn(lambda part, x: part(x)[0], nn.LSTM(WIDTH, HIDDEN)), meta(STEPS, BATCH, WIDTH),
        training=Training(loss=lambda y: y.float().mean()), autocast="bf16",
    )  # fmt: skip
    (node,) = [n for n in program.nodes if n.target == "aten._cudnn_rnn"]
    assert {program.tensor(name).dtype for name in node.inputs} == {"fp16"}


@pytest.mark.parametrize(("cell", "fused"), [(nn.LSTMCell, "lstm_cell"), (nn.GRUCell, "gru_cell")])
def test_cells_run_a_fused_kernel_for_their_gates(cell, fused):
    def run(part, x):
        out = part(x)
        return out[0] if isinstance(out, tuple) else out

    program = pm.trace(
        Fn(run, cell(WIDTH, HIDDEN)), meta(BATCH, WIDTH), training=Training(loss=mean)
    )
    assert targets(program).count(f"_thnn_fused_{fused}") == 1
    assert targets(program).count("mm") == 2
    assert any(f"_thnn_fused_{fused}_backward" in name for name in targets(program, "backward"))
    assert lower(program, EAGER).unknown == {}


def test_ctc_loss():
    def loss(part, x, labels):
        scores = part(x).log_softmax(-1)
        counts = torch.full((2,), 20), torch.full((2,), 5)
        return F.ctc_loss(scores, labels, *counts, zero_infinity=True)

    program = pm.trace(
        Fn(loss, nn.Linear(8, 10)), (meta(20, 2, 8), torch.ones(2, 5, dtype=torch.long)),
        training=Training(loss=lambda y: y),
    )  # fmt: skip
    assert "_ctc_loss" in targets(program)
    assert "_ctc_loss_backward" in targets(program, "backward")


def test_known_masks_pick_from_unknown_values():
    mask = torch.tensor([True, False, True, True])
    program = pm.trace(
        Fn(lambda part, x, m: part(x)[m], nn.Linear(8, 4)), (meta(4, 8), mask),
        training=Training(loss=mean),
    )  # fmt: skip
    (node,) = [n for n in program.nodes if n.target == "aten.index"]
    assert program.tensor(node.outputs[0]).shape == (3, 4)
    program = pm.trace(Fn(lambda x, m: x.masked_select(m)), (meta(4, 4), mask))
    assert program.tensor(program.outputs[0]).shape == (12,)


def test_an_error_of_the_backward_pass_names_the_line_of_the_forward_pass():
    with pytest.raises(WorkloadError) as caught:
        pm.trace(
            Fn(lambda part, x: part(x)[part(x) > 0], nn.Linear(8, 4)),
            meta(4, 8),
            training=Training(loss=mean),
        )
    assert "test_recurrent.py:" in str(caught.value)
    assert "torch.where" in str(caught.value)


def test_operators_whose_kernels_call_others_are_opened():
    program = pm.trace(Fn(lambda part, x: part(x, x), nn.Bilinear(8, 8, 4)), meta(6, 8))
    assert "_trilinear" not in targets(program)
    assert lower(program, EAGER).unknown == {}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.rrelu(F.hardshrink(x)),
        lambda x: F.multi_margin_loss(x, torch.zeros(4, dtype=torch.long, device=x.device)),
        lambda x: F.pad(x[None], (2, 2), mode="reflect"),
        lambda x: torch._weight_norm(x, x[:, :1]),
    ],
)
def test_rare_operators_are_priced(function):
    program = pm.trace(
        Fn(lambda part, x: function(part(x)), nn.Linear(8, 8)), meta(4, 8),
        training=Training(loss=mean),
    )  # fmt: skip
    assert lower(program, EAGER).unknown == {}
    assert lower(program, COMPILED).unknown == {}
