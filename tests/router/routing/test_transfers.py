from __future__ import annotations

from itertools import product

import pytest

from segue.router.metrics import catalogue
from segue.router.metrics.link_rates import link_messages, link_readings
from segue.router.rates.transfers import TransferMeter

MIB = 1 << 20


def meter_of(slow: float = 1.0) -> TransferMeter:
    meter = TransferMeter()
    for size in [1, 4, 16, 64] * 10:
        for pair in product(("p-0", "p-1", "p-2", "p-3"), ("d-0", "d-1", "d-2")):
            factor = slow if pair == ("p-1", "d-1") else 1.0
            meter.measured(*pair, size * MIB, factor * (0.002 + size * 0.001))
    return meter


def test_equal_links_have_one_rate_whatever_their_noise() -> None:
    links = meter_of(slow=1.2).links
    assert not links.own
    assert links.between("p-0", "d-0") == links.between("p-9", "d-9")


def test_a_slow_link_is_known_by_itself() -> None:
    links = meter_of(slow=5.0).links
    assert set(links.own) == {("p-1", "d-1")}
    assert links.between("p-1", "d-1")(64 * MIB) == pytest.approx(0.33, rel=0.05)


def test_a_worker_that_is_gone_takes_its_links_along() -> None:
    meter = meter_of(slow=5.0)
    meter.forget("d-1")
    assert not meter.links.own
    assert meter.links.common


def test_without_measurements_a_transfer_takes_no_time_that_is_known() -> None:
    assert TransferMeter().links.between("p", "d")(MIB) == 0.0


def test_pairs_that_differ_are_told_before_those_that_are_used_most() -> None:
    meter = meter_of(slow=5.0)
    meter.measured("p-3", "d-2", MIB, 0.003)
    meter.measured("p-9", "d-9", 0, 0.001)  # Nothing was moved: nothing is known.
    assert meter.pairs(2) == [("p-1", "d-1"), ("p-3", "d-2")]
    assert len(meter.pairs(100)) == 12
    common, slow, *others = link_messages(meter)
    assert (common.prefill_worker, common.differs, common.transfers) == ("", False, 481)
    assert (slow.prefill_worker, slow.decode_worker, slow.differs) == ("p-1", "d-1", True)
    assert slow.bytes_per_s == pytest.approx(MIB / 0.005, rel=0.05)
    assert not any(link.differs for link in others)


def test_links_are_readings_of_the_pairs_that_are_measured() -> None:
    assert all(not reading for reading in link_readings(link_messages(TransferMeter())).values())
    readings = link_readings(link_messages(meter_of(slow=5.0)))
    assert readings[catalogue.LINKS_RATE].keys() == {()}
    assert readings[catalogue.LINK_DIFFERS]["p-1", "d-1"] == 1.0
    assert sum(readings[catalogue.LINK_DIFFERS].values()) == 1.0
    assert readings[catalogue.LINK_RATE]["p-0", "d-0"] == pytest.approx(MIB / 0.001, rel=0.05)
    assert len(readings[catalogue.LINK_FIXED]) == 12
