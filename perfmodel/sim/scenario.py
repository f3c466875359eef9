"""Run a scenario: a TOML file, or the same as a dictionary."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from perfmodel.errors import ScenarioError, nearest_name
from perfmodel.sim import scenario_files as files
from perfmodel.sim.chrome import write_trace
from perfmodel.sim.graph import Stop
from perfmodel.sim.scenario_runs import RUNS, Outcome

MOST_BYTES: Final = 20_000_000


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """What came of a scenario.

    Parameters
    ----------
    name, kind : str
        Of the scenario.
    seed : int
        Of its randomness.
    result : dict
        JSON-ready figures.
    text : str
        The same for people.
    make_trace : callable
        Builds the Chrome trace document when it is wanted.
    """

    name: str
    kind: str
    seed: int
    result: dict[str, Any]
    text: str
    make_trace: Callable[[], dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "kind": self.kind, "seed": self.seed, **self.result}

    def explain(self) -> str:
        """The result as text."""
        return f"{self.name} ({self.kind}, seed {self.seed})\n{self.text}"

    def trace(self) -> dict[str, Any]:
        """The timeline as a Chrome trace document, for Perfetto."""
        return self.make_trace()

    def write_trace(self, path: str | Path) -> Path:
        """Write the timeline; nothing is left behind if that fails."""
        return write_trace(path, self.make_trace())


def run_scenario(
    scenario: str | Path | Mapping[str, Any], *, stop: Stop | None = None
) -> ScenarioResult:
    """Run a scenario.

    Parameters
    ----------
    scenario : str, Path or mapping
        The path of a TOML file, or its content; relative paths in a file are taken from its folder.
    stop : callable, optional
        Asked now and then; true ends the simulation with :class:`~perfmodel.sim.graph.Stopped`.

    Raises
    ------
    ScenarioError
        Naming the place in the file that is at fault.
    """
    if isinstance(scenario, Mapping):
        where, folder, content = "scenario", Path(), dict(scenario)
    else:
        where, folder = str(scenario), Path(scenario).parent
        content = _read(Path(scenario))
    model = check_scenario(content, where)
    outcome: Outcome = RUNS[type(model)](model, folder, stop)
    return ScenarioResult(
        name=model.name,
        kind=model.kind,
        seed=model.seed,
        result=outcome.result,
        text=outcome.text,
        make_trace=outcome.make_trace,
    )


simulate = run_scenario


def check_scenario(content: Mapping[str, Any], where: str = "scenario") -> Any:
    """The checked model of a scenario's content.

    Raises
    ------
    ScenarioError
        For the first field at fault.
    """
    try:
        return files.ADAPTER.validate_python(dict(content))
    except ValidationError as error:
        raise _explained(error, where) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ScenarioError(
                str(path), f"<{path.stat().st_size:,} bytes>", f"at most {MOST_BYTES:,} bytes",
                repair="put long traces into a CSV file and name it",
            )  # fmt: skip
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ScenarioError(
            str(path), f"<{error.strerror}>", "a readable TOML file", repair="check the path"
        ) from None
    except UnicodeDecodeError:
        raise ScenarioError(
            str(path), "<not UTF-8 text>", "a TOML file in UTF-8", repair="save it as UTF-8 text"
        ) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ScenarioError(
            str(path), f"<{error}>", "TOML", repair="correct the line that the message names"
        ) from None


def _explained(error: ValidationError, where: str) -> ScenarioError:
    """The first complaint of pydantic in five parts."""
    first = error.errors(include_url=False)[0]
    kinds = [
        str(name) for name in first.get("ctx", {}).get("expected_tags", "").split(", ") if name
    ]
    # The tag of the union and the arms of inner unions are not places in the file.
    tagged = bool(first["loc"]) and first["loc"][0] in _KINDS
    place = [str(part) for part in first["loc"][1 if tagged else 0 :]]
    place = [part for part in place if not part.startswith(("function-", "list[", "constrained"))]
    spot = f"{where}: {'.'.join(place) or 'kind'}"
    got = first["input"]
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        known = sorted(_fields_beside(first["loc"]))
        return ScenarioError(
            spot,
            got,
            f"one of {', '.join(known)}",
            nearest=nearest_name(name, known),
            repair=f"correct or remove {name!r}",
        )
    if first["type"].startswith("union_tag"):
        given = got.get("kind") if isinstance(got, dict) else got
        known = [kind.strip("'") for kind in kinds] or sorted(_KINDS)
        nearest = nearest_name(given, known)
        return ScenarioError(
            f"{where}: kind", given, ", ".join(known), nearest=nearest,
            repair='say what to simulate: kind = "..."',
        )  # fmt: skip
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        name = place[-1]
        known = sorted(_fields_beside(first["loc"]))
        fields = f"; the fields are {', '.join(known)}" if known else ""
        return ScenarioError(
            spot, "<nothing>", f"a value for the required {name}{fields}", repair=f"add {name}"
        )
    return ScenarioError(spot, got, message, repair=f"correct {'.'.join(place) or 'the scenario'}")


def _models() -> Iterator[type[BaseModel]]:
    for value in vars(files).values():
        if isinstance(value, type) and issubclass(value, BaseModel) and value is not BaseModel:
            yield value


def _fields_beside(loc: tuple[int | str, ...]) -> set[str]:
    """Names that the object at fault knows, walking the models along the path to it."""
    model: type[BaseModel] | None = None
    for part in loc[:-1]:
        if part in _KINDS:
            model = _KINDS[str(part)]
        elif model is not None and isinstance(part, str) and part in model.model_fields:
            inner = [m for m in _models() if m.__name__ in str(model.model_fields[part].annotation)]
            model = max(inner, key=lambda m: len(m.__name__), default=model)
    return set(model.model_fields) if model is not None else set()


_KINDS: Final = {
    str(model.model_fields["kind"].annotation.__args__[0]): model  # type: ignore[union-attr]
    for model in _models()
    if "kind" in model.model_fields
}
