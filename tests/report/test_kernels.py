"""Pictures of calibrated kernels draw every operator, in one colour a group."""

from perfmodel.calibrate.store import HELD_OUT, read_records
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.report.kernels import GROUPS, REST, _group, kernel_figures
from perfmodel.workload.op import FAMILIES


def test_kernels_and_their_families_fall_into_the_same_group():
    records = read_records(efficiency_folder() / "h200-sxm-141gb" / HELD_OUT)
    assert {_group(family) for family in FAMILIES} == {*GROUPS, REST}
    for record in records:
        assert _group(record.kernel) == _group(record.op), record.kernel


def test_every_record_is_drawn(tmp_path):
    records = read_records(efficiency_folder() / "h200-sxm-141gb" / HELD_OUT)[::50]
    paths = kernel_figures(records, "chip", tmp_path)
    assert [path.name for path in paths] == ["chip-predicted.svg", "chip-error.svg"]
