from __future__ import annotations

from segue.router.rates.lines import Line
from segue.router.rates.pooled_rates import Kind, pool_rates, settle
from segue.router.rates.worker_rates import UNMEASURED, Rates

KIND = Kind(1, "H100", "vllm", "1")


def rates(each_s: float, samples: int = 9) -> Rates:
    return Rates(prefill=Line(0.0, each_s, samples))


def settled(*each: Rates) -> list[float]:
    usual = pool_rates((KIND, one) for one in each)[KIND]
    return [settle(one, usual).prefill.each_s for one in each]


def test_noise_makes_no_difference_between_equals() -> None:
    assert len(set(settled(rates(1.0e-4), rates(1.1e-4), rates(0.9e-4)))) == 1


def test_one_that_stands_out_counts_by_itself() -> None:
    assert settled(rates(1e-4), rates(5e-4), rates(1e-4)) == [1e-4, 5e-4, 1e-4]
    assert settled(rates(1e-4), rates(5e-4)) == [1e-4, 5e-4]


def test_a_new_one_is_expected_to_be_as_its_kind_is() -> None:
    assert settled(rates(1e-4), UNMEASURED) == [1e-4, 1e-4]
    assert settled(rates(1e-4), rates(9e-4, samples=2), rates(1e-4)) == [1e-4] * 3


def test_kinds_don_t_mix() -> None:
    other = Kind(1, "L40S", "vllm", "1")
    pooled = pool_rates([(KIND, rates(1e-4)), (other, rates(4e-4))])
    assert pooled[KIND].prefill.each_s == 1e-4
    assert pooled[other].prefill.each_s == 4e-4
