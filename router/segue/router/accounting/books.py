"""Prices and the usage log, as the router process has them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from segue.router.accounting.prices import PriceTable, load_prices
from segue.router.accounting.usage_log import UsageLog
from segue.router.lifecycle.dispatcher import Dispatcher
from segue.router.lifecycle.records import Observers
from segue.router.settings import RouterSettings


@dataclass(frozen=True)
class Books:
    """None: not kept."""

    prices: PriceTable | None
    usage_log: UsageLog | None

    def keep(self, dispatcher: Dispatcher) -> None:
        """Of what this dispatcher runs, beside whoever observes it already."""
        dispatcher.around.prices = self.prices
        if self.usage_log is not None:
            dispatcher.around.observer = Observers((dispatcher.around.observer, self.usage_log))


@contextmanager
def open_books(settings: RouterSettings) -> Iterator[Books]:
    """On the event loop. At the end, all that was logged is written.

    Raises:
        SettingsError: a price table or usage log that can't be used.
    """
    prices = None if settings.prices_file is None else load_prices(settings.prices_file)
    if settings.usage_log is None:
        yield Books(prices, None)
        return
    log = UsageLog(settings.usage_log)
    loop = asyncio.get_running_loop()
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, log.reopen)
    try:
        yield Books(prices, log)
    finally:
        log.close()
