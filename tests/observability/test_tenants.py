"""What a tenant has used: `/metrics`, the usage log and the answers' last messages say the same."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import grpc.aio
import pytest

from segue.base.metrics import Exposition
from segue.proto.inference_pb2 import GenerateRequest, GenerateResponse, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import Role
from segue.router.accounting.prices import parse_prices
from segue.router.accounting.usage_log import UsageLog
from segue.router.lifecycle.records import Observers
from segue.router.metrics.observer import RouterMetrics
from segue.router.metrics.tenants import Tenants
from segue.router.queueing.slo import DEFAULT_CLASSES
from tests.observability.test_router_metrics import Scraped, record
from tests.router.core.scripted import Router, until

PRICES = {"currency": "EUR", "default": {"input": 1e6, "cached": 1e5, "output": 2e6}}
TOKENS = {"prompt": "prompt_tokens", "cached_prompt": "cached_prompt_tokens", "output": "output_tokens"}
SECONDS = {"prefill": "prefill_s", "transfer": "transfer_s", "decode": "decode_s"}
COST = ("input", "cached", "output")

Figures = dict[str, float]


def of_answer(answer: GenerateResponse) -> Figures:
    return {
        **{name: getattr(answer.usage, field) for name, field in TOKENS.items()},
        **{part: getattr(answer.timings, field) for part, field in SECONDS.items()},
        **{f"{part} EUR": getattr(answer.cost, part) for part in COST},
    }


def of_line(line: dict[str, object]) -> Figures:
    cost = line["cost"]
    assert isinstance(cost, dict)
    fields = {**TOKENS, **SECONDS}
    return {
        **{name: float(str(line[field])) for name, field in fields.items()},
        **{f"{part} EUR": cost[part] for part in COST},
    }


def of_metrics(seen: Scraped, tenant: str) -> Figures:
    figures = {
        **{name: seen(f"segue_{name}_tokens_total", tenant=tenant) for name in TOKENS},
        **{part: seen("segue_tenant_seconds_total", tenant=tenant, part=part) for part in SECONDS},
        **{f"{part} EUR": seen("segue_cost_total", tenant=tenant, currency="EUR", part=part) for part in COST},
    }
    return {name: value for name, value in figures.items() if value is not None}


async def test_metrics_usage_log_and_last_messages_agree(router: Router, tmp_path: Path) -> None:
    exposition, log = Exposition(), UsageLog(tmp_path / "usage.jsonl")
    router.dispatcher.around.prices = parse_prices(PRICES, "the test")
    router.dispatcher.around.observer = Observers((RouterMetrics(exposition, DEFAULT_CLASSES), log))
    await router.attach("decode-0", Role.ROLE_DECODE)
    told: dict[str, Figures] = defaultdict(lambda: defaultdict(float))

    async def ask(stub: InferenceStub, tenant: str, prompt_tokens: int) -> GenerateResponse:
        sampling = SamplingParams(max_tokens=4)
        tokens = TokenIds(ids=range(5, 5 + prompt_tokens))
        asked = GenerateRequest(token_ids=tokens, sampling=sampling, tenant=tenant, model="tiny")
        answer: GenerateResponse = [one async for one in stub.Generate(asked)][-1]  # type: ignore[attr-defined]
        for name, value in of_answer(answer).items():
            told[tenant][name] += value
        return answer

    async with grpc.aio.insecure_channel(router.address) as channel:
        stub = InferenceStub(channel)
        alone = await ask(stub, "alice", 6)  # Decode computes it: there is nobody else.
        await router.attach("prefill-0", Role.ROLE_PREFILL)
        for tenant, prompt_tokens in (("alice", 8), ("bob", 10), ("bob", 40)):
            handed_off = await ask(stub, tenant, prompt_tokens)
    await until(lambda: router.dispatcher.running_requests == 0)
    log.close()

    assert (alone.timings.prefill_worker, handed_off.timings.prefill_worker) == ("", "prefill-0")
    logged: dict[str, Figures] = defaultdict(lambda: defaultdict(float))
    for line in map(json.loads, (tmp_path / "usage.jsonl").read_text().splitlines()):
        for name, value in of_line(line).items():
            logged[line["tenant"]][name] += value
    seen = Scraped(exposition)
    assert told.keys() == {"alice", "bob"}
    for tenant, figures in told.items():
        assert all(figures.values()), figures
        assert logged[tenant] == pytest.approx(figures, rel=1e-5, abs=1e-5)
        assert of_metrics(seen, tenant) == pytest.approx(figures, rel=1e-5, abs=1e-5)


def test_tenants_that_come_later_share_one_name() -> None:
    tenants = Tenants(most=1)
    for tenant in ("a", "b", "c", "a", "other"):
        tenants.count(record(tenant=tenant, prefill_s=0.5, transfer_s=0.25, decode_s=2.0))
    read = {metric.name: reading for metric, reading in tenants.readings().items()}
    assert read["segue_tenant_requests_total"] == {("a",): 2, ("other",): 3}
    assert read["segue_tenant_seconds_total"] == {
        ("a", "prefill"): 1.0, ("a", "transfer"): 0.5, ("a", "decode"): 4.0,
        ("other", "prefill"): 1.5, ("other", "transfer"): 0.75, ("other", "decode"): 6.0,
    }  # fmt: skip
    assert read["segue_cost_total"]["other", "EUR", "output"] == 3.0
