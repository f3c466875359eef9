"""Random planning problems and the brute force that prices every plan of one."""

from itertools import combinations, product

import numpy as np
import pytest

from perfmodel.optimize.problem import PlanningProblem, StageKind, uniform_in_flight


def _random_problem(rng, *, layers, stages, strategies, kinds=1, types=1, whole=True):
    """A small problem in which the memory cap and the device counts usually bind."""
    n, k, s = layers, strategies, stages
    shape = (kinds, n, k)
    base = rng.uniform(0.5, 2.0, n)[None, :, None]
    speed = np.sort(rng.uniform(0.7, 1.6, k))[None, None, :]
    seconds = base * speed * rng.uniform(0.8, 1.2, shape)
    size = np.linspace(1.0, 0.35, k)[None, None, :] * rng.uniform(0.6, 1.4, shape)
    persistent, activation = 40 * size, 25 * size * rng.uniform(0.5, 1.5, shape)
    transient = rng.choice([0.0, 5.0, 20.0], size=shape)
    if whole:
        persistent, activation = np.round(persistent), np.round(activation)
    micro_batches = int(rng.integers(1, 12))
    schedule = rng.choice(["1f1b", "gpipe"])
    in_flight = tuple(
        min(micro_batches, s - i) if schedule == "1f1b" else micro_batches for i in range(s)
    )
    typical = (persistent + np.mean(in_flight) * activation).mean() * n / s
    capacity = [float(np.round(typical * rng.uniform(0.7, 1.4))) for _ in range(kinds)]
    device_type = [q % types for q in range(kinds)]
    devices = [int(rng.choice([2, 4])) if kinds > types else 4 for _ in range(kinds)]
    return PlanningProblem(
        layers=tuple(f"layer {i}" for i in range(n)),
        strategies=tuple(f"strategy {i}" for i in range(k)),
        kinds=tuple(
            StageKind(f"kind {q}", device_type[q], devices[q], capacity[q]) for q in range(kinds)
        ),
        available=tuple(int(4 * s // types + rng.choice([0, 2, 4])) for _ in range(types)),
        seconds=seconds,
        persistent=persistent,
        activation=activation,
        transient=transient,
        once=rng.uniform(0, 1.5, (kinds, n)) if rng.random() < 0.7 else np.zeros((kinds, n)),
        reshard=rng.uniform(0, 0.3, (kinds, n, k, k)) * (1 - np.eye(k)),
        enter=rng.uniform(0, 0.3, (types, kinds, n)),
        stage_once=rng.uniform(0, 0.5, kinds),
        micro_batches=micro_batches,
        in_flight=in_flight,
        warmup=float(rng.choice([1.0, 1.0, 0.5])),
        extra=tuple(rng.uniform(0, 2, types)) if rng.random() < 0.2 else (),
    )


def _every_plan(problem):
    """(step of every plan, inf where it does not fit): cuts x kinds of stages x strategies."""
    n, k, s = len(problem.layers), len(problem.strategies), problem.stages
    choice = np.array(list(product(range(k), repeat=n)))  # (k^n, n)
    layer = np.arange(n)
    total = []
    for cut in combinations(range(1, n), s - 1):
        edges = (0, *cut, n)
        for kinds in product(range(len(problem.kinds)), repeat=s):
            devices = np.zeros(len(problem.available))
            for q in kinds:
                devices[problem.kinds[q].device_type] += problem.kinds[q].devices
            if (devices > problem.available).any():
                total.append(np.full(len(choice), np.inf))
                continue
            seconds = np.zeros((s, len(choice)))
            once = problem.stage_once[list(kinds)].copy()
            fits = np.ones(len(choice), dtype=bool)
            for stage, q in enumerate(kinds):
                span = layer[edges[stage] : edges[stage + 1]]
                part = choice[:, span]
                seconds[stage] = problem.seconds[q, span, part].sum(axis=1)
                if len(span) > 1:
                    seconds[stage] += problem.reshard[q, span[1:], part[:, :-1], part[:, 1:]].sum(1)
                if stage:
                    came = problem.kinds[kinds[stage - 1]].device_type
                    seconds[stage] += problem.enter[came, q, span[0]]
                flying = problem.in_flight[stage]
                held = (
                    problem.persistent[q, span, part] + flying * problem.activation[q, span, part]
                )
                peak = problem.transient[q, span, part].max(axis=1)
                fits &= held.sum(axis=1) + peak <= problem.kinds[q].capacity * (1 + 1e-9)
                once[stage] += problem.once[q, span].sum()
            weights = [
                problem.warmup
                + (problem.extra[problem.kinds[q].device_type] if problem.extra else 0)
                for q in kinds
            ]
            step = np.array(weights) @ seconds + once.max()
            step += (problem.micro_batches - problem.warmup) * seconds.max(axis=0)
            total.append(np.where(fits, step, np.inf))
    return np.concatenate(total)


def _pipeline(layers, stages, strategies, *, seed=0, micro_batches=64, cap=1.0):
    """A heterogeneous model: tensor degrees x recomputation, resharding, a binding memory cap."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.5, 2.0, layers)[:, None]
    tensor = np.array([1, 2, 4, 8] * 2)[:strategies]
    again = np.arange(strategies) >= 4
    seconds = base / 8 * (1 + 0.08 * np.log2(tensor)) * (1 + 0.33 * again)
    seconds = seconds * rng.uniform(0.95, 1.05, (layers, strategies))
    held = rng.uniform(0.3, 1.2, (layers, 1)) / tensor
    active = rng.uniform(0.5, 2.0, (layers, 1)) * np.where(again, 0.1, 1.0) / tensor / stages
    reshard = 0.004 * np.abs(np.log2(tensor)[:, None] - np.log2(tensor)[None])
    capacity = cap * (held + stages / 2 * active).mean() * layers / stages
    shape = (1, layers, strategies)
    return PlanningProblem(
        layers=tuple(f"layer {i}" for i in range(layers)),
        strategies=tuple(f"tp{t}" for t in tensor),
        kinds=(StageKind("stage", 0, 8, float(capacity)),),
        available=(8 * stages,),
        seconds=seconds[None],
        persistent=held[None] + np.zeros(shape),
        activation=active[None],
        transient=np.zeros(shape),
        once=np.zeros((1, layers)),
        stage_once=np.zeros(1),
        reshard=np.tile(reshard, (1, layers, 1, 1)),
        enter=np.zeros((1, 1, layers)),
        micro_batches=micro_batches,
        in_flight=uniform_in_flight("1f1b", stages, micro_batches),
    )


@pytest.fixture(scope="session")
def random_problem():
    """Makes a random planning problem."""
    return _random_problem


@pytest.fixture(scope="session")
def every_plan():
    """Prices every plan of a problem."""
    return _every_plan


@pytest.fixture(scope="session")
def pipeline():
    """Makes a heterogeneous pipeline problem of any size."""
    return _pipeline
