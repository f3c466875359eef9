"""The study of launch-bound inference, and the ONNX files that it reads."""

import pytest

pytest.importorskip("onnx")

from perfmodel.workload.importers.load import load_graph
from perfmodel.workload.lowering import lower
from perfmodel.workload.stack import load_stack
from studies import study_trace_launch_bound as launch_bound


@pytest.mark.parametrize(
    ("name", "parameters", "gmac"),
    [("resnet50", 25_557_032, 4.089), ("vit_b_16", 86_567_656, 17.564)],
)
def test_models_have_the_published_counts(name, parameters, gmac):
    """Parameters and multiply-adds of torchvision's model cards (``_ops`` in GFLOPS)."""
    program = load_graph(launch_bound.MODELS / f"{name}.onnx", batch_size=1)
    assert program.parameters == parameters
    kernels = lower(program, load_stack("torch-eager")).kernels
    products = sum(k.flops for k in kernels if k.kind in {"gemm", "conv"}) / 2e9
    assert products == pytest.approx(gmac, rel=2e-3)


def test_files_are_small():
    files = list(launch_bound.MODELS.glob("*.onnx"))
    assert len(files) == 2
    assert all(path.stat().st_size < 100_000 for path in files)


def test_claims_hold_at_the_ends():
    launch_bound.check(launch_bound.study(models=("resnet50",), batches=(1, 256)))


@pytest.mark.slow
def test_study(tmp_path, capsys):
    launch_bound.main(["--out", str(tmp_path)])
    assert "the device decides from batch" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.svg"))) == 5
