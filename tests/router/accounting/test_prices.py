"""Prices: by model, input, cached and output apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segue.base.errors import SettingsError
from segue.proto.inference_pb2 import Usage
from segue.router.accounting.prices import load_prices, parse_prices

TABLE = {
    "currency": "EUR",
    "default": {"input": 1.0, "cached": 0.1, "output": 2.0},
    "models": {"large": {"output": 20.0}},
}


def test_cached_tokens_of_the_prompt_have_a_price_of_their_own() -> None:
    cost = parse_prices(TABLE, "t").cost(
        "small", Usage(prompt_tokens=1_000_000, cached_prompt_tokens=400_000, output_tokens=500_000)
    )
    assert cost.currency == "EUR"
    assert (cost.input, cost.cached, cost.output) == pytest.approx((0.6, 0.04, 1.0))
    assert cost.total == pytest.approx(1.64)


def test_a_model_has_the_defaults_where_it_has_no_price_of_its_own() -> None:
    cost = parse_prices(TABLE, "t").cost("large", Usage(prompt_tokens=1_000_000, output_tokens=1_000_000))
    assert (cost.input, cost.output) == pytest.approx((1.0, 20.0))


def test_toml_and_json_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(TABLE))
    (tmp_path / "p.toml").write_text(
        'currency = "EUR"\n[default]\ninput = 1.0\ncached = 0.1\noutput = 2\n[models.large]\noutput = 20.0\n'
    )
    assert load_prices(tmp_path / "p.json") == load_prices(tmp_path / "p.toml")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"currency": "EUR", "defaults": {}}, "did you mean default"),
        ({}, "currency is None"),
        ({"currency": "EUR", "default": {"input": -1}}, "0 or more"),
        ({"currency": "EUR", "default": {"input": "1"}}, "0 or more"),
        ({"currency": "EUR", "default": {"inputs": 1}}, "did you mean input"),
        ({"currency": "EUR", "models": {"m": 3}}, "is no table"),
        ([], "is no table"),
    ],
)
def test_a_table_that_is_none_stops_the_start(table: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_prices(table, "prices")


def test_a_file_that_cant_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("currency = ")
    for name in ("none.toml", "broken.toml"):
        with pytest.raises(SettingsError, match=f"can't read the prices in .*{name}"):
            load_prices(tmp_path / name)
