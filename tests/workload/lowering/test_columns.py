"""Sums down columns, and kernels that convert as they load: against profiled ones of an H100."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.cost import price
from perfmodel.hardware import load_accelerator
from perfmodel.workload.lowering import lower
from perfmodel.workload.lowering.device import Device
from perfmodel.workload.lowering.eager.columns import column_blocks, column_work
from perfmodel.workload.lowering.stream import CASTING, stream
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
H100 = load_accelerator("h100-sxm5-80gb")


def kernels(tensors, *nodes):
    return lower(recipes.program(tensors, nodes), load_stack("torch-eager")).kernels


@pytest.mark.parametrize(
    ("rows", "columns", "width", "measured"),
    [
        # profiled reduce_kernel<128, 4> of models that the report keeps [us]
        (12608, 3072, 2, 44.8),
        (12608, 768, 2, 24.1),
        (4096, 4096, 2, 24.7),
        (4096, 1024, 2, 13.5),
        (512, 1024, 4, 10.5),
        (1048576, 64, 2, 146.9),
    ],
)
def test_profiled_sums_of_unseen_models_are_within_a_half(rows, columns, width, measured):
    work = column_work(rows, rows * columns, width=width)
    op = stream("sum", rows * columns, rows * columns * width, columns * width, work)
    assert price(op, H100).seconds * 1e6 == pytest.approx(measured, rel=0.5)


@given(st.integers(1, 1 << 20), st.integers(1, 1 << 14))
def test_threads_and_blocks_together_see_every_row(rows, columns):
    values, loads = column_blocks(rows, columns)
    assert 1 <= values <= rows
    assert loads >= 0
    # with one block a column nothing is left to add up
    assert loads == 0 or rows > values


@given(st.integers(1, 1 << 18), st.integers(1, 1 << 12))
def test_fewer_units_share_a_column_among_fewer_blocks(rows, columns):
    small = Device(units=8)
    assert column_blocks(rows, columns, small)[1] <= column_blocks(rows, columns)[1]


@given(st.integers(1, 1 << 16), st.integers(1, 1 << 10))
def test_a_sum_takes_at_least_an_operation_for_each_element(rows, columns):
    assert column_work(rows, rows * columns) >= rows * columns


def test_operands_of_two_formats_are_asked_for_at_every_load():
    shape = (64, 1024)
    (same,) = kernels({"a": (shape,), "b": (shape,), "y": (shape,)}, ("add", "ab", "y"))
    (mixed,) = kernels(
        {"a": (shape,), "b": (shape, "fp32"), "y": (shape, "fp32")}, ("add", "ab", "y")
    )
    assert same.flops == 64 * 1024
    assert mixed.flops == pytest.approx(64 * 1024 * (1 + 3 * CASTING), rel=0.02)


def test_only_casts_down_from_single_precision_go_by_vectors():
    shape = (64, 1024)
    (down,) = kernels({"x": (shape, "fp32"), "y": (shape,)}, ("_to_copy", "x", "y"))
    (up,) = kernels({"x": (shape,), "y": (shape, "fp32")}, ("_to_copy", "x", "y"))
    assert down.flops == 0
    assert up.flops == pytest.approx(2 * CASTING * 64 * 1024, rel=0.02)


def test_a_mask_is_an_operand_of_another_format_where_it_is_added():
    shape = (64, 1024)
    tensors = {"a": (shape, "fp32"), "m": (shape, "bool"), "y": (shape, "fp32")}
    (added,) = kernels(tensors, ("add", "am", "y"))
    assert added.flops == pytest.approx(64 * 1024 * (1 + 3 * CASTING), rel=0.02)
    (filled,) = kernels(tensors | {"s": ((), "fp32")}, ("where", "msa", "y"))
    assert filled.flops < 2 * 64 * 1024  # taken as it is
