"""``perfmodel conv``: convolution algorithms, networks, pruning, and grouped schedules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perfmodel.cli.output import Json, emit, table
from perfmodel.errors import UsageError, WorkloadError

if TYPE_CHECKING:
    from perfmodel.workload.ops.conv import Conv2d

On = Annotated[str, typer.Option("--on", help="Accelerator: a name or a TOML path.")]
Network = Annotated[str, typer.Argument(help="A network, e.g. resnet50.")]
Batch = Annotated[int, typer.Option("--batch-size", help="Images.")]
Dtype = Annotated[str, typer.Option(help="Number format.")]
Layout = Annotated[str, typer.Option(help="nhwc or nchw.")]
ImageSize = Annotated[int | None, typer.Option("--image-size", help="Side of the image.")]
Kernel = Annotated[int, typer.Option(help="Side of the filter.")]
Channels = Annotated[tuple[int, int], typer.Option(help="Input and output channels.")]
Cache = Annotated[str, typer.Option(help="device, none, infinite: which buffers stay on the chip.")]

conv = typer.Typer(
    no_args_is_help=True,
    help="Convolution algorithms compared, networks, pruning, grouped-convolution schedules.",
)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.add_typer(conv, name="conv")


@conv.command("layer")
def layer(
    on: On,
    channels: Channels = (64, 64),
    side: Annotated[int, typer.Option(help="Height and width.")] = 56,
    kernel: Kernel = 3,
    stride: Annotated[int, typer.Option(help="Steps of the filter.")] = 1,
    padding: Annotated[int | None, typer.Option(help="Half the kernel by default.")] = None,
    groups: Annotated[int, typer.Option(help="Groups of channels.")] = 1,
    batch_size: Batch = 32,
    direction: Annotated[str, typer.Option("--pass", help="fwd, dgrad or wgrad.")] = "fwd",
    dtype: Dtype = "fp16",
    layout: Layout = "nhwc",
    cache: Cache = "device",
    json: Json = False,
) -> None:
    """Every algorithm for one layer: time, FLOPs, bytes, workspace, intensity."""
    from perfmodel.cost.conv_algorithms import ALGORITHMS, obstacle
    from perfmodel.cost.conv_compare import compare
    from perfmodel.hardware import load_accelerator

    op = _layer(batch_size, channels, side, kernel, stride, padding, groups, layout, dtype)
    op = replace(op, direction=direction)
    costs = compare(op, load_accelerator(on), cache=_cache(cache))
    refused = {name: obstacle(name, op) for name in ALGORITHMS if obstacle(name, op)}
    if json:
        emit(
            {
                "layer": op.to_dict(),
                "algorithms": [one.to_dict() for one in costs],
                "refused": {name: f"needs {reason}" for name, reason in refused.items()},
            }
        )
        return
    table(
        ["algorithm", "time", "GFLOP", "MB moved", "MB workspace", "FLOP/B"],
        [
            [
                one.name,
                f"{one.seconds * 1e6:.1f} us",
                f"{one.flops / 1e9:.3f}",
                f"{one.traffic / 1e6:.2f}",
                f"{one.workspace / 1e6:.2f}",
                f"{one.intensity:.1f}",
            ]
            for one in costs
        ],
    )
    for name, reason in refused.items():
        typer.echo(f"{name}: needs {reason}")


@conv.command("net")
def net(
    network: Network,
    on: On,
    batch_size: Batch = 32,
    image_size: ImageSize = None,
    dtype: Dtype = "fp16",
    layout: Layout = "nhwc",
    mode: Annotated[str, typer.Option(help="graph, eager or compile.")] = "graph",
    train: Annotated[bool, typer.Option("--train", help="A training step.")] = False,
    optimizer: Annotated[
        str | None, typer.Option(help="sgd, adamw or rmsprop; sgd by default.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes, where NAME is a node.")] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option("--gpus-per-node", help="Devices used in a node.")
    ] = None,
    json: Json = False,
) -> None:
    """One inference, or one data-parallel training step, of a network."""
    from perfmodel.hardware import load_accelerator, load_cluster
    from perfmodel.study.convnets import infer_convnet, train_convnet

    given = {"--nodes": nodes, "--gpus-per-node": gpus_per_node, "--optimizer": optimizer}
    for option, value in given.items():
        if value is not None and not train:
            raise UsageError(
                f"perfmodel conv net: {option}",
                value,
                "nothing without --train: inference runs on one device",
                repair=f"add --train, or leave {option} out",
            )
    optimizer = optimizer or "sgd"
    if train and (nodes is not None or gpus_per_node is not None):
        cluster = load_cluster(on, nodes=nodes, gpus_per_node=gpus_per_node)
        step = train_convnet(
            network, cluster, batch_size, dtype, image_size=image_size, layout=layout, mode=mode,
            optimizer=optimizer,
        )  # fmt: skip
    elif train:
        step = train_convnet(
            network, load_accelerator(on), batch_size, dtype, image_size=image_size,
            layout=layout, mode=mode, optimizer=optimizer,
        )  # fmt: skip
    else:
        step = infer_convnet(
            network, load_accelerator(on), batch_size, image_size=image_size, dtype=dtype,
            layout=layout, mode=mode,
        )  # fmt: skip
    if json:
        emit(step.to_dict())
    else:
        typer.echo(
            f"{network}: {step.step_seconds * 1e3:.3f} ms, {step.images_per_second:,.0f} images/s, "
            f"{step.memory.total / 2**30:.2f} GiB"
        )
        rows = [[name, f"{seconds * 1e3:.3f} ms"] for name, seconds in step.modules]
        rows += [
            ["host launches", f"{step.host_seconds * 1e3:.3f} ms"],
            ["exposed all-reduce", f"{step.exposed_comm_seconds * 1e3:.3f} ms"],
        ]
        table(["part", "time"], rows)
    if not step.fits:
        raise typer.Exit(3)


@conv.command("choose")
def choose(
    network: Network,
    on: On,
    batch_size: Batch = 32,
    image_size: ImageSize = None,
    dtype: Dtype = "fp16",
    workspace: Annotated[
        str | None, typer.Option(help="Workspace cap, e.g. '256 MiB'; unlimited by default.")
    ] = None,
    input_layout: Annotated[str, typer.Option(help="nhwc or nchw.")] = "nchw",
    json: Json = False,
) -> None:
    """The best algorithm and layout of every layer, exactly, with layout transforms."""
    from perfmodel.hardware import load_accelerator
    from perfmodel.optimize.conv_choice import choose as best
    from perfmodel.units import parse
    from perfmodel.workload.convnet import Setting, convnet

    cap = float("inf") if workspace is None else parse(workspace, "bytes", where="--workspace")
    result = best(
        convnet(network, image_size), load_accelerator(on), Setting(batch_size, dtype),
        workspace_cap=cap, input_layout=input_layout,
    )  # fmt: skip
    if json:
        emit(result.to_dict())
        return
    table(
        ["layer", "algorithm", "layout", "pieces", "time"],
        [
            [name, one.algorithm, one.layout, str(one.pieces), f"{one.seconds * 1e6:.1f} us"]
            for name, one in result.options
        ],
    )
    typer.echo(
        f"convolutions {result.seconds * 1e3:.3f} ms (gap {result.gap:.2%}), greedy "
        f"{result.greedy_seconds * 1e3:.3f} ms, direct everywhere "
        f"{result.direct_seconds * 1e3:.3f} ms; {len(result.transforms)} layout transforms"
    )


@conv.command("prune")
def prune(
    on: On,
    channels: Channels = (256, 256),
    side: Annotated[int, typer.Option(help="Height and width.")] = 28,
    kernel: Kernel = 3,
    batch_size: Batch = 32,
    dtype: Dtype = "fp16",
    json: Json = False,
) -> None:
    """What pruning, 2:4 sparsity, separable layers and quantisation really save."""
    from perfmodel.cost.price import price
    from perfmodel.cost.pruning import (
        crossover_density,
        quantised_seconds,
        realised,
        structured_seconds,
    )
    from perfmodel.errors import SpecError
    from perfmodel.hardware import load_accelerator
    from perfmodel.workload.pruning import prune_inputs, prune_outputs, separable

    accelerator = load_accelerator(on)
    op = _layer(batch_size, channels, side, kernel, 1, None, 1, "nhwc", dtype)
    dense = float(price(op, accelerator).seconds)
    rows: list[dict[str, Any]] = []
    for share in (0.125, 0.25, 0.5, 0.75):
        for what, after in (
            ("output channels", prune_outputs(op, round(share * channels[1]))[0]),
            ("input channels", prune_inputs(op, round(share * channels[0]))),
        ):
            found = realised(op, after, accelerator)
            rows.append({"change": f"{share:.1%} of {what}", "flops": found.flops_ratio,
                         "time": found.time_ratio})  # fmt: skip
    pair = separable(op)
    rows.append(
        {
            "change": "depth-wise separable",
            "flops": sum(int(one.flops) for one in pair) / int(op.flops),
            "time": sum(float(price(one, accelerator).seconds) for one in pair) / dense,
        }
    )
    try:
        rows.append({"change": "2:4 sparsity", "flops": 0.5,
                     "time": structured_seconds(op, accelerator) / dense})  # fmt: skip
    except SpecError:
        rows.append({"change": "2:4 sparsity: not on this chip", "flops": 0.5, "time": None})
    for bits, name, seconds in quantised_seconds(op, accelerator):
        ratio = None if seconds is None else seconds / dense
        rows.append({"change": f"{bits} bits ({name})", "flops": 1.0, "time": ratio})
    density = crossover_density(op, accelerator)
    if json:
        emit({"layer": op.to_dict(), "latency_us": dense * 1e6, "changes": rows,
              "spmm_crossover_density": density})  # fmt: skip
        return
    typer.echo(f"dense: {dense * 1e6:.1f} us")
    table(
        ["change", "FLOPs left", "time left"],
        [
            [row["change"], f"{row['flops']:.1%}",
             "no such format" if row["time"] is None else f"{row['time']:.1%}"]
            for row in rows
        ],
    )  # fmt: skip
    below = f"faster below a density of {density:.2%}" if density else "never faster"
    typer.echo(f"unstructured: a sparse product is {below}")


@conv.command("accuracy")
def accuracy(
    file: Annotated[
        Path, typer.Argument(help="Published times, as validate/published/convnets.csv")
    ],
    source: Annotated[list[str] | None, typer.Option(help="Only these sources.")] = None,
    json: Json = False,
) -> None:
    """Predicted against published times of whole networks; the host is fitted on half the rows."""
    from perfmodel.study.convnets_published import score_published, summary

    scored = score_published(file, sources=source)
    records = summary(scored)
    if json:
        emit({"summary": records,
              "rows": [{**one.row, "predicted_s": one.predicted, "fitted": one.fitted}
                       for one in scored]})  # fmt: skip
        return
    table(
        ["source", "task", "chip", "rows", "MAPE", "median", "bias", "within 15%", "host bound"],
        [
            [
                one["source"], one["task"], one["chip"], str(one["rows"]), f"{one['mape']:.1%}",
                f"{one['median_error']:.1%}", f"{one['bias']:+.1%}",
                f"{one['within_15_percent']:.0%}", f"{one['host_bound']:.0%}",
            ]
            for one in records
        ],
    )  # fmt: skip


@conv.command("schedule")
def schedule(
    groups: Annotated[Path, typer.Argument(help="A grouped convolution as JSON.")],
    on: On,
    time_limit: Annotated[float, typer.Option(help="Seconds for the placement.")] = 20.0,
    waves: Annotated[bool, typer.Option(help="Also plan waves of streams.")] = True,
    picture: Annotated[
        Path | None, typer.Option(help="Draw tiles on slots over time: an SVG or PNG file.")
    ] = None,
    json: Json = False,
) -> None:
    """Which groups run together on which slots, with the lower bound and the gap."""
    from perfmodel.hardware import load_accelerator
    from perfmodel.optimize.grouped_conv import groups_from_json
    from perfmodel.optimize.grouped_conv import schedule as plan

    result = plan(
        groups_from_json(groups), load_accelerator(on), time_limit_s=time_limit, waves=waves
    )
    if picture is not None:
        from perfmodel.report.grouped import schedule_picture
        from perfmodel.report.style import save

        save(schedule_picture(result), picture)
    document = result.to_dict()
    if json:
        emit(document)
        return
    table(
        ["quantity", "value"],
        [
            [key, f"{value:.6g}" if isinstance(value, float) else str(value)]
            for key, value in document.items()
            if not isinstance(value, list | dict)
        ],
    )


def _layer(
    batch: int,
    channels: tuple[int, int],
    side: int,
    kernel: int,
    stride: int,
    padding: int | None,
    groups: int,
    layout: str,
    dtype: str,
) -> Conv2d:
    from perfmodel.workload.ops.conv import Conv2d

    pad = kernel // 2 if padding is None else padding
    return Conv2d(
        batch, channels[0], side, side, channels[1], kernel, stride, pad, groups, layout,
        dtype=dtype,
    )  # fmt: skip


def _cache(word: str) -> float | None:
    known: dict[str, float | None] = {"device": None, "none": 0.0, "infinite": float("inf")}
    if word not in known:
        raise WorkloadError(
            "conv: --cache", word, ", ".join(known), repair="use one of the accepted words"
        )
    return known[word]
