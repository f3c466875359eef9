"""Pruned layers and unstructured products as measured, beside what is said of them."""

from __future__ import annotations

from perfmodel.hardware import load_accelerator
from validate.sparse import pruned, unstructured

CHIP = load_accelerator("h100-sxm5-80gb")


def test_every_pruned_layer_is_told_apart() -> None:
    table = pruned.rows(CHIP)
    assert len(table) == 84
    assert (table[table.what == "dense"].groupby("layer").size() == 1).all()
    assert table.layer.nunique() == 3
    # two halves of a separable layer for both 3 x 3 layers
    assert (table.what == "separable").sum() == 4
    shares = table[table.what == "output"].share
    assert shares.between(0.0005, 0.9).all()


def test_time_left_follows_the_measured_staircase() -> None:
    ratios = pruned.left(pruned.rows(CHIP))
    near = (ratios.predicted - ratios.measured).abs()
    assert near.mean() < 0.15
    # uneven channels cost time on both sides, though arithmetic falls
    uneven = ratios[[bool(op.c_in % 8 or op.c_out % 8) for op in ratios.op]]
    assert (uneven.measured > 1.0).mean() > 0.8


def test_unstructured_products_are_judged_by_fits_that_did_not_see_them() -> None:
    table = unstructured.rows(CHIP)
    assert len(table) >= 30
    assert set(table["dtype"]) == {"bf16", "fp32"}
    wins, said = table.measured < table.dense, table.predicted < table.dense
    assert 0 < wins.sum() < len(table)
    assert (wins == said).mean() > 0.8
    text = "\n".join(unstructured.document(CHIP))
    assert "| mi250x |" in text
