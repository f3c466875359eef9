"""Small ONNX graphs, one for each operator or pattern, and a helper that writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """``op`` applied to ``inputs`` (shapes; the batch is the letter N) and ``weights``."""

    name: str
    op: str
    inputs: tuple[Any, ...]
    expected: str
    attributes: dict[str, Any] = field(default_factory=dict)
    weights: dict[int, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 21
    domain: str = ""
    dtype: str = "float32"
    numeric: bool = True


def ints(*values):
    return np.array(values, dtype=np.int64)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def positive(*shape):
    return np.abs(normal(*shape)) + 0.5


X4 = (("N", 4, 8, 6),)
X3 = (("N", 5, 8),)
X2 = (("N", 8),)
C = Case
CASES = [
    *(
        C(op, op, X3, target)
        for op, target in (
            ("Relu", "relu"), ("Sigmoid", "sigmoid"), ("Tanh", "tanh"), ("Erf", "erf"),
            ("Exp", "exp"), ("Abs", "abs"), ("Neg", "neg"), ("Floor", "floor"), ("Sin", "sin"),
            ("HardSwish", "hardswish"), ("HardSigmoid", "mul add clamp"), ("Softplus", "softplus"),
            ("Mish", "mish"), ("LeakyRelu", "leaky_relu"), ("Elu", "elu"), ("Celu", "celu"),
            ("Selu", "elu"), ("Gelu", "gelu"), ("Softsign", "abs add div"),
            ("Reciprocal", "reciprocal"), ("IsNaN", "isnan"),
        )
    ),
    C("torch-hard-sigmoid", "HardSigmoid", X3, "hardsigmoid", {"alpha": 1 / 6}),
    C("global-average", "GlobalAveragePool", X4, "mean"),
    C("global-max", "GlobalMaxPool", X4, "amax"),
    C("relu6", "Clip", X3, "hardtanh", weights={1: np.float32(0), 2: np.float32(6)}),
    C("clamp", "Clip", X3, "clamp", weights={1: np.float32(-1), 2: np.float32(2)}),
    C("clamp-min", "Clip", X3, "clamp", weights={1: np.float32(-1)}),
    C("add", "Add", (*X3, ("N", 5, 8)), "add"),
    C("add-broadcast", "Add", (*X3, (8,)), "add"),
    C("sub-number", "Sub", X3, "sub", weights={1: np.float32(2)}),
    C("number-sub", "Sub", (None, *X3), "rsub", weights={0: np.float32(2)}),
    C("number-div", "Div", (None, *X3), "reciprocal mul", weights={0: np.float32(2)}),
    C("one-div", "Div", (None, *X3), "reciprocal", weights={0: np.float32(1)}),
    C("square", "Pow", X3, "pow", weights={1: np.float32(2)}),
    C("number-less", "Less", (None, *X3), "gt", weights={0: np.float32(0.3)}),
    C("where", "Where", (None, *X3, ("N", 5, 8)), "where",
      weights={0: np.array([[True] * 4 + [False] * 4])}),
    C("max-of-three", "Max", (*X3, (5, 8), (8,)), "maximum maximum"),
    C("mean-of-two", "Mean", (*X3, (5, 8)), "add div"),
    C("mod", "Mod", (*X3, (8,)), "fmod", {"fmod": 1}),
    C("prelu", "PRelu", X3, "_prelu_kernel", weights={1: normal(1, 8)}),
    C("cast", "Cast", X3, "_to_copy", {"to": 10}),
    C("cast-same", "Cast", X3, "", {"to": 1}),
    C("dropout", "Dropout", X3, ""),
    C("identity", "Identity", X3, ""),
    C("reshape", "Reshape", X3, "view", weights={1: ints(0, -1)}),
    C("flatten", "Flatten", X4, "view"),
    C("squeeze", "Squeeze", (("N", 1, 8),), "squeeze", weights={1: ints(1)}),
    C("squeeze-11", "Squeeze", (("N", 1, 8),), "squeeze", {"axes": [1]}, opset=11),
    C("unsqueeze", "Unsqueeze", X3, "unsqueeze", weights={1: ints(1)}),
    C("unsqueeze-11", "Unsqueeze", X3, "unsqueeze", {"axes": [-1]}, opset=11),
    C("transpose", "Transpose", X3, "permute", {"perm": [0, 2, 1]}),
    C("expand", "Expand", (("N", 1, 8),), "expand", weights={1: ints(1, 5, 8)}),
    C("concat", "Concat", (*X3, ("N", 2, 8)), "cat", {"axis": 1}, outputs=1),
    C("split", "Split", X3, "split_with_sizes", {"axis": 2}, {1: ints(3, 5)}, outputs=2),
    C("split-11", "Split", X3, "split_with_sizes", {"axis": 2, "split": [3, 5]}, outputs=2,
      opset=11),
    C("split-even", "Split", X3, "split_with_sizes", {"axis": 2, "num_outputs": 2}, outputs=2),
    C("slice", "Slice", X3, "slice slice",
      weights={1: ints(1, 0), 2: ints(4, -1), 3: ints(1, 2), 4: ints(2, 1)}),
    C("slice-back", "Slice", X3, "flip slice",
      weights={1: ints(6), 2: ints(0), 3: ints(2), 4: ints(-2)}),
    C("slice-all-back", "Slice", X3, "flip",
      weights={1: ints(-1), 2: ints(-(2**62)), 3: ints(2), 4: ints(-1)}),
    C("tile", "Tile", X3, "repeat", weights={1: ints(1, 2, 1)}),
    C("pad", "Pad", X4, "constant_pad_nd", weights={1: ints(0, 0, 1, 2, 0, 0, 3, 4)}),
    C("pad-axes", "Pad", X4, "constant_pad_nd", weights={1: ints(1, 3), 3: ints(2)}),
    C("pad-reflect", "Pad", X4, "reflection_pad2d", {"mode": "reflect"},
      {1: ints(0, 0, 1, 2, 0, 0, 3, 4)}),
    C("pad-edge", "Pad", X3, "replication_pad1d", {"mode": "edge"},
      {1: ints(0, 0, 1, 0, 0, 2)}),
    C("depth-to-space", "DepthToSpace", X4, "view permute clone _unsafe_view", {"blocksize": 2}),
    C("depth-to-space-crd", "DepthToSpace", X4, "view permute clone _unsafe_view",
      {"blocksize": 2, "mode": "CRD"}),
    C("space-to-depth", "SpaceToDepth", X4, "view permute clone _unsafe_view", {"blocksize": 2}),
    C("trilu", "Trilu", (("N", 5, 5),), "tril", {"upper": 0}),
    C("resize", "Resize", X4, "upsample_nearest2d",
      {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
       "nearest_mode": "floor"}, {2: np.array([1, 1, 2, 2], np.float32)}),
    C("resize-linear", "Resize", X4, "upsample_bilinear2d",
      {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
      {3: ints(2, 4, 16, 12)}),
    C("gather-rows", "Gather", (("N", 5, 8),), "index_select", {"axis": 2},
      {1: ints(0, 3, 3)}),
    C("gather-one", "Gather", X3, "select", {"axis": 1}, {1: np.int64(-1)}),
    C("embedding", "Gather", (None, ("N", 3)), "embedding", {}, {0: normal(11, 4)},
      dtype="int64"),
    C("gather-elements", "GatherElements", X3, "gather", {"axis": 1},
      {1: np.zeros((2, 3, 8), np.int64)}),
    C("gather-nd", "GatherND", X3, "index", {}, {1: ints(0, 1).reshape(2, 1)}, numeric=False),
    C("scatter-nd", "ScatterND", X3, "clone index_put_", {},
      {1: ints(0, 1).reshape(2, 1), 2: normal(2, 5, 8)}, numeric=False),
    C("scatter-elements", "ScatterElements", X3, "clone scatter_", {"axis": 1},
      {1: np.zeros((2, 1, 8), np.int64), 2: normal(2, 1, 8)}),
    C("scatter-add", "ScatterElements", X3, "clone scatter_add_",
      {"axis": 1, "reduction": "add"},
      {1: np.zeros((2, 1, 8), np.int64), 2: normal(2, 1, 8)}),
    C("one-hot", "OneHot", (("N", 3),), "full scatter_", {"axis": -1},
      {1: np.int64(7), 2: np.array([0, 1], np.float32)}, dtype="int64", numeric=False),
    C("top-k", "TopK", X3, "topk", {"axis": -1}, {1: ints(3)}, outputs=2),
    C("cumsum", "CumSum", X3, "cumsum", {}, {1: np.int64(1)}),
    C("cumsum-back", "CumSum", X3, "flip cumsum flip", {"reverse": 1}, {1: np.int64(1)}),
    C("col2im", "Col2Im", (("N", 9, 4),), "col2im", {},
      {1: np.array([4, 4]), 2: np.array([3, 3])}, opset=18, numeric=False),
    C("grid-sample", "GridSample", (("N", 4, 8, 6), ("N", 5, 5, 2)), "grid_sampler_2d",
      numeric=False),
    *(
        C(op, op, X3, target, {"keepdims": 0}, {1: ints(1)})
        for op, target in (
            ("ReduceSum", "sum"), ("ReduceMean", "mean"), ("ReduceMax", "amax"),
            ("ReduceMin", "amin"), ("ReduceL1", "linalg_vector_norm"),
            ("ReduceL2", "linalg_vector_norm"), ("ReduceLogSumExp", "logsumexp"),
            ("ReduceSumSquare", "pow sum"),
        )
    ),
    C("reduce-mean-17", "ReduceMean", X3, "mean", {"axes": [-1]}, opset=17),
    C("reduce-all", "ReduceSum", X3, "sum", {"keepdims": 1}),
    C("arg-max", "ArgMax", X3, "argmax", {"axis": 1, "keepdims": 0}),
    C("matmul-2d", "MatMul", X2, "mm", weights={1: normal(8, 3)}),
    C("matmul-3d-2d", "MatMul", X3, "view mm view", weights={1: normal(8, 3)}),
    C("matmul-batched", "MatMul", (("N", 2, 5, 8), ("N", 2, 8, 7)), "view view bmm view"),
    C("matmul-broadcast", "MatMul", (("N", 2, 5, 8), (8, 7)), "view mm view"),
    C("matmul-expand", "MatMul", (("N", 2, 5, 8), (2, 8, 7)),
      "view expand clone _unsafe_view bmm view"),
    C("matmul-vector", "MatMul", X2, "mv", weights={1: normal(8)}),
    C("gemm", "Gemm", X2, "t addmm", {"transB": 1}, {1: normal(3, 8), 2: normal(3)}),
    C("gemm-scaled", "Gemm", X2, "addmm", {"alpha": 0.5, "beta": 2.0},
      {1: normal(8, 3), 2: normal(3)}),
    C("gemm-no-bias", "Gemm", X2, "mm", {}, {1: normal(8, 3)}),
    C("einsum-heads", "Einsum", (("N", 5, 2, 4), ("N", 6, 2, 4)),
      "permute permute clone _unsafe_view clone _unsafe_view bmm view",
      {"equation": "bqhd,bkhd->bhqk"}),
    C("einsum-outer", "Einsum", (("N", 5), ("N", 6)),
      "view view bmm", {"equation": "bi,bj->bij"}),
    C("einsum-dots", "Einsum", (("N", 5, 8), (8, 3)), "view view bmm view",
      {"equation": "...k,kn->...n"}),
    C("einsum-trace", "Einsum", X3, "sum permute", {"equation": "bij->ji"}),
    C("einsum-pointwise", "Einsum", (("N", 5), ("N", 5)), "mul", {"equation": "bi,bi->bi"}),
    C("conv", "Conv", (("N", 4, 9, 9),), "convolution",
      {"pads": [1, 1, 1, 1], "strides": [2, 2]}, {1: normal(6, 4, 3, 3), 2: normal(6)}),
    C("conv-group", "Conv", (("N", 4, 9, 9),), "convolution", {"group": 4},
      {1: normal(4, 1, 3, 3)}),
    C("conv-dilated", "Conv", (("N", 4, 9, 9),), "convolution",
      {"dilations": [2, 1], "kernel_shape": [3, 3]}, {1: normal(6, 4, 3, 3)}),
    C("conv-uneven", "Conv", (("N", 4, 9, 9),), "constant_pad_nd convolution",
      {"pads": [0, 0, 1, 1]}, {1: normal(6, 4, 3, 3)}),
    C("conv-same", "Conv", (("N", 4, 9, 9),), "convolution",
      {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {1: normal(6, 4, 3, 3)}),
    C("conv-same-even", "Conv", (("N", 4, 8, 8),), "constant_pad_nd convolution",
      {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, {1: normal(6, 4, 3, 3)}, numeric=False),
    C("conv-1d", "Conv", (("N", 4, 9),), "convolution", {"pads": [1, 1]}, {1: normal(6, 4, 3)}),
    C("conv-3d", "Conv", (("N", 2, 5, 5, 5),), "convolution", {}, {1: normal(3, 2, 3, 3, 3)}),
    C("conv-transpose", "ConvTranspose", (("N", 4, 5, 5),), "convolution",
      {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
      {1: normal(4, 3, 3, 3), 2: normal(3)}),
    C("max-pool", "MaxPool", (("N", 4, 9, 9),), "max_pool2d_with_indices",
      {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    C("max-pool-uneven", "MaxPool", (("N", 4, 9, 9),),
      "constant_pad_nd max_pool2d_with_indices",
      {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    C("max-pool-ceil", "MaxPool", (("N", 4, 9, 9),), "max_pool2d_with_indices",
      {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    C("max-pool-1d", "MaxPool", (("N", 4, 9),), "unsqueeze max_pool2d_with_indices squeeze squeeze",
      {"kernel_shape": [3], "strides": [2]}),
    C("average-pool", "AveragePool", (("N", 4, 9, 9),), "avg_pool2d",
      {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1],
       "count_include_pad": 1}),
    C("average-pool-3d", "AveragePool", (("N", 2, 6, 6, 6),), "avg_pool3d",
      {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
    C("lrn", "LRN", (("N", 2, 8, 6),),
      "mul unsqueeze constant_pad_nd avg_pool3d view mul add pow div",
      {"size": 3, "alpha": 0.1}),
    C("batch-norm", "BatchNormalization", X4, "native_batch_norm", {},
      {1: positive(4), 2: normal(4), 3: normal(4), 4: positive(4)}),
    C("layer-norm", "LayerNormalization", X3, "native_layer_norm", {},
      {1: normal(8), 2: normal(8)}),
    C("layer-norm-2d", "LayerNormalization", X3, "native_layer_norm", {"axis": 1},
      {1: normal(5, 8), 2: normal(5, 8)}),
    C("rms-norm", "RMSNormalization", X3, "_fused_rms_norm", {}, {1: normal(8)}, opset=23),
    C("group-norm", "GroupNormalization", X4, "native_group_norm", {"num_groups": 2},
      {1: normal(4), 2: normal(4)}),
    C("instance-norm", "InstanceNormalization", X4,
      "repeat repeat view native_batch_norm view", {}, {1: normal(4), 2: normal(4)}),
    C("softmax", "Softmax", X3, "_softmax", {"axis": 1}),
    C("log-softmax", "LogSoftmax", X3, "_log_softmax", {"axis": -1}),
    C("softmax-11", "Softmax", X3, "view _softmax view", {"axis": 2}, opset=11),
    C("attention-4d", "Attention", (("N", 2, 5, 8), ("N", 2, 6, 8), ("N", 2, 6, 8)),
      "_scaled_dot_product_efficient_attention", {}, opset=23),
    C("attention-half", "Attention", (("N", 2, 5, 8), ("N", 2, 6, 8), ("N", 2, 6, 8)),
      "_scaled_dot_product_flash_attention", {"is_causal": 1}, opset=23, dtype="float16",
      numeric=False),
    C("attention-3d", "Attention", (("N", 5, 16), ("N", 6, 16), ("N", 6, 16)),
      "view permute view permute view permute _scaled_dot_product_efficient_attention"
      " permute view",
      {"q_num_heads": 2, "kv_num_heads": 2}, opset=23),
    C("lstm", "LSTM", ((3, "N", 4),),
      "zeros zeros _cudnn_rnn view permute",
      {"hidden_size": 5}, {1: normal(1, 20, 4), 2: normal(1, 20, 5), 3: normal(1, 40)},
      numeric=False),
    C("gru", "GRU", ((2, "N", 4),),
      "zeros _cudnn_rnn view permute",
      {"hidden_size": 5}, {1: normal(1, 15, 4), 2: normal(1, 15, 5)}, numeric=False),
    C("rnn-both-ways", "RNN", ((2, "N", 4),),
      "zeros _cudnn_rnn view permute",
      {"hidden_size": 5, "direction": "bidirectional"},
      {1: normal(2, 5, 4), 2: normal(2, 5, 5)}, numeric=False),
    C("quantise", "QuantizeLinear", X3, "quantize_per_tensor", {},
      {1: np.float32(0.1), 2: np.uint8(128)}, numeric=False),
    C("dynamic-quantise", "DynamicQuantizeLinear", X3, "aminmax _to_copy quantize_per_tensor",
      outputs=3, numeric=False),
    C("dft", "DFT", (("N", 8, 1),), "view _fft_r2c view_as_real", {"onesided": 1},
      {2: np.int64(1)}, opset=20),
    C("random", "RandomNormalLike", X3, "randn_like", numeric=False),
    C("unknown", "Hardmax", X3, "onnx.Hardmax", numeric=False),
    C("fast-gelu", "FastGelu", X3, "add gelu", {}, {1: normal(8)}, domain="com.microsoft",
      numeric=False),
    C("skip-norm", "SkipLayerNormalization", (*X3, ("N", 5, 8)), "add native_layer_norm", {},
      {2: normal(8), 3: normal(8)}, domain="com.microsoft", numeric=False),
    C("fused-attention", "Attention", (("N", 5, 8),),
      "view addmm view split_with_sizes view permute view permute view permute"
      " _scaled_dot_product_efficient_attention permute view",
      {"num_heads": 2}, {1: normal(8, 24), 2: normal(24)}, domain="com.microsoft",
      numeric=False),
    C("grouped-query", "GroupQueryAttention", (("N", 5, 16), ("N", 5, 8), ("N", 5, 8)),
      "view permute view permute view permute _scaled_dot_product_efficient_attention"
      " permute view",
      {"num_heads": 4, "kv_num_heads": 2}, domain="com.microsoft", numeric=False),
    C("rotary", "RotaryEmbedding", (("N", 2, 5, 8),), "split_with_sizes neg cat mul mul add",
      domain="com.microsoft", numeric=False),
]  # fmt: skip


def model_of(case: Case, batch: int | str = "N"):
    """The ONNX model of a case; ``batch`` stands for N."""
    from onnx import TensorProto, helper, numpy_helper

    kind = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64,
            "float16": TensorProto.FLOAT16}[case.dtype]  # fmt: skip
    count = max([len(case.inputs), *(k + 1 for k in case.weights)])
    names, inputs, weights = [], [], []
    for k in range(count):
        name = f"x{k}"
        if k in case.weights:
            weights.append(numpy_helper.from_array(np.asarray(case.weights[k]), name))
        elif k < len(case.inputs) and case.inputs[k] is not None:
            shape = [batch if size == "N" else size for size in case.inputs[k]]
            inputs.append(helper.make_tensor_value_info(name, kind, shape))
        else:
            name = ""
        names.append(name)
    outputs = [f"y{k}" for k in range(case.outputs)]
    node = helper.make_node(
        case.op, names, outputs, name="it", domain=case.domain, **case.attributes
    )
    graph = helper.make_graph(
        [node],
        case.name,
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
        weights,
    )
    imports = [helper.make_opsetid("", case.opset)]
    if case.domain:
        imports.append(helper.make_opsetid(case.domain, 1))
    return helper.make_model(graph, opset_imports=imports)
