"""ONNX operators under their aten names, one small graph each."""

import numpy as np
import pytest

from tests.workload.importers.onnx_cases import CASES, model_of

onnx = pytest.importorskip("onnx")

from perfmodel.workload.importers.onnx import load_onnx  # noqa: E402
from perfmodel.workload.importers.onnx.values import (  # noqa: E402
    channels_last,
    contiguous,
    view_strides,
)
from perfmodel.workload.lowering import lower  # noqa: E402
from perfmodel.workload.stack import load_stack  # noqa: E402

BATCH = 2


def program_of(case, tmp_path, batch=BATCH):
    path = tmp_path / "model.onnx"
    onnx.save(model_of(case), path)
    return load_onnx(path, batch_size=batch)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operator(case, tmp_path):
    program = program_of(case, tmp_path)
    targets = [node.target.removeprefix("aten.") for node in program.nodes]
    assert " ".join(targets) == " ".join(case.expected.split())
    lowered = lower(program, load_stack("torch-eager"))
    assert set(lowered.unknown) <= {"onnx.Hardmax"}


@pytest.mark.parametrize("case", [c for c in CASES if not c.domain], ids=lambda case: case.name)
def test_shapes_are_those_of_whole_graph_inference(case, tmp_path):
    """The package's inference over the whole file, with the batch written into it."""
    program = program_of(case, tmp_path)
    whole = onnx.shape_inference.infer_shapes(model_of(case, BATCH), data_prop=True)
    compared = 0
    for value, name in zip(whole.graph.output, program.outputs, strict=True):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            assert program.tensor(name).shape == tuple(d.dim_value for d in dims)
            compared += 1
    assert compared or case.op in {"DFT", "RandomNormalLike", "GroupNormalization"}


@pytest.mark.parametrize("seed", range(40))
def test_view_strides_are_numpys(seed):
    """A reshape is a view exactly where NumPy shares memory, with NumPy's strides."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 4], size=rng.integers(1, 5)))
    array = np.zeros(shape)
    array = array.transpose(rng.permutation(array.ndim))
    if rng.random() < 0.3:
        array = array[..., ::2]
    flat = int(array.size)
    new = []
    while flat > 1:
        factor = next(k for k in (2, 3, 5, 7) if flat % k == 0)
        new.append(factor)
        flat //= factor
    if len(new) > 1 and rng.random() < 0.5:
        new = [new[0] * new[1], *new[2:]]
    new = tuple(new)
    strides = tuple(step // 8 for step in array.strides)
    found = view_strides(array.shape, strides, new)
    shaped = array.reshape(new)
    assert (found is not None) == np.shares_memory(shaped, array)
    if found is not None:
        wanted = [s // 8 for n, s in zip(new, shaped.strides, strict=True) if n > 1]
        assert [s for n, s in zip(new, found, strict=True) if n > 1] == wanted


def test_strides_of_memory_formats():
    assert contiguous((2, 3, 4, 5)) == (60, 20, 5, 1)
    assert channels_last((2, 3, 4, 5)) == (60, 1, 15, 3)
