"""``perfmodel models``: which models are bundled, and their shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from perfmodel.cli.output import Json, emit, table

if TYPE_CHECKING:
    from perfmodel.workload.model import ModelConfig


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("models")(models)


def models(
    name: Annotated[
        str | None, typer.Argument(help="A bundled name or a Hugging Face config.json.")
    ] = None,
    json: Json = False,
) -> None:
    """List the bundled models with their sizes, or show the shape that is read of one."""
    from perfmodel.workload.model import bundled_models, load_model

    if name is None:
        rows = [_summary(load_model(one)) for one in bundled_models()]
        if json:
            emit(rows)
            return
        table(list(rows[0]), [[_shown(value) for value in row.values()] for row in rows])
        return
    model = load_model(name)
    shape = _summary(model) | _fields(model)
    if json:
        emit(shape)
    else:
        table(["field", "value"], [[key, _shown(value)] for key, value in shape.items()])


def _summary(model: ModelConfig) -> dict[str, Any]:
    from perfmodel.workload.transformer import active_parameters, parameters

    return {
        "name": model.name,
        "parameters": int(parameters(model)),
        "active": int(active_parameters(model)),
        "architecture": model.architecture,
        "layers": model.layers + model.encoder_layers,
        "hidden": model.hidden,
        "heads": model.heads,
        "kv_heads": model.kv_heads,
        "experts": model.experts,
        "vocab": model.vocab,
    }


def _fields(model: ModelConfig) -> dict[str, Any]:
    """What its configuration says; the rest is at its default."""
    from dataclasses import MISSING, fields

    values = {field.name: (getattr(model, field.name), field.default) for field in fields(model)}
    return {
        name: value for name, (value, usual) in values.items() if usual is MISSING or value != usual
    }


def _shown(value: object) -> str:
    if isinstance(value, tuple):  # which layers: of no use one by one
        return f"{sum(map(bool, value))} of {len(value)}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
