"""Threads that wait for their elements one after another, beside the work of a kernel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.cost.program.price_kernels import beyond

seconds = st.floats(0.0, 1e-3)


@given(waited=seconds, work=seconds)
def test_the_longer_of_waiting_and_work_counts(waited, work):
    (found,) = beyond(np.array([waited]), np.array([work]))
    both = work + found
    assert both >= max(waited, work) * (1 - 1e-9) - 1e-15
    assert both <= 2 ** (1 / 4) * max(waited, work) * (1 + 1e-9) + 1e-12


def test_waiting_alone_counts_in_full_and_beside_much_work_not_at_all():
    found = beyond(np.array([2e-6, 2e-6, 0.0]), np.array([0.0, 1e-3, 1e-3]))
    assert found[0] == pytest.approx(2e-6)
    assert found[1:] == pytest.approx([0.0, 0.0], abs=1e-12)
