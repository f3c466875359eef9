"""Where a node of the file comes from: the module's path and the user's line."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx

_FRAME: Final = re.compile(r'File "([^"]+)", line (\d+)')


def module_of(node: onnx.NodeProto) -> str:
    """The module's path, as PyTorch's exporters leave it in metadata or in the node's name."""
    scopes = _metadata(node, "pkg.torch.onnx.name_scopes")
    if scopes:
        try:
            names = [str(name) for name in ast.literal_eval(scopes)]
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            names = []
        return names[-2] if len(names) >= 2 else ""
    if node.name.startswith("/"):
        parts = [part for part in node.name.split("/") if part][:-1]
        # "/layer1/layer1.0/conv1/Conv": a part that repeats the one before it replaces it
        kept: list[str] = []
        for part in parts:
            if kept and part.startswith(f"{kept[-1]}."):
                kept.pop()
            kept.append(part)
        return ".".join(kept)
    return ""


def source_of(node: onnx.NodeProto) -> str:
    """``"file.py:123"`` from the stack trace that PyTorch's exporter leaves, else empty."""
    frames = _FRAME.findall(_metadata(node, "pkg.torch.onnx.stack_trace"))
    if not frames:
        return ""
    path, line = frames[-1]
    return f"{path.rsplit('/', 1)[-1]}:{line}"


def _metadata(node: onnx.NodeProto, key: str) -> str:
    return next((one.value for one in node.metadata_props if one.key == key), "")
