"""``perfmodel infer``: latency and memory of one batch of requests."""

from __future__ import annotations

from typing import Annotated

import typer

from perfmodel.cli.output import Json, emit


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("infer")(infer)


def infer(
    model: Annotated[str, typer.Argument(help="A bundled name or a Hugging Face config.json.")],
    on: Annotated[str, typer.Option(help="Accelerator, node or cluster: a name or a TOML path.")],
    batch_size: Annotated[int, typer.Option(help="Requests decoded together.")],
    prompt_len: Annotated[int, typer.Option(help="Tokens of a prompt.")],
    output_len: Annotated[int, typer.Option(help="Tokens generated for each request.")],
    tp: Annotated[int, typer.Option(help="Devices that share the model.")] = 1,
    precision: Annotated[
        str, typer.Option(help="bf16, fp16, tf32, fp32, fp8, int8 or fp4.")
    ] = "bf16",
    kv_dtype: Annotated[
        str, typer.Option(help="What the key-value cache holds: bf16, fp16, fp8, int8 ...")
    ] = "bf16",
    stack: Annotated[str, typer.Option(help="How the software runs the work.")] = "vllm-like",
    json: Json = False,
) -> None:
    """Time to first token, time per token, end to end, and what memory holds."""
    from perfmodel.parallel.inference import infer as evaluate

    result = evaluate(
        model,
        on,
        batch_size=batch_size,
        prompt_len=prompt_len,
        output_len=output_len,
        tp=tp,
        precision=precision,
        kv_dtype=kv_dtype,
        stack=stack,
    )
    if json:
        emit(result.to_dict())
    else:
        typer.echo(result.explain())
    if not result.fits:
        raise typer.Exit(3)
