"""Look-ups, scatters, sorting and running sums."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from perfmodel.workload.importers.onnx.call import Call, same
from perfmodel.workload.importers.onnx.values import Spec, Value, contiguous, integers


def gather(call: Call) -> list[Value]:
    """``Gather``: a view for one known index, an embedding for rows of a table, else a copy."""
    table, index = call.x, call.input(1)
    axis = call.axis(table.rank)
    if index.array is not None and index.rank == 0:
        place = integers(index.array)[0]
        size = table.shape[axis]
        if not -size <= place < size:
            raise call.refuse(
                f"index {place} of an axis of {size}", "an index inside", "check the --dim sizes"
            )
        return [call.build.select(table, axis, place % size)]
    shape = (*table.shape[:axis], *index.shape, *table.shape[axis + 1 :])
    spec = Spec(shape, table.dtype)
    if axis == 0 and table.rank == 2 and table.constant:
        return [call.build.one("aten.embedding", [table, index], spec, {"padding_idx": -1})]
    if index.rank == 1:
        attributes = {"dim": axis}
        return [call.build.one("aten.index_select", [table, index], spec, attributes)]
    if index.rank == 0:
        attributes = {"dim": axis}
        narrow = Spec((*table.shape[:axis], 1, *table.shape[axis + 1 :]), table.dtype)
        row = call.build.reshape(index, (1,))
        made = call.build.one("aten.index_select", [table, row], narrow, attributes)
        strides = contiguous(shape)
        return [call.build.view("aten.squeeze", made, shape, strides, {"dim": [axis]})]
    return [call.build.one("aten.index", [table, index], spec, {"dims": [axis]})]


def gather_elements(call: Call) -> list[Value]:
    """``GatherElements``."""
    inputs = [call.x, call.input(1)]
    spec = same(call.x, shape=inputs[1].shape)
    return [call.build.one("aten.gather", inputs, spec, {"dim": call.axis(call.x.rank)})]


def gather_nd(call: Call) -> list[Value]:
    """``GatherND``."""
    return [call.build.one("aten.index", [call.x, call.input(1)], call.spec())]


def scatter_nd(call: Call) -> list[Value]:
    """``ScatterND``: a copy, then the entries put into it."""
    copy = call.build.clone(call.x)
    inputs = [copy, call.input(1), call.input(2)]
    how = call.attributes.get("reduction", "none")
    return _in_place(call, "aten.index_put_", inputs, {"accumulate": how == "add"})


def scatter_elements(call: Call) -> list[Value]:
    """``ScatterElements`` (and ``Scatter``)."""
    copy = call.build.clone(call.x)
    inputs = [copy, call.input(1), call.input(2)]
    axis = call.axis(call.x.rank)
    how = call.attributes.get("reduction", "none")
    if how in {"none", "add"}:
        target = "aten.scatter_" if how == "none" else "aten.scatter_add_"
        return _in_place(call, target, inputs, {"dim": axis})
    reduce = {"mul": "prod", "max": "amax", "min": "amin"}.get(how, how)
    return _in_place(call, "aten.scatter_reduce_", inputs, {"dim": axis, "reduce": reduce})


def _in_place(
    call: Call, target: str, inputs: list[Value], attributes: dict[str, object]
) -> list[Value]:
    base = inputs[0]
    return [call.build.over(target, inputs, base, attributes)]


def one_hot(call: Call) -> list[Value]:
    """``OneHot``: zeros, then ones scattered."""
    spec = call.spec()
    zeros = call.build.one("aten.full", [], spec, {"size": list(spec.shape), "fill_value": 0})
    axis = call.axis(len(spec.shape), -1)
    return _in_place(call, "aten.scatter_", [zeros, call.x], {"dim": axis, "value": 1})


def top_k(call: Call) -> list[Value]:
    """``TopK``: values and positions."""
    k = (call.ints("k", 1) or [1])[0]
    axis = call.axis(call.x.rank, -1)
    if k > call.x.shape[axis]:
        raise call.refuse(
            f"the {k} largest of {call.x.shape[axis]}", "at most as many as there are",
            "check the --dim sizes",
        )  # fmt: skip
    shape = (*call.x.shape[:axis], k, *call.x.shape[axis + 1 :])
    attributes = {
        "k": k,
        "dim": axis,
        "largest": bool(call.attributes.get("largest", 1)),
        "sorted": bool(call.attributes.get("sorted", 1)),
    }
    specs = [same(call.x, shape=shape), Spec(shape, "int64")]
    return call.build.emit("aten.topk", [call.x], specs, attributes)


def running(call: Call) -> list[Value]:
    """``CumSum`` and ``CumProd``; backwards between two flips."""
    x = call.x
    axis = call.normal(call.ints("axis", 1) or [0], x.rank)[0]
    backward = bool(call.attributes.get("reverse"))
    if backward:
        x = call.build.one("aten.flip", [x], same(x), {"dims": [axis]})
    name = "cumsum" if call.op == "CumSum" else "cumprod"
    x = call.build.one(f"aten.{name}", [x], same(x), {"dim": axis})
    if backward:
        x = call.build.one("aten.flip", [x], same(x), {"dims": [axis]})
    return [x]


def sample(call: Call) -> list[Value]:
    """``GridSample``."""
    sides = call.x.rank - 2
    attributes = {
        "interpolation_mode": call.attributes.get("mode", "bilinear"),
        "padding_mode": call.attributes.get("padding_mode", "zeros"),
        "align_corners": bool(call.attributes.get("align_corners", 0)),
    }
    inputs = [call.x, call.input(1)]
    return [call.build.one(f"aten.grid_sampler_{sides}d", inputs, call.spec(), attributes)]


def grid(call: Call) -> list[Value]:
    """``AffineGrid``."""
    attributes = {"align_corners": bool(call.attributes.get("align_corners", 0))}
    return [call.build.one("aten.affine_grid_generator", [call.x], call.spec(), attributes)]


def fold(call: Call) -> list[Value]:
    """``Col2Im``: overlapping blocks are summed into an image."""
    names = {"strides": "stride", "dilations": "dilation", "pads": "padding"}
    attributes = {name: call.attributes[key] for key, name in names.items()
                  if call.attributes.get(key)}  # fmt: skip
    return [call.build.one("aten.col2im", [call.x], call.spec(), attributes)]


def data_dependent(call: Call) -> list[Value]:
    """What it returns has a size that only the data tell."""
    raise call.refuse(
        "an output whose size depends on the data",
        "operators whose output shapes follow from their input shapes",
        "cut the graph before it (onnx.utils.extract_model) and price the rest",
    )


RULES: Final = MappingProxyType(
    {
        "Gather": gather,
        "GatherElements": gather_elements,
        "GatherND": gather_nd,
        "ScatterND": scatter_nd,
        "ScatterElements": scatter_elements,
        "Scatter": scatter_elements,
        "OneHot": one_hot,
        "TopK": top_k,
        "CumSum": running,
        "CumProd": running,
        "GridSample": sample,
        "AffineGrid": grid,
        "Col2Im": fold,
        "NonZero": data_dependent,
        "NonMaxSuppression": data_dependent,
        "Compress": data_dependent,
        "Unique": data_dependent,
    }
)
