"""Why a module could not be recorded: the reason, the user's line, and the nearest way round."""

from __future__ import annotations

import linecache
import re
from types import MappingProxyType
from typing import Final

from perfmodel.errors import PerfmodelError, WorkloadError
from perfmodel.workload.importers.frames import failing_line
from perfmodel.workload.importers.values import Unknown

_WAYS: Final = {
    "aten.nonzero": "use torch.where(mask, a, b) with fixed shapes, or give the mask as an input "
    "on the CPU so that its value is known",
    "aten.index": "use torch.where(mask, a, b) with fixed shapes instead of a boolean mask as an "
    "index, or give the mask as an input on the CPU so that its value is known",
    "aten.masked_select": "multiply by the mask, or use torch.where, which keeps the shape",
    "aten._unique2": "pass the unique values as an input",
    "aten.unique_dim": "pass the unique values as an input",
    "aten.repeat_interleave": "give output_size=, or repeat by a number",
    "aten.bincount": "use torch.histc or a one-hot sum, whose shape is fixed",
    "aten._local_scalar_dense": "keep the number on the device (torch.where), make it an argument "
    "of the module, or give the input it comes from on the CPU so that its value is known",
    "aten.is_nonzero": "replace the branch by torch.where, or make the condition an argument",
    "aten.equal": "make the comparison an argument of the module",
}
_SCRIPTED: Final = "pass the modules that were scripted instead of scripted ones"
_REPAIRS: Final = MappingProxyType(
    {
        "FlexAttention": 'call scaled_dot_product_attention (attn_implementation="sdpa" in '
        "transformers) for the recording",
        "storage_device": "pass padded tensors and a mask instead of nested ones",
        "non-leaf Tensor": _SCRIPTED,
        "TorchScript interpreter": _SCRIPTED,
        "Unsupported dtype": "CUDA has no kernel in that format either: cast to fp32",
        "ow precision dtypes": "CUDA has no kernel in that format either: cast to fp32",
        "support sparse gradients": 'train it with Training(optimizer="sgd"), or sparse=False',
        "custom C++ ops": "install the torchvision that was built for this PyTorch",
        "no fake impl": "tell the shape of its result with torch.library.register_fake; it is "
        "then priced between two estimates, by name",
        "no autograd formula": "give the operator a derivative with "
        "torch.library.register_autograd, or trace it without training=",
        "Torch not compiled with CUDA": "take the device from the inputs (x.device) instead of "
        "naming one: the recording runs on none",
        "must be Tensor, not numpy.ndarray": "pass tensors: torch.from_numpy(array)",
        "No CUDA GPUs are available": "take the device from the inputs (x.device)",
    }
)
"""What to do about well-known messages of PyTorch."""
_LOOKS: Final = MappingProxyType(
    {
        r"\.tolist\(": "keep the list a tensor on the device, or make it an argument of the module",
        r"\.numpy\(|\bnp\.": "call the function of torch that does the same as NumPy's",
    }
)
"""What a line that looks at data says, and what to write there instead."""
_MIXTURE: Final = (
    "; for a mixture of experts that supports it, "
    'model.set_experts_implementation("grouped_mm") has shapes that no data decides'
)


_DETECTION: Final = (
    "; of a detector of torchvision, trace what comes before the boxes: "
    "trace(model.backbone, images)"
)


def explained(fault: Exception, name: str, failed: tuple[str, str, str] | None) -> PerfmodelError:
    """The five-part error of an exception that a recording raised.

    Parameters
    ----------
    failed : (module path, user's line, operator), optional
        What was running; the line is that of the forward pass.
    """
    if isinstance(fault, PerfmodelError):
        return fault
    module, source, operator = failed or ("", "", "")
    line = failing_line(fault.__traceback__) or source
    where = f"trace {name}: " + (line or "forward")
    if module:
        where += f" in {module}"
    text = str(fault).strip().split("\n")[0]
    if isinstance(fault, Unknown) or _needs_data(fault):
        operator = operator or "a look at the data"
        way = _WAYS.get(operator) or _instead(line)
        return WorkloadError(
            where,
            f"<{operator}: the step depends on the values of a tensor computed on the device>",
            "a step whose operators and shapes follow from the shapes of the inputs",
            nearest=None,
            repair=way + _beside(module, line),
        )
    if isinstance(fault, TypeError) and "forward()" in text:
        return WorkloadError(
            where,
            f"<{text}>",
            "the arguments of forward",
            repair="pass them in example_inputs or kwargs",
        )
    if isinstance(fault, NotImplementedError):
        return WorkloadError(
            where,
            f"<{operator or text}: no shape rule on the meta device>",
            "operators with a meta kernel",
            repair="register one with torch.library.register_fake, or replace the operator",
        )
    return WorkloadError(
        where,
        f"<{type(fault).__name__}: {text}>" if text else f"<{type(fault).__name__}>",
        "a forward that runs on these inputs",
        repair=_repair(text),
    )


def way_round(fault: Exception, line: str) -> str:
    """What helps a module that could not be exported besides recording it; empty if unknown.

    Parameters
    ----------
    line : str
        The user's, ``file:number``.
    """
    text = str(fault)
    if "data-dependent" in text or _needs_data(fault):
        return _WAYS["aten.is_nonzero"]
    if ".numpy()" in text or ".tolist()" in text:
        return _instead(line)
    return next((way for part, way in _REPAIRS.items() if part in text), "")


def _instead(line: str) -> str:
    """The way round that the text of the user's line suggests."""
    path, _, number = line.rpartition(":")
    text = linecache.getline(path, int(number)) if number.isdigit() else ""
    for part, way in _LOOKS.items():
        if re.search(part, text):
            return way
    return "keep shapes and branches independent of tensor values"


def _beside(module: str, line: str) -> str:
    """What else helps models of well-known libraries."""
    if "torchvision/ops/boxes" in line or "torchvision/models/detection" in line:
        return _DETECTION
    return _MIXTURE if "expert" in module or "moe" in module else ""


def _needs_data(fault: Exception) -> bool:
    text = str(fault)
    return any(
        part in text
        for part in (
            "Cannot copy out of meta tensor",
            "cannot be called on meta tensors",
            "register_meta function for torch.nonzero",
            "data-dependent",
            "DataDependent",
            "can't convert meta",
            "on a meta tensor",
            "with unallocated storage",
            "Cannot access data pointer of Tensor",
        )
    )


def _repair(text: str) -> str:
    for part, way in _REPAIRS.items():
        if part in text:
            return way
    if "same device" in text or ("device" in text and "meta" in text and "cpu" in text):
        return "make the tensor on the device of the inputs (device=x.device)"
    if any(word in text for word in ("shape", "size", " dim", "dtype", "scalar type", " type ")):
        return "make the shapes and formats of the example inputs those that forward expects"
    return "run the module once on these inputs; what fails there fails here"
