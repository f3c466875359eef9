"""Branches and loops: taken and unrolled where the host can tell how they go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perfmodel.errors import WorkloadError
from perfmodel.workload.importers.onnx.sequences import join
from perfmodel.workload.importers.onnx.values import Value

MOST_TRIPS: Final = 100_000

if TYPE_CHECKING:
    import onnx

    from perfmodel.workload.importers.onnx.walk import Env, Walk


def run_if(walk: Walk, node: onnx.NodeProto, attributes: Mapping[str, Any], env: Env) -> None:
    """Run the branch that a constant condition chooses."""
    chosen = _known(env.get(node.input[0]))
    if chosen is None:
        raise _data_dependent(
            node,
            "a condition that is known only when the model runs",
            "export the branch that you want to price, with the condition fixed",
        )
    graph = attributes["then_branch" if chosen else "else_branch"]
    inner: Env = dict(env)
    walk.initializers(graph, inner)
    walk.graph(graph, inner, f"{walk.build.node_name}/")
    for name, made in zip(node.output, graph.output, strict=False):
        env[name] = inner[made.name]


def run_loop(walk: Walk, node: onnx.NodeProto, attributes: Mapping[str, Any], env: Env) -> None:
    """Run the body as often as a constant trip count and its condition say."""
    limit = _trips(node, env)
    graph = attributes["body"]
    going = _known(env.get(node.input[1])) if len(node.input) > 1 and node.input[1] else True
    if going is None:
        raise _data_dependent(
            node,
            "a condition that is known only when the model runs",
            "export the body as a model of its own and multiply by the trips that you expect",
        )
    carried: list[Any] = [env[name] if name else None for name in node.input[2:]]
    scanned: list[list[Value]] = [[] for _ in graph.output[1 + len(carried) :]]
    name, trip = walk.build.node_name, 0
    while going and (limit is None or trip < limit):
        _check_trips(node, trip)
        inner: Env = dict(env)
        walk.initializers(graph, inner)
        walk.build.at(f"{name}/{trip}", "", "")
        inner[graph.input[0].name] = walk.build.constant(np.asarray(trip, np.int64))
        inner[graph.input[1].name] = walk.build.constant(np.asarray(True))
        for place, value in zip(graph.input[2:], carried, strict=False):
            inner[place.name] = value
        walk.graph(graph, inner, f"{name}/{trip}/")
        results = [inner[one.name] for one in graph.output]
        going = _known(results[0])
        if going is None:
            raise _data_dependent(
                node,
                "a condition that is known only when the model runs",
                "export the body as a model of its own and multiply by the trips that you expect",
            )
        carried = results[1 : 1 + len(carried)]
        for stack, value in zip(scanned, results[1 + len(carried) :], strict=True):
            stack.append(_tensor(node, value))
        trip += 1
    walk.build.at(name, "", "")
    stacked = [join(items, 0, True, walk.build) for items in scanned]
    for output, value in zip(node.output, [*carried, *stacked], strict=False):
        if output:
            env[output] = value


def run_scan(walk: Walk, node: onnx.NodeProto, attributes: Mapping[str, Any], env: Env) -> None:
    """Run the body once for each entry of the scanned axis."""
    graph = attributes["body"]
    count = int(attributes["num_scan_inputs"])
    states: list[Any] = [env[name] for name in node.input[: len(node.input) - count]]
    scanned = [_tensor(node, env[name]) for name in node.input[len(node.input) - count :]]
    axes = [int(axis) for axis in attributes.get("scan_input_axes", [0] * count)]
    backward = [bool(one) for one in attributes.get("scan_input_directions", [0] * count)]
    places = [axis % max(one.rank, 1) for axis, one in zip(axes, scanned, strict=True)]
    trips = scanned[0].shape[places[0]]
    made: list[list[Value]] = [[] for _ in graph.output[len(states) :]]
    name = walk.build.node_name
    for trip in range(trips):
        _check_trips(node, trip)
        inner: Env = dict(env)
        walk.initializers(graph, inner)
        walk.build.at(f"{name}/{trip}", "", "")
        for place, value in zip(graph.input, states, strict=False):
            inner[place.name] = value
        for place, value, axis, reverse in zip(
            graph.input[len(states) :], scanned, places, backward, strict=True
        ):
            at = trips - 1 - trip if reverse else trip
            inner[place.name] = walk.build.select(value, axis, at)
        walk.graph(graph, inner, f"{name}/{trip}/")
        results = [inner[one.name] for one in graph.output]
        states = results[: len(states)]
        for stack, result in zip(made, results[len(states) :], strict=True):
            stack.append(_tensor(node, result))
    walk.build.at(name, "", "")
    out_axes = attributes.get("scan_output_axes", [0] * len(made))
    stacked = [
        join(items, int(axis), True, walk.build) for items, axis in zip(made, out_axes, strict=True)
    ]
    for output, result in zip(node.output, [*states, *stacked], strict=False):
        if output:
            env[output] = result


def _trips(node: onnx.NodeProto, env: Env) -> int | None:
    if not node.input or not node.input[0]:
        return None
    value = env.get(node.input[0])
    number = value.scalar if isinstance(value, Value) else None
    if number is None:
        raise _data_dependent(
            node,
            "a trip count that is known only when the model runs",
            "export the body as a model of its own and multiply by the trips that you expect",
        )
    return int(number)


def _check_trips(node: onnx.NodeProto, trip: int) -> None:
    if trip >= MOST_TRIPS:
        raise _data_dependent(
            node,
            f"more than {MOST_TRIPS} trips",
            "export the body as a model of its own and multiply by the trips that you expect",
        )


def _known(value: Any) -> bool | None:
    number = value.scalar if isinstance(value, Value) else None
    return None if number is None else bool(number)


def _tensor(node: onnx.NodeProto, value: Any) -> Value:
    if isinstance(value, Value):
        return value
    raise _data_dependent(node, "a sequence", "export the loop with tensors only")


def _data_dependent(node: onnx.NodeProto, got: str, repair: str) -> WorkloadError:
    return WorkloadError(
        f"node {node.name or node.output[0]!r} ({node.op_type})",
        f"<{got}>",
        "branches and loops that follow from shapes and constants",
        repair=repair,
    )
