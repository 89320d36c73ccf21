"""What is asked of a whole run, and the form it is written in."""

import json

from comparison.figures import Figures, Measurement
from comparison.load import Sample
from comparison.report import as_json
from comparison.results import SEGUE, STOCK, Results, Run


def _run(stack: str, round_: int, tokens_per_s: float, texts: tuple[str, ...]) -> Run:
    measurement = Measurement(
        stack=stack,
        round=round_,
        concurrency=4,
        figures=Figures(tokens_per_s, 10.0, 20.0, 5.0, 6.0),
        requests=len(texts),
        failures=0,
        prompt_tokens=2,
        output_tokens=2,
        chunks=2,
        wall_s=1.0,
        paths={},
        other_cpu_cores=0.0,
    )
    samples = tuple(Sample(f"prompt {n}", text, (0.1,), 1, 1) for n, text in enumerate(texts))
    return Run(measurement, samples)


def _results(*runs: Run) -> Results:
    return Results(runs, machine={}, settings={}, measured_at="2026-01-01T00:00:00+00:00")


def test_texts_are_compared_within_a_round_and_with_the_first_round() -> None:
    results = _results(
        _run(STOCK, 1, 100, ("a", "b")),
        _run(SEGUE, 1, 200, ("a", "b")),
        _run(STOCK, 2, 100, ("a", "x")),
        _run(SEGUE, 2, 200, ("a", "b")),
    )
    assert (results.same_text(4).compared, results.same_text(4).same) == (4, 3)
    assert (results.repeated_text(STOCK, 4).compared, results.repeated_text(STOCK, 4).same) == (2, 1)
    assert (results.repeated_text(SEGUE, 4).compared, results.repeated_text(SEGUE, 4).same) == (2, 2)


def test_one_stack_alone_gives_figures_without_ratios() -> None:
    summary = as_json(_results(_run(STOCK, 1, 100, ("a",))))["summary"][0]
    assert summary["median"][STOCK]["tokens_per_s"] == 100
    assert summary["segue_over_stock"] == {}
    assert summary["same_text"] == {"compared": 0, "same": 0, "same_but_cut_character": 0}


def test_the_json_holds_every_measurement_and_no_text() -> None:
    written = json.dumps(as_json(_results(_run(STOCK, 1, 100, ("secret",)), _run(SEGUE, 1, 150, ("secret",)))))
    read = json.loads(written)
    assert [m["stack"] for m in read["measurements"]] == [STOCK, SEGUE]
    assert read["summary"][0]["segue_over_stock"]["tokens_per_s"]["median"] == 1.5
    assert "secret" not in written
