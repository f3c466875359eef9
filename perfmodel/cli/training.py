"""``perfmodel train`` and ``perfmodel plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perfmodel.cli.output import Json, emit, progress, table
from perfmodel.errors import PlanError

if TYPE_CHECKING:
    from perfmodel.hardware import Cluster
    from perfmodel.parallel import Plan
    from perfmodel.parallel.budget import Budget
    from perfmodel.parallel.result import TrainResult
    from perfmodel.workload.model import ModelConfig

Model = Annotated[str, typer.Argument(help="A bundled name or a Hugging Face config.json.")]
On = Annotated[str, typer.Option(help="Node or cluster: a name or a TOML path.")]
Nodes = Annotated[int | None, typer.Option(help="Nodes; all of a cluster by default.")]
PerNode = Annotated[int | None, typer.Option("--gpus-per-node", help="Devices used in a node.")]
Batch = Annotated[int, typer.Option("--global-batch-size", help="Sequences in a step.")]
SeqLen = Annotated[int, typer.Option("--seq-len", help="Tokens in a sequence.")]
Precision = Annotated[str, typer.Option(help="bf16, fp16, fp8, fp4, tf32 or fp32.")]
StackName = Annotated[str, typer.Option("--stack", help="How the software runs the work.")]
Tokens = Annotated[
    float | None, typer.Option(help="Of the whole run, e.g. 15e12: days, energy, rent.")
]
DevicePrice = Annotated[
    str | None, typer.Option("--price", help="Rent of one device, e.g. '2.5 USD/h'.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("train")(train)
    app.command("plan")(plan)


def train(
    model: Model,
    on: On,
    global_batch_size: Batch,
    seq_len: SeqLen,
    nodes: Nodes = None,
    gpus_per_node: PerNode = None,
    tp: Annotated[int, typer.Option(help="Tensor-parallel degree.")] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline stages.")] = 1,
    dp: Annotated[
        int | None, typer.Option(help="Data-parallel degree; what the others leave, by default.")
    ] = None,
    cp: Annotated[int, typer.Option(help="Context-parallel degree: parts of a sequence.")] = 1,
    ep: Annotated[int, typer.Option(help="Expert-parallel degree.")] = 1,
    expert_tp: Annotated[
        int | None, typer.Option(help="That of experts; tp, or 1 beside ep, by default.")
    ] = None,
    virtual_stages: Annotated[int, typer.Option(help="Chunks of layers that a stage holds.")] = 1,
    micro_batch_size: Annotated[int, typer.Option(help="Sequences that pass at once.")] = 1,
    zero: Annotated[int, typer.Option(help="Stage of ZeRO, 0 to 3: what ranks share out.")] = 0,
    zero_group: Annotated[
        int | None, typer.Option(help="Ranks that share out; all replicas by default.")
    ] = None,
    sequence_parallel: Annotated[
        bool, typer.Option(help="Norms and residuals split along the sequence, over tp.")
    ] = False,
    recompute: Annotated[
        str, typer.Option(help="Activations computed again: none, selective, full.")
    ] = "none",
    precision: Precision = "bf16",
    schedule: Annotated[str, typer.Option(help="gpipe, 1f1b or zb-h1.")] = "1f1b",
    layers_per_stage: Annotated[
        str | None, typer.Option(help="Layers of each chunk, e.g. 11,12,12,13.")
    ] = None,
    stack: StackName = "megatron",
    simulate: Annotated[bool, typer.Option("--simulate", help="Replay event by event.")] = False,
    tokens: Tokens = None,
    price: DevicePrice = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the step here.")] = None,
    json: Json = False,
) -> None:
    """One plan: step time, memory, rates, and where each millisecond goes."""
    from perfmodel.parallel import Plan
    from perfmodel.parallel.training import train as evaluate

    config, cluster = _given(model, on, nodes, gpus_per_node)
    if dp is None:
        dp = _left_over(cluster.devices, tp * pp * cp)
    chosen = Plan(
        tp=tp,
        pp=pp,
        dp=dp,
        cp=cp,
        ep=ep,
        expert_tp=expert_tp,
        virtual_stages=virtual_stages,
        micro_batch_size=micro_batch_size,
        zero=zero,
        zero_group=zero_group,
        sequence_parallel=sequence_parallel,
        recompute=recompute,
        precision=precision,
        schedule=schedule,
        layers_per_stage=_layout(layers_per_stage),
    )
    result = evaluate(config, cluster, chosen, global_batch_size, seq_len, stack)
    document: dict[str, Any] = result.to_dict()
    if simulate:
        document["simulated"] = _simulated(
            config, cluster, chosen, global_batch_size, seq_len, stack
        )
    run = _budget(result, cluster, tokens, price)
    if run is not None:
        document["budget"] = run.to_dict()
    if figure is not None:
        from perfmodel.report.plans import step_figure
        from perfmodel.report.style import save

        save(step_figure([result], config.name), figure)
    if json:
        emit(document)
    else:
        typer.echo(result.explain())
        typer.echo(
            f"{result.tokens_per_s_per_device:,.0f} tokens/s/device, MFU {result.mfu:.1%}, "
            f"HFU {result.hfu:.1%}, bubble {result.bubble_fraction:.1%}"
        )
        if simulate:
            typer.echo(f"simulated step: {document['simulated']['step_time_s']:.4g} s")
        if run is not None:
            typer.echo(run.explain())
    if not result.fits:
        raise typer.Exit(3)


def plan(
    model: Model,
    on: On,
    global_batch_size: Batch,
    seq_len: SeqLen,
    nodes: Nodes = None,
    gpus_per_node: PerNode = None,
    objective: Annotated[
        str, typer.Option(help="step_time or memory; of milp step_time, energy or cost.")
    ] = "step_time",
    top: Annotated[int, typer.Option(help="Plans to return.")] = 5,
    method: Annotated[str, typer.Option(help="search or milp.")] = "search",
    export: Annotated[
        str | None, typer.Option(help="megatron, torchtitan, deepspeed or slurm.")
    ] = None,
    precision: Precision = "bf16",
    stack: StackName = "megatron",
    tokens: Tokens = None,
    price: DevicePrice = None,
    figure: Annotated[Path | None, typer.Option(help="Draw time against memory here.")] = None,
    json: Json = False,
) -> None:
    """The best plans for a model on a cluster, with the bound and the gap."""
    from perfmodel.parallel import Plan
    from perfmodel.study.planning import plan as search

    config, cluster = _given(model, on, nodes, gpus_per_node)
    options: dict[str, Any] = {}
    if method == "milp":
        from perfmodel.optimize.space import Space as Stages

        _search_only({"--figure": figure, "--tokens": tokens, "--price": price})
        options["space"] = Stages(precision=precision)
    elif precision != "bf16":
        from perfmodel.optimize.uniform import Space

        options["space"] = Space(base=Plan(precision=precision))
    with progress(f"plans for {config.name}", quiet=json) as show:
        result: Any = search(
            config,
            cluster,
            global_batch_size,
            seq_len,
            objective=objective,
            method=method,
            top=top,
            stack=stack,
            progress=lambda count: show(min(0.99, count / (count + 100_000))),
            **options,
        )
    if method == "milp":
        _show_milp(result, json=json, export=export)
        return
    document = result.to_dict()
    if export is not None:
        from perfmodel.parallel.export import export as write
        from perfmodel.parallel.export.job import Job

        job = Job(global_batch_size, seq_len, cluster.devices_per_node)
        document["export"] = write(result.best.plan, export, job, partial=True)
    run = _budget(result.best, cluster, tokens, price)
    if run is not None:
        document["budget"] = run.to_dict()
    if figure is not None:
        from perfmodel.report.plans import front_figure
        from perfmodel.report.style import save

        save(front_figure(result, f"{config.name} on {cluster.devices} devices"), figure)
    if json:
        emit(document)
        return
    typer.echo(result.explain())
    typer.echo("")
    table(
        ["plan", "step", "tokens/s/device", "MFU", "memory"],
        [
            [
                repr(one.plan),
                f"{one.step_time_s:.4g} s",
                f"{one.tokens_per_s_per_device:,.0f}",
                f"{one.mfu:.1%}",
                f"{one.peak_memory / 2**30:.1f} GiB",
            ]
            for one in result.plans
        ],
    )
    if len(result.plans) > 1:
        from perfmodel.optimize.search import TIE

        typer.echo(
            f"steps within {TIE:.1%} count as equal: of those the simplest plan stands first"
        )
    if run is not None:
        typer.echo("\nthe first of them, " + run.explain())
    if export is not None:
        typer.echo("\n" + document["export"])


def _search_only(options: dict[str, object]) -> None:
    """What the MILP has no answer for is refused, not dropped."""
    for name, value in options.items():
        if value is not None:
            raise PlanError(
                f"plan: {name}", value, "--method search beside it", repair=f"leave {name} out"
            )


def _show_milp(result: Any, *, json: bool, export: str | None) -> None:
    document = result.to_dict()
    if export is not None:
        document["export"] = _milp_export(result, export)
    if json:
        emit(document)
    else:
        typer.echo(result.explain())
        if export is not None:
            typer.echo("\n" + document["export"])
    if result.status == "infeasible":
        raise typer.Exit(3)


def _milp_export(result: Any, dialect: str) -> str:
    """A launch where one plan says it all, otherwise the layout of the stages."""
    if result.uniform is not None:
        from perfmodel.parallel.export import export as write

        return write(result.uniform, dialect, partial=True)
    from perfmodel.optimize.layouts import export_layout

    return export_layout(result, dialect).text


def _given(
    model: str, on: str, nodes: int | None, gpus_per_node: int | None
) -> tuple[ModelConfig, Cluster]:
    from perfmodel.hardware import load_cluster
    from perfmodel.workload.model import load_model

    return load_model(model), load_cluster(on, nodes=nodes, gpus_per_node=gpus_per_node)


def _budget(
    result: TrainResult, cluster: Cluster, tokens: float | None, price: str | None
) -> Budget | None:
    from perfmodel.parallel.budget import budget, rent_of
    from perfmodel.units import parse

    rent = (
        rent_of(cluster) if price is None else parse(price, "dollars per second", where="--price")
    )
    if tokens is not None:
        return budget(result, tokens, rent)
    if price is not None:
        raise PlanError(
            "--price", price, "a price together with --tokens", repair="add --tokens, e.g. 15e12"
        )
    return None


def _left_over(devices: int, used: int) -> int:
    if used < 1 or devices % used:
        raise PlanError(
            "train: tp * pp * cp",
            used,
            f"a divisor of the {devices} devices",
            repair="choose degrees whose product divides the number of devices",
        )
    return devices // used


def _layout(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise PlanError(
            "train: --layers-per-stage",
            text,
            "whole numbers with commas between them, such as 11,12,12,13",
            repair="write one number for each of the pp * virtual_stages chunks",
        ) from None


def _simulated(
    model: ModelConfig, cluster: Cluster, plan: Plan, batch: int, seq_len: int, stack: str
) -> dict[str, Any]:
    from perfmodel.sim import simulate_plan

    result: dict[str, Any] = simulate_plan(model, cluster, plan, batch, seq_len, stack).to_dict()
    return result
