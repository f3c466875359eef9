r"""What a process that has run convolutions adds to every short kernel.

Once a process has run convolutions, or a Fourier transform whose length has a large prime factor,
each kernel of a captured graph starts later, whatever it does: streams and norms of 2 to 3 us take
10 to 12 % longer, those of 10 us 4 %, those of 50 us 1 %. It is one step, and stays. Other work
(attention, sorts, sparse products, backward passes) does not take it. Of 46 operators below 60 us
that one H100 timed within a minute in a process without convolutions and in one that had run 14 of
them, the second times are 7.0 % longer in the mean, and 2.9 % apart once

.. math::

    \delta(t) = 0.45\,\text{us} \cdot \min(1, t / 5\,\text{us})

is added to the first; of 191 products that runs of both kinds measured, 8.0 and 3.5 %. Element-wise
kernels are there sooner, from 3.5 us on: 11 of an H100 of 1.6 to 2.6 us, timed again without
convolutions, took 0.21 to 0.34 us less, and 15 of an H200 0.2 us. Norms and softmax lose less: 27
of the H100 0.2 us at 3 us, and 9 0.3 us at 8. Compiled chains lose 0.33 us from the shortest on:
six of 1.04 to 1.13 us stand beside four of like size of 1.39 to 1.47. Six small convolutions that
searched for no plan did not bring it about: ten chains behind them took what fresh processes take.

A calibration is of one state: that of a process which ran everything, as most of the tables did. A
table of a process without convolutions says so in its sidecar, ``fresh = 1.0`` (or the share of it
that repeats show), and its times are read as that state would have them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from perfmodel.errors import CalibrationError

if TYPE_CHECKING:
    from perfmodel.calibrate.measurements import Row

START, WHOLE_FROM = 0.45e-6, 5e-6
"""Fitted to the 191 products above [s]; the other 46 operators had no part in it."""
_NORMS = (0.32e-6, WHOLE_FROM)
OF_OPERATORS = {
    "elementwise": (START, 3.5e-6),
    "rmsnorm": _NORMS,
    "layernorm": _NORMS,
    "softmax": _NORMS,
    "fused": (0.33e-6, 1e-6),
}
"""The same of operators that lose more or less, by the repeats of an H100 [s]."""


def start_after_convolutions(seconds: float, op: str = "") -> float:
    """Seconds that a kernel of so many seconds, of such an operator, starts later."""
    start, whole_from = OF_OPERATORS.get(op, (START, WHOLE_FROM))
    return start * min(1.0, seconds / whole_from)


def settled(row: Row, fresh: float) -> Row:
    """A row of a process that was ``fresh`` to such a share, as any other would have timed it."""
    if fresh == 0.0:
        return row
    more = fresh * start_after_convolutions(row.seconds, str(row.record["op"]))
    return replace(
        row, seconds=row.seconds + more, fastest=row.fastest + more, slowest=row.slowest + more
    )


def fresh_share(where: str, said: object) -> float:
    """The share that a sidecar states, 0 where it states none.

    Raises
    ------
    CalibrationError
        If it is no share.
    """
    if said is None:
        return 0.0
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not 0.0 <= said <= 1.0:
        raise CalibrationError(
            f"{where}: fresh", said, "a share from 0 to 1", repair="correct the sidecar"
        )
    return float(said)
