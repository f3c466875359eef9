"""Graph networks' messages, transforms of Fourier operators and long filters, recurrent layers."""

from __future__ import annotations

import random

from validate.bench import ops
from validate.bench.draws_sizes import pow2, snap, spread


def scatter_add(u: list[float], rng: random.Random) -> ops.Op:
    """Messages of a graph into its nodes; a fifth of the points sum nodes into few graphs."""
    targets = spread(u[0], 500, 2_000_000)
    rows = round(targets * 64 ** u[1])
    if rng.random() < 0.2:
        targets, rows = spread(u[0], 1, 512), spread(u[1], 1000, 500_000)
    cols = rng.choice((1, 4, 8, 16, 32, 32, 64, 64, 64, 100, 128, 128, 128, 256, 256, 512, 1433))
    return {"op": "scatter_add", "kind": rng.choice(("index_add", "scatter_add")), "rows": rows,
            "cols": cols, "targets": targets,
            "dtype": rng.choices(("fp32", "bf16", "fp16"), (6, 2, 2))[0]}  # fmt: skip


def fft_models(u: list[float], rng: random.Random) -> ops.Op:
    """Real transforms as models run them: long sequences, and maps of neural operators."""
    if rng.random() < 0.3:
        n = pow2(spread(u[1], 256, 1 << 18)) * rng.choice((1, 1, 1, 3)) // rng.choice((1, 1, 2))
        kind = rng.choice(("rfft", "irfft", "irfft_unscaled", "irfft_unscaled"))
        return {"op": "fft", "kind": kind, "batch": spread(u[0], 1, 16384), "n": n}
    kind = rng.choice(("rfft2", "rfft2", "irfft2", "irfft2", "fft2"))
    n = spread(u[1], 16, 1024)
    if rng.random() < 0.5:
        n = pow2(n)
    rows = n if rng.random() < 0.7 else snap(spread(u[2], 16, 1024), rng, 0.3, (8, 16, 32))
    return {"op": "fft", "kind": kind, "batch": spread(u[0], 1, 4096), "rows": rows, "n": n}


def recurrent(u: list[float], rng: random.Random) -> ops.Op:
    """Stacks of recurrent layers: sequences of 16 to 512 steps, cells of 64 to 2048."""
    hidden = snap(spread(u[0], 64, 2048), rng, 0.08, (32, 64, 128))
    batch = pow2(spread(u[1], 1, 256)) if rng.random() < 0.7 else spread(u[1], 1, 256)
    steps = snap(spread(u[2], 16, 512), rng, 0.3, (8, 16, 50))
    width = rng.choice((hidden, hidden, 64, 80, 128, 240, 256, 512, 1024))
    return {"op": "recurrent", "kind": rng.choices(("lstm", "gru", "rnn_tanh"), (6, 3, 1))[0],
            "steps": steps, "batch": batch, "width": width, "hidden": hidden,
            "layers": rng.choice((1, 1, 1, 2, 2, 3, 4)), "ways": rng.choice((1, 1, 2)),
            "pass": rng.choice(("fwd", "train", "bwd", "bwd")),
            "dtype": rng.choices(("fp32", "tf32", "fp16", "bf16"), (3, 3, 4, 2))[0]}  # fmt: skip
