"""A look at the fleet as tables. Pure: a message in, something rich draws out."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from segue.cli.columns import WIDE_COLUMNS, Column, table_of
from segue.cli.fleet_cells import is_well, kv_used, pool_text, quantile_text, ready_text, role_name, state_text, work_of
from segue.cli.scaling_screen import is_scaled, scaling_lines, scaling_table
from segue.cli.units import bar, byte_rate, count, duration, per_second, ratio
from segue.proto.fleet_pb2 import FleetClass, FleetLink, FleetPool, FleetState, FleetWorker
from segue.proto.pools_pb2 import PoolsState

# Head, foot, and the titles, heads, rules and spaces of three tables, with two pools and the sum over classes.
_OTHER_LINES = 18

_POOL: tuple[Column[FleetPool], ...] = (
    Column("pool", lambda pool: role_name(pool.role), words=True),
    Column("ready", ready_text),
    Column("draining", lambda pool: count(pool.draining), wide=True),
    Column("running", lambda pool: count(pool.running_requests)),
    Column("waiting", lambda pool: count(pool.waiting_requests)),
    Column("waiting tokens", lambda pool: count(pool.waiting_tokens)),
    Column("KV use", lambda pool: bar(kv_used(pool.kv_blocks, pool.free_blocks))),
)
_CLASS: tuple[Column[FleetClass], ...] = (
    Column("class", lambda one: one.name, words=True),
    Column("running", lambda one: count(one.running_requests)),
    Column("queued", lambda one: count(one.queued_requests), wide=True),
    Column("req/s", lambda one: per_second(one.rates.requests_per_s)),
    Column("failed/s", lambda one: per_second(one.rates.failed_per_s), wide=True),
    Column("refused/s", lambda one: per_second(one.rates.refused_per_s)),
    Column("tok/s", lambda one: per_second(one.rates.output_tokens_per_s)),
    Column("prompt tok/s", lambda one: per_second(one.rates.prompt_tokens_per_s), wide=True),
    Column("hits", lambda one: ratio(one.rates.cached_prompt_tokens_per_s, one.rates.prompt_tokens_per_s), wide=True),
    Column("TTFT p50", lambda one: quantile_text(one.rates.ttft_s, "p50")),
    Column("p99", lambda one: quantile_text(one.rates.ttft_s, "p99")),
    Column("ITL p50", lambda one: quantile_text(one.rates.itl_s, "p50"), wide=True),
    Column("ITL p99", lambda one: quantile_text(one.rates.itl_s, "p99")),
    Column("SLO", lambda one: f"{one.rates.slo_attainment:.0%}" if one.rates.HasField("slo_attainment") else ""),
)
_WORKER: tuple[Column[FleetWorker], ...] = (
    Column("worker", lambda worker: worker.worker_id, words=True),
    Column("pool", pool_text, words=True),
    Column("state", state_text, words=True),
    Column("running", lambda worker: count(worker.load.running_requests)),
    Column("waiting", lambda worker: count(worker.load.waiting_requests)),
    Column("ours", lambda worker: count(worker.assigned_requests), wide=True),
    Column("KV use", lambda worker: bar(kv_used(worker.facts.kv_blocks, worker.load.free_blocks))),
    Column("offers", lambda worker: count(worker.load.held_offers), wide=True),
    Column("prefill tok/s", lambda worker: per_second(worker.prefill_tokens_per_s), wide=True),
    Column("step", lambda worker: duration(worker.load.step_s) if worker.load.step_s else ""),
    Column("heard", lambda worker: duration(worker.heard_s_ago), wide=True),
    Column("Segue", lambda worker: worker.version, words=True, wide=True),
    Column("engine", lambda worker: f"{worker.facts.engine} {worker.facts.accelerator}".strip(), words=True, wide=True),
)
_LINK: tuple[Column[FleetLink], ...] = (
    Column("from", lambda link: link.prefill_worker or "any", words=True),
    Column("to", lambda link: link.decode_worker or "any", words=True),
    Column("rate", lambda link: byte_rate(link.bytes_per_s)),
    Column("latency", lambda link: duration(link.fixed_s)),
    Column("transfers", lambda link: count(link.transfers)),
)
_MOST_LINKS = 10


def problems(state: FleetState) -> list[str]:
    """What keeps this router from serving as it should."""
    found = [f"the {role_name(pool.role)} pool has no ready worker" for pool in state.pools if not pool.ready]
    if state.draining:
        found.append(f"router {state.router_id} is draining")
    return found


def status_screen(state: FleetState, width: int) -> RenderableType:
    """Everything, for a look once."""
    wide = width >= WIDE_COLUMNS
    workers = sorted(state.workers, key=lambda worker: (worker.role, worker.worker_id))
    shown: list[RenderableType] = [*_summary(state, wide=wide), table_of("workers", _WORKER, workers, wide=wide)]
    # What all pairs have in common, and those that differ from it.
    links = [link for link in state.links if link.differs or not link.prefill_worker]
    if links:
        shown += [Text(), table_of("KV transfer between workers", _LINK, links[:_MOST_LINKS], wide=wide)]
    return Group(_head(state), *shown)


def top_screen(state: FleetState, width: int, height: int, pools: PoolsState | None = None) -> RenderableType:
    """The same for a terminal of so many characters and lines: unwell and busy workers come first, and those that
    don't fit are counted. ``pools``: as whoever manages them tells, for what the scaling policy does."""
    wide = width >= WIDE_COLUMNS
    scaling: list[RenderableType] = []
    room = height - _OTHER_LINES - len(state.classes)
    if pools is not None and is_scaled(pools):
        scaling = [scaling_table(pools, one_line=True), Text()]
        room -= scaling_lines(pools) + 1
    room = max(3, room)
    workers = sorted(state.workers, key=_urgency)
    shown = workers if len(workers) <= room else workers[: room - 1]
    foot = Text("q or Ctrl-C leaves", style="dim")
    if left_out := len(workers) - len(shown):
        foot = Text(f"and {left_out} more workers; ", style="dim").append(foot)
    workers_table = table_of("workers", _WORKER, shown, wide=wide)
    return Group(_head(state), *_summary(state, wide=wide), *scaling, workers_table, foot)


def _urgency(worker: FleetWorker) -> tuple[bool, int, int, str]:
    return is_well(worker), -work_of(worker), worker.role, worker.worker_id


def _head(state: FleetState) -> RenderableType:
    words = Text.assemble(
        (state.model, "bold"),
        f"  router {state.router_id}, Segue {state.version}, up {duration(state.uptime_s)}",
        f"  last {state.window_s:.0f} s  KV transfer {byte_rate(state.rates.transfer_bytes_per_s)}",
        f"  event loop late by {duration(state.event_loop_lag_s)} at most",
    )
    if any(worker.facts.simulated for worker in state.workers):
        words.append("  simulated", style="bold magenta")
    if state.draining:
        words.append("  draining", style="bold yellow")
    return words


def _summary(state: FleetState, *, wide: bool) -> Iterable[RenderableType]:
    everything = FleetClass(
        name="all",
        queued_requests=state.queued_requests,
        running_requests=state.running_requests,
        rates=state.rates,
    )
    yield Text()
    yield table_of("pools", _POOL, state.pools, wide=wide)
    yield Text()
    yield table_of("requests", _CLASS, [*state.classes, everything], wide=wide)
    yield Text()
