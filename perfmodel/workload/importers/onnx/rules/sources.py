"""What makes tensors from nothing, transforms of signals, and losses."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from perfmodel.workload.importers.onnx.call import Call, same
from perfmodel.workload.importers.onnx.values import DTYPES, Spec, Value, contiguous

_RANDOM: Final = MappingProxyType(
    {"RandomNormal": "randn", "RandomNormalLike": "randn_like", "RandomUniform": "rand",
     "RandomUniformLike": "rand_like", "Bernoulli": "bernoulli", "Multinomial": "multinomial"}
)  # fmt: skip


def fill(call: Call) -> list[Value]:
    """``ConstantOfShape`` and ``EyeLike``."""
    spec = call.spec()
    name = "eye" if call.op == "EyeLike" else "full"
    return [call.build.one(f"aten.{name}", [], spec, {"size": list(spec.shape)})]


def count(call: Call) -> list[Value]:
    """``Range``."""
    spec = call.spec()
    return [call.build.one("aten.arange", [], spec, {"end": spec.shape[0]})]


def random(call: Call) -> list[Value]:
    """Random numbers."""
    shape = tuple(call.attributes.get("shape", ())) or (call.x.shape if call.inputs else ())
    code = int(call.attributes.get("dtype", 0))
    spec = call.specs[0] or Spec(shape, DTYPES.get(code) or call.x.dtype)
    return [call.build.one(f"aten.{_RANDOM[call.op]}", call.inputs[:1], spec)]


def fourier(call: Call) -> list[Value]:
    """``DFT``: the last axis of size 2 holds real and imaginary parts."""
    x, build, out = call.x, call.build, call.spec()
    axes = call.ints("axis", 2)
    axis = call.normal(axes if axes is not None else [1 if call.opset < 20 else -2], x.rank)[0]
    inverse = bool(call.attributes.get("inverse"))
    attributes: dict[str, object] = {"dim": [axis], "normalization": 2 if inverse else 0}
    shape = out.shape[:-1]
    if x.shape[-1] == 1:
        plain = build.reshape(x, x.shape[:-1])
        attributes["onesided"] = bool(call.attributes.get("onesided"))
        made = build.one("aten._fft_r2c", [plain], Spec(shape, "complex64"), attributes)
    else:
        strides = contiguous(x.shape[:-1])
        plain = build.view("aten.view_as_complex", x, x.shape[:-1], strides, dtype="complex64")
        attributes["forward"] = not inverse
        made = build.one("aten._fft_c2c", [plain], Spec(shape, "complex64"), attributes)
    strides = contiguous(out.shape)
    return [build.view("aten.view_as_real", made, out.shape, strides, dtype=out.dtype)]


def short_time_fourier(call: Call) -> list[Value]:
    """``STFT``: overlapping frames, a window, a transform of each frame."""
    x, build, out = call.x, call.build, call.spec()
    window, step = call.get(2), (call.ints("frame_step", 1) or [1])[0]
    length = (call.ints("frame_length", 3) or [0])[0] or (window.numel if window else 0)
    if x.rank == 3:
        x = build.reshape(x, x.shape[:2])
    frames = (out.shape[0], out.shape[1], length)
    attributes = {"size": list(frames), "stride": [x.shape[1], step, 1]}
    framed = build.view("aten.as_strided", x, frames, (x.shape[1], step, 1), attributes)
    if window is not None:
        framed = build.one("aten.mul", [framed, window], same(framed))
    onesided = bool(call.attributes.get("onesided", 1))
    target = "aten._fft_r2c" if x.dtype != "complex64" else "aten._fft_c2c"
    how = {"dim": [2], "normalization": 0, "onesided": onesided}
    made = build.one(target, [framed], Spec(out.shape[:-1], "complex64"), how)
    strides = contiguous(out.shape)
    return [build.view("aten.view_as_real", made, out.shape, strides, dtype=out.dtype)]


def loss(call: Call) -> list[Value]:
    """``SoftmaxCrossEntropyLoss`` and ``NegativeLogLikelihoodLoss``."""
    x, build = call.x, call.build
    logits = x
    if call.op == "SoftmaxCrossEntropyLoss":
        attributes = {"dim": 1, "half_to_float": False}
        logits = build.one("aten._log_softmax", [x], same(x), attributes)
    how = {"none": 0, "mean": 1, "sum": 2}[call.attributes.get("reduction", "mean")]
    target = "aten.nll_loss_forward" if x.rank == 2 else "aten.nll_loss2d_forward"
    specs = [call.spec(), Spec((), x.dtype)]
    inputs = [logits, call.input(1), call.get(2)]
    made = build.emit(target, inputs, specs, {"reduction": how})
    return [made[0], logits]


RULES: Final = MappingProxyType(
    {
        "ConstantOfShape": fill,
        "EyeLike": fill,
        "Range": count,
        **dict.fromkeys(_RANDOM, random),
        "DFT": fourier,
        "STFT": short_time_fourier,
        "SoftmaxCrossEntropyLoss": loss,
        "NegativeLogLikelihoodLoss": loss,
    }
)
