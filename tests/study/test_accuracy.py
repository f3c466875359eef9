"""The accuracy report: operators of a user, and the draw that calibration never reads."""

import json
from functools import cache

import pytest

from perfmodel.errors import SpecError, WorkloadError
from perfmodel.report.accuracy import write_part
from perfmodel.study import accuracy
from perfmodel.study.operators import price_records


@pytest.fixture
def measured(tmp_path):
    rows = [{"op": "gemm", "m": 512, "n": 1024, "k": size, "dtype": "bf16"} for size in (256, 512)]
    prices = price_records([("row", row) for row in rows], "h100-sxm5-80gb")
    rows = [
        row | {"id": f"r{i}", "latency_us": price["latency_us"] * 2}
        for i, (row, price) in enumerate(zip(rows, prices, strict=True))
    ]
    path = tmp_path / "own.jsonl"
    lines = [*rows, {"op": "gemm", "latency_us": 1.0}, {"op": "softmax", "rows": 1, "cols": 2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_price_says_where_a_mask_begins_that_was_left_open():
    sizes = {"op": "attention", "batch": 2, "q_heads": 8, "kv_heads": 8, "head_dim": 128}
    lengths = [(512, 4096), (512, 512), (1, 4096)]
    rows = [sizes | {"q_len": q, "kv_len": kv, "causal": True} for q, kv in lengths]
    rows += [rows[0] | {"aligned": word} for word in ("first", "last")]
    prices = price_records([("row", row) for row in rows], "h100-sxm5-80gb")
    assert [row.get("aligned") for row in prices] == ["first", None, None, "first", "last"]
    open_, square, _, first, last = (row["latency_us"] for row in prices)
    assert open_ == first < last
    assert open_ == pytest.approx(square, rel=0.2)  # the same triangle, and keys that none sees


def test_own_rows_are_scored_or_refused_in_order(measured):
    part = accuracy.own_operators(measured, "h100-sxm5-80gb")
    records = part.document["records"]
    assert [record["row"] for record in records[:2]] == ["r0", "r1"]
    for record in records[:2]:
        assert record["measured_us"] == pytest.approx(2 * record["predicted_us"])
    assert "m, n, k" in records[2]["refused"]
    assert "latency_us" in records[3]["refused"]
    score = part.document["scores"]["gemm bf16"]
    assert score["mape"] == pytest.approx(0.5)
    assert score["bias"] == pytest.approx(-0.5)
    assert "gemm bf16" in part.markdown
    drawn = [record["measured_us"] * 1e-6 for record in records[:2]]
    assert part.measured["gemm bf16"] == pytest.approx(drawn)  # seconds, as every other part


def test_a_row_without_a_price_hides_no_other(measured):
    with measured.open("a") as handle:
        handle.write("no json\n")
        handle.write('{"op": "softmax", "rows": 8, "cols": 8, "latency_us": NaN}\n')
        handle.write('{"op": "all_reduce", "bytes": 1000000, "world": 8, "latency_us": 50}\n')
    records = accuracy.own_operators(measured, "h100-sxm5-80gb").document["records"]
    assert [record["row"] for record in records] == [
        "r0", "r1", "own.jsonl:3", "own.jsonl:4", "own.jsonl:5", "own.jsonl:6", "own.jsonl:7",
    ]  # fmt: skip
    assert ["refused" in record for record in records] == [False] * 2 + [True] * 5
    assert "dgx-h100" in records[6]["refused"]
    on_node = accuracy.own_operators(measured, "dgx-h100").document["records"]
    assert on_node[6]["predicted_us"] > 0
    with pytest.raises(SpecError, match="h100-sxm5-81gb"):
        accuracy.own_operators(measured, "h100-sxm5-81gb")


def test_a_table_of_the_harness_is_scored_as_it_is(tmp_path):
    path = tmp_path / "ops.csv"
    path.write_text(
        "family,op,kind,dtype,tokens,experts,top_k,bytes,pinned,rows,cols,m,n,k,density,latency_us\n"
        "topk,topk,,fp32,4096,64,2,,,,,,,,,9\n"
        "memcpy,memcpy,d2d,,,,,100000000,,,,,,,,80\n"
        "memcpy,memcpy,h2d,,,,,100000000,false,,,,,,,9000\n"
        "chain,chain,silu_mul,bf16,,,,,,4096,4096,,,,,40\n"
        "spmm,spmm,csr,fp32,,,,,,,,4096,64,4096,0.01,60\n"
        "spmm,spmm,csr,fp32,,,,,,,,4096,64,,0.01,60\n"
        "host,host,eager_add,,,,,,,,,,,,,5\n"
        "softmax,softmax,,bf16\n"
    )
    part = accuracy.own_operators(path, "h100-sxm5-80gb")
    records = part.document["records"]
    assert [record["row"] for record in records] == [f"ops.csv:{line}" for line in range(2, 10)]
    refused = [line for line, record in enumerate(records, start=2) if "refused" in record]
    assert refused == [4, 7, 8, 9]
    assert "pageable" in records[2]["refused"]
    assert "no k" in records[5]["refused"]
    assert all(record["predicted_us"] > 0 for record in records if "refused" not in record)


def test_a_page_shows_its_scatter_below_the_first_paragraph(tmp_path):
    part = accuracy.Part("own", {}, "# Own\n\nFirst.\n\nMore.\n\nEnd.", {"a": [1.0]}, {"a": [1.1]})
    write_part(part, tmp_path)
    picture = "![Predicted against measured step times](own.svg)"
    assert (tmp_path / "own.md").read_text().split("\n\n")[:4] == [
        "# Own", "First.", picture, "More.",
    ]  # fmt: skip
    assert (tmp_path / "own.svg").is_file()


def test_missing_files_are_errors(tmp_path):
    with pytest.raises(WorkloadError, match="no such file"):
        accuracy.own_operators(tmp_path / "none.jsonl", "h100-sxm5-80gb")


def test_the_later_draws_share_no_operator_with_the_fits(monkeypatch):
    from perfmodel.calibrate import load_measurements

    folder = accuracy.data_folder()
    taught = cache(accuracy._taught)  # 150,000 rows a chip, which take seconds to read
    monkeypatch.setattr(accuracy, "_taught", taught)
    part = accuracy.unseen_operators(folder)
    seen = set()
    for chip in ("h100-sxm5-80gb", "h200-sxm-141gb"):
        found = taught(folder / "measurements" / chip, chip)
        assert len(found) > 40_000
        seen |= found
    taken = sorted(path for path in (folder / "held_out").glob("draw-*/*") if path.is_dir())
    assert {path.name for path in taken} == {"h100-sxm5-80gb", "h200-sxm-141gb"}
    for chip, families in part.document["all draws"].items():
        draws = [part.document[path.parent.name][chip] for path in taken if path.name == chip]
        together = sum(draw["all"]["count"] for draw in draws)
        assert sum(row["count"] for row in families.values()) == together
        assert families["gemm"]["count"] > 50
    for path in taken:
        rows = load_measurements(path, path.name).rows
        fresh = [row for row in rows if row.key not in seen]
        table = dict(part.document[path.parent.name][path.name])
        everything = table.pop("all")
        assert everything["count"] == sum(row["count"] for row in table.values()) == len(fresh)
        assert everything["count"] > 10
        assert everything["under_bound"] == 0
        assert f"| {path.name}, {path.parent.name} | {len(fresh)} |" in part.markdown


def test_collectives_are_scored_on_the_later_draw_too():
    part = accuracy.collectives_part(accuracy.data_folder())
    drawn = {row["name"]: row for row in part.document["Sizes drawn later, 2 H200"]}
    assert drawn["all operations"]["rows"] > 100
    assert drawn["without p2p"]["mape"] < drawn["all operations"]["mape"] < 0.1
    assert "beside compute" in part.markdown


@pytest.mark.slow
def test_models_are_scored_on_those_that_no_fit_read():
    part = accuracy.models_part(accuracy.data_folder().parent)
    rows = part.document["h100-sxm5-80gb"]
    # Of its ten thousands of nodes only one recording is kept.
    assert {row["case"].split("/")[1] for row in rows if row["refused"]} == {"mamba_130m"}
    held = [
        row
        for chip in part.document.values()
        for row in chip
        if row["split"] == "report" and not row["refused"] and not row["superseded"]
    ]
    assert sum(map(len, part.measured.values())) == len(held) > 100
