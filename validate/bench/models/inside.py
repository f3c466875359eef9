"""Probes of the host inside a training step: what pace its threads had while they issued it.

A host that is shared changes within milliseconds, so a probe before a step and one behind it say
little of what lies between. Here a small block runs now and then in the forward pass, in the
optimizer's thread behind it, and in the thread of the backward pass; none of it counts as the
step's time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

SAMPLES = 16
"""Blocks in the forward pass, and as many in the backward pass."""


@dataclass(slots=True)
class Samples:
    """Blocks of one step: seconds of each, and what they took with everything around them."""

    blocks: Callable[[int], float]
    behind: bool = False
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    forward_spent: float = 0.0
    backward_spent: float = 0.0

    def take(self) -> None:
        """One block, in the pass that runs."""
        begin = time.perf_counter()
        seconds = self.blocks(1)
        if self.behind:
            self.backward.append(seconds)
            self.backward_spent += time.perf_counter() - begin
        else:
            self.forward.append(seconds)
            self.forward_spent += time.perf_counter() - begin

    def gradient(self, _: Any) -> None:
        """The same as a tensor's hook: it runs where the backward pass does."""
        self.take()


@contextlib.contextmanager
def sampled(model: Any, blocks: Callable[[int], float]) -> Iterator[Samples]:
    """Samples from before some modules of a model, and from where their gradients pass."""
    samples = Samples(blocks)
    leaves = [one for one in model.modules() if not any(True for _ in one.children())]
    chosen = leaves[:: max(1, len(leaves) // SAMPLES)]

    def before(module: Any, inputs: Any) -> None:
        del module
        samples.take()
        if samples.behind:  # a checkpointed layer runs again
            return
        for one in inputs:
            if isinstance(one, torch.Tensor) and one.requires_grad and one.grad_fn is not None:
                one.register_hook(samples.gradient)
                break

    handles = [one.register_forward_pre_hook(before) for one in chosen]
    try:
        yield samples
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, slots=True)
class Training:
    """A training step, which runs as it is when called, or with probes in it.

    Attributes
    ----------
    forward, update : callable
        Give the loss; step the optimizer.
    model : module or None
        Whose modules are sampled where there are many probes; None for generated code.
    """

    forward: Callable[[], Any]
    update: Callable[[], None]
    model: Any

    def __call__(self) -> None:
        """The step without probes."""
        self.forward().backward()
        self.update()

    def probed(self, blocks: Callable[[int], float], often: bool) -> dict[str, float]:
        """Host seconds by part, with few or many probes, as :func:`phased` answers."""
        return phased(self.forward, self.update, blocks, self.model if often else None)


def phased(
    forward: Callable[[], Any],
    update: Callable[[], None],
    blocks: Callable[[int], float],
    model: Any,
) -> dict[str, float]:
    """Host seconds of forward pass, backward pass and optimizer, and of a block in each.

    Parameters
    ----------
    forward, update : callable
        Give the loss; step the optimizer.
    blocks : callable
        Runs some blocks and gives the seconds of one.
    model : module or None
        Whose modules are sampled; with None there are two blocks alone, before the forward pass and
        where the backward pass begins. Many blocks leave a step's own data less of the caches: it
        takes some 5 % longer then.
    """
    with contextlib.ExitStack() as stack:
        empty = torch.nn.Identity() if model is None else model
        samples = stack.enter_context(sampled(empty, blocks))
        if model is None:
            samples.take()
            samples.forward_spent = 0.0
        clock = [time.perf_counter()]
        loss = forward()
        clock.append(time.perf_counter())
        first = samples.forward_spent
        samples.take()
        samples.behind = True
        loss.register_hook(samples.gradient)
        clock.append(time.perf_counter())
        loss.backward()
        clock.append(time.perf_counter())
        update()
        clock.append(time.perf_counter())
        after = blocks(2)
    return {
        "forward": clock[1] - clock[0] - first,
        "backward": clock[3] - clock[2] - samples.backward_spent,
        "optimizer": clock[4] - clock[3],
        "forward_block": sum(samples.forward) / len(samples.forward),
        "backward_block": sum(samples.backward) / len(samples.backward),
        "after_block": after,
        "beside": clock[2] - clock[1] + first + samples.backward_spent,
    }
