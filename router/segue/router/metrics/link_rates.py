"""How fast KV caches travel between which workers, as messages and as metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from segue.base.metrics import Metric, Reading
from segue.proto.fleet_pb2 import FleetLink
from segue.router.metrics import catalogue
from segue.router.rates.lines import Line
from segue.router.rates.transfers import TransferMeter

# A hundred workers in each pool are ten thousand pairs, and a series for each is more than anybody looks at.
MOST_PAIRS = 256


def link_messages(transfers: TransferMeter) -> Iterator[FleetLink]:
    """Over all pairs, then of single ones; nothing before the first transfer."""
    links = transfers.links
    if links.common:
        yield _message(("", ""), links.common)
    for pair in transfers.pairs(MOST_PAIRS):
        yield _message(pair, transfers.line(pair), differs=pair in links.own)


def link_readings(links: Iterable[FleetLink]) -> Mapping[Metric, Reading]:
    """The same as readings."""
    common: dict[tuple[str, ...], float] = {}
    rates: dict[tuple[str, ...], float] = {}
    fixed: dict[tuple[str, ...], float] = {}
    differ: dict[tuple[str, ...], float] = {}
    for link in links:
        pair = (link.prefill_worker, link.decode_worker)
        if not any(pair):
            common[()] = link.bytes_per_s
            continue
        rates[pair], fixed[pair], differ[pair] = link.bytes_per_s, link.fixed_s, float(link.differs)
    return {
        catalogue.LINKS_RATE: common,
        catalogue.LINK_RATE: rates,
        catalogue.LINK_FIXED: fixed,
        catalogue.LINK_DIFFERS: differ,
    }


def _message(pair: tuple[str, str], line: Line, *, differs: bool = False) -> FleetLink:
    return FleetLink(
        prefill_worker=pair[0],
        decode_worker=pair[1],
        bytes_per_s=1.0 / line.each_s,  # What was measured has a part for each byte.
        fixed_s=line.fixed_s,
        transfers=line.samples,
        differs=differs,
    )
