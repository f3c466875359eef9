"""ONNX imports run by PyTorch: numbers of the reference evaluator, shapes and views of aten."""

import math
import warnings

import numpy as np
import pytest

from tests.workload.importers.onnx_cases import CASES, model_of

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from onnx import numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from perfmodel.workload.importers.onnx import load_onnx  # noqa: E402

pytestmark = pytest.mark.torch
BATCH = 2
FORMATS = {
    "fp32": torch.float32, "fp16": torch.float16, "int64": torch.int64, "bool": torch.bool,
    "int32": torch.int32, "uint8": torch.uint8, "complex64": torch.complex64,
}  # fmt: skip


def argument(value, kind):
    if isinstance(value, str):
        if value in FORMATS:
            return FORMATS[value]
        if value in {"inf", "-inf", "nan"}:
            return float(value)
        if value == "contiguous":
            return torch.contiguous_format
    if "List[int]" in kind and isinstance(value, int):
        return [value]
    return value


def call(node, inputs):
    """Run a node by the overload of its operator that its tensors and attributes fit."""
    if node.target == "aten._scaled_dot_product_efficient_attention":  # no CPU kernel
        made = torch.nn.functional.scaled_dot_product_attention(*inputs)
        return made.transpose(1, 2).contiguous().transpose(1, 2)
    packet = getattr(torch.ops.aten, node.target.removeprefix("aten."))
    failures = []
    for name in packet.overloads():
        overload = getattr(packet, name)
        if name.endswith("out") or "names" in name or "Dimname" in str(overload._schema):
            continue
        rest = list(inputs)
        arguments = {}
        schema = overload._schema.arguments
        for place, one in enumerate(schema):
            kind = str(one.type)
            if one.name in node.attributes:
                arguments[one.name] = argument(node.attributes[one.name], kind)
            elif kind == "List[Tensor]":
                arguments[one.name], rest = rest, []
            elif kind == "Tensor" or (kind == "Optional[Tensor]" and rest):
                later = sum(str(a.type) == "Tensor" for a in schema[place + 1 :])
                if kind == "Optional[Tensor]" and len(rest) <= later:
                    arguments[one.name] = None
                    continue
                if not rest:
                    break
                arguments[one.name] = rest.pop(0)
            elif kind == "Optional[Tensor]":
                arguments[one.name] = None
        if rest or not set(node.attributes) <= {one.name for one in schema}:
            continue
        try:
            return overload(**arguments)
        except (RuntimeError, TypeError, IndexError) as error:
            failures.append(f"{name}: {error}")
    raise AssertionError(f"{node.target}({dict(node.attributes)}) fits no overload: {failures}")


def feeds_of(model):
    rng = np.random.default_rng(3)
    feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT64:
            feeds[value.name] = rng.integers(0, 5, shape)
        else:
            feeds[value.name] = rng.normal(size=shape).astype(np.float32)
    return feeds


def run(program, feeds, weights):
    """Every node by PyTorch, its results held against what the importer said of them."""
    held = {name: torch.tensor(array) for name, array in {**weights, **feeds}.items()}
    for node in program.nodes:
        inputs = [held[name] for name in node.inputs]
        made = call(node, inputs)
        outputs = made if isinstance(made, tuple | list) else [made]
        for name, tensor in zip(node.outputs, outputs, strict=False):
            said = program.tensor(name)
            if 0 not in said.shape:
                assert tuple(tensor.shape) == said.shape, node
                assert tensor.dtype == FORMATS[said.dtype], node
            held[name] = tensor
            mine = tensor.untyped_storage().data_ptr()
            for source in node.inputs:
                shared = held[source].untyped_storage().data_ptr() == mine
                assert shared == (program.tensor(source).storage == said.storage), node
            if len(said.shape) > 1 and min(said.shape) > 1:
                assert (said.layout == "contiguous") == tensor.is_contiguous(), node
    return held


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.numeric], ids=lambda case: case.name
)
def test_runs_as_the_reference_does(case, tmp_path):
    fixed = model_of(case, BATCH)
    path = tmp_path / "model.onnx"
    onnx.save(model_of(case), path)
    program = load_onnx(path, batch_size=BATCH)
    feeds = feeds_of(fixed)
    weights = {one.name: numpy_helper.to_array(one).copy() for one in fixed.graph.initializer}
    expected = ReferenceEvaluator(fixed).run(None, feeds)
    with torch.no_grad():
        held = run(program, feeds, weights)
    for want, name in zip(expected, program.outputs, strict=True):
        got = held[name].numpy()
        assert got.shape == np.asarray(want).shape
        np.testing.assert_allclose(
            got.astype(np.float64), np.asarray(want, dtype=np.float64), rtol=2e-3, atol=2e-3
        )
    assert math.prod(program.tensor(program.outputs[0]).shape) == held[program.outputs[0]].numel()


class Block(torch.nn.Module):
    """Convolutions, norms, a residual, attention spelt out, a head."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 32, 4, 4)
        self.norm = torch.nn.LayerNorm(32)
        self.qkv = torch.nn.Linear(32, 96)
        self.proj = torch.nn.Linear(32, 32)
        self.head = torch.nn.Linear(32, 10)

    def forward(self, image):
        x = torch.relu(self.conv(image)).flatten(2).transpose(1, 2)
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, tokens, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = torch.softmax(q @ k.transpose(-2, -1), -1)
        x = x + self.proj((scores @ v).transpose(1, 2).reshape(batch, tokens, width))
        return self.head(torch.nn.functional.gelu(x).mean(1))


def test_an_export_becomes_the_kernels_of_its_module(tmp_path):
    """The same kernels, one by one, as recording the module gives."""
    pytest.importorskip("onnxscript")
    from perfmodel.workload.importers.record import trace
    from perfmodel.workload.lowering import lower
    from perfmodel.workload.stack import load_stack

    module, image = Block().eval(), torch.randn(4, 3, 32, 32)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    path = tmp_path / "block.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recorded = trace(module, (image,))
        torch.onnx.export(
            module, (image,), path, dynamo=True, dynamic_shapes=({0: "batch"},),
            opset_version=20, verbose=False, optimize=True,
        )  # fmt: skip
    read = load_onnx(path, batch_size=4)
    assert read.parameters == recorded.parameters
    stack = load_stack("torch-eager")
    kinds = ("gemm", "conv", "norm", "softmax", "reduction", "pointwise")
    one, other = (
        [(k.kind, k.flops) for k in lower(p, stack).kernels if k.kind in kinds]
        for p in (recorded, read)
    )
    assert sorted(one) == sorted(other)
