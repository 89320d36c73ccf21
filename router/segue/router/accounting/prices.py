"""The price table: what a million tokens cost, by model. Pure but for :func:`load_prices`.

    currency = "EUR"
    [default]                  # per million tokens
    input = 0.50
    cached = 0.05
    output = 1.50
    [models."llama-3.1-8b"]    # instead of the default's, where given
    output = 0.60

JSON of the same shape is taken too.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from segue.base.errors import SettingsError
from segue.proto.inference_pb2 import Cost, Usage

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens: of the prompt and computed, of the prompt and cached, of the answer."""

    input: float = 0.0
    cached: float = 0.0
    output: float = 0.0


@dataclass(frozen=True, slots=True)
class PriceTable:
    currency: str
    default: Price
    models: Mapping[str, Price]

    def cost(self, model: str, usage: Usage) -> Cost:
        price = self.models.get(model, self.default)
        cached_tokens = min(usage.cached_prompt_tokens, usage.prompt_tokens)
        cost = Cost(
            currency=self.currency,
            input=(usage.prompt_tokens - cached_tokens) * price.input / _MILLION,
            cached=cached_tokens * price.cached / _MILLION,
            output=usage.output_tokens * price.output / _MILLION,
        )
        cost.total = cost.input + cost.cached + cost.output
        return cost


def load_prices(file: Path) -> PriceTable:
    """Raises SettingsError: a file that can't be read, or that is no price table."""
    try:
        text = file.read_text()
        table = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:  # Both decoders' errors and bad UTF-8 are ValueErrors.
        raise SettingsError(f"can't read the prices in {file}: {error}") from None
    return parse_prices(table, str(file))


def parse_prices(table: Any, source: str) -> PriceTable:
    """``source`` names it in errors. Raises SettingsError."""
    _check_names(table, ("currency", "default", "models"), source)
    currency = table.get("currency")
    if not isinstance(currency, str) or not 1 <= len(currency) <= 16:
        raise SettingsError(f'{source}: currency is {currency!r}; write its name, such as currency = "EUR"')
    default = _price(table.get("default", {}), Price(), f"{source}, default")
    models = table.get("models", {})
    if not isinstance(models, dict):
        raise SettingsError(f"{source}: models must hold a price for each model's name")
    return PriceTable(
        currency, default, {name: _price(one, default, f"{source}, models.{name}") for name, one in models.items()}
    )


def _price(given: Any, default: Price, where: str) -> Price:
    known = tuple(field.name for field in fields(Price))
    _check_names(given, known, where)
    figures = {name: getattr(default, name) for name in known} | given
    for name, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
            raise SettingsError(f"{where}: {name} is {value!r}; it must be a number of 0 or more, per million tokens")
    return Price(**figures)


def _check_names(given: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(given, dict):
        raise SettingsError(f"{where}: {given!r} is no table; it may hold {', '.join(known)}")
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"{where}: {name!r} is not known; {hint}")
