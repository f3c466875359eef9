"""What generations of a link have in common, and what a generation nobody measured is given."""

import numpy as np
import pytest

from perfmodel.calibrate.network_family import SOURCE_START, adapt, fit_common
from perfmodel.calibrate.network_fit import Shape, build_link, predict_rows
from perfmodel.calibrate.network_rows import as_rows
from perfmodel.hardware import load
from perfmodel.network import collective_seconds
from perfmodel.network.coefficients import (
    Way,
    fitted,
    from_dict,
    has_multicast,
    tier_coefficients,
    to_dict,
)
from perfmodel.network.placement import Reach

RATE = 400e9


def made(start_up=6e-6, step=1e-6):
    values = {name: start for name, (start, _, _) in SOURCE_START.items()}
    values |= {"ll.base": start_up, "ll.step": step}
    shape = Shape(SOURCE_START)
    return build_link("made", values, np.log(list(values.values())), shape, ("made",))


def test_adapting_moves_start_up_of_every_protocol_by_as_much():
    link = made()
    slow = adapt(link, 2.0, 3.0)
    for name in ("ll", "ll128", "simple"):
        assert slow.ways[name].base - link.ways[name].base == pytest.approx(6e-6)
        assert slow.ways[name].step - link.ways[name].step == pytest.approx(2e-6)
    assert slow.ways["in_network"] == link.ways["in_network"]
    assert adapt(link, 1.0, 1.0) == link


def test_one_peer_is_sent_at_its_own_rate_whatever_the_wire():
    way = Way(0.0, 0.0, 0.9, peer_rate=100e9)
    size = np.array([1e9])
    assert way.moving(size, size, np.array([900e9]), np.array([1.0])) == pytest.approx(0.01)
    assert way.moving(size, size, np.array([900e9]), np.array([4.0])) == pytest.approx(1 / 400)
    assert way.moving(size, size, np.array([90e9]), np.array([4.0])) == pytest.approx(1 / 81)


def test_the_mean_of_generations_and_of_cards_on_other_links():
    """Two made generations start in 4 and 9 us, a card of a third in 6: 6 us for a fourth."""
    records = []
    for name in ("old", "new"):
        for ranks in (2, 4, 8):
            size = 2.0 ** np.arange(10, 29, 3)
            records += [
                {
                    "op": "all_gather", "size": n, "ranks": ranks, "local": ranks, "seconds": 1.0,
                    "node": "made", "source": "made", "hardware": name, "forced": "", "held": False,
                }
                for n in size
            ]  # fmt: skip
    rows = as_rows(records, "made")
    reach = Reach(np.full(len(rows), RATE), np.full(len(rows), np.inf))
    for name, start_up in (("old", 4e-6), ("new", 9e-6)):
        mask = rows.hardware == name
        mine = Reach(reach.bandwidth_in[mask], reach.bandwidth_out[mask])
        rows.seconds[mask] = predict_rows(rows.where(mask), mine, made(start_up), None)
    found = fit_common("made", rows, reach, rows.hardware, {"third": [6e-6]}, ("made",), None)
    assert found.ways["ll"].base == pytest.approx((4e-6 * 9e-6 * 6e-6) ** (1 / 3), rel=0.05)
    assert found.ways["ll"].step == pytest.approx(1e-6, rel=0.1)
    assert not found.fitted
    assert found.correction is None
    assert found.spread > 0.1


@pytest.mark.parametrize(
    ("link", "there"),
    [
        ("nvlink3", False),
        ("nvlink4", True),
        ("nvlink5", True),
        ("nvlink10", True),
        ("pcie5", False),
    ],
)
def test_switches_add_from_the_fourth_nvlink_on(link, there):
    assert has_multicast(link) is there


def test_an_old_nvlink_is_given_the_family_without_its_switch():
    node = load("dgx-2")
    link = tier_coefficients(node, node.tiers[0])
    assert link.key == "nccl-nvlink"
    assert link.in_network_from is None
    assert fitted("nccl-nvlink").in_network_from is not None
    assert from_dict(to_dict(link)) == link


def test_dispatch_is_direct_inside_and_quicker_between_nodes():
    cluster = load("dgx-h100", nodes=4)
    size = 2.0 ** np.arange(12, 32)
    for world in (8, 32):
        plain = collective_seconds("all_to_all", size, world, cluster, ranks_per_node=8)
        quick = collective_seconds(
            "all_to_all", size, world, cluster, ranks_per_node=8, algorithm="dispatch"
        )
        assert (quick <= plain).all()
        assert (quick == plain).all() == (world == 8)
    assert quick[-1] < 0.6 * plain[-1]
