"""What vLLM is told, by settings and platform. vLLM's own EngineArgs are real; no engine starts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import zmq
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.utils import zmq_ctx

from segue.base.errors import SettingsError
from segue.engine import vllm_config
from segue.engine.settings import EngineSettings
from segue.engine.vllm_config import (
    KvPort,
    apply_environment,
    connector_config,
    cpu_computes_bfloat16,
    engine_arguments,
    hold_side_channel,
    most_running,
    resolve,
    vllm_environment,
)
from segue.kv_transfer.connector_config import ConnectorConfig
from segue.kv_transfer.grpc_server import KvTransferService, serve_kv_transfer
from segue.kv_transfer.offers import OfferBook


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


@pytest.fixture(params=["cpu", "cuda"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(vllm_config, "has_cuda", lambda: request.param == "cuda")
    name: str = request.param
    return name


def settings(model: str, role: str = "prefill", transport: str = "grpc", **fields: Any) -> EngineSettings:
    return EngineSettings(
        model=model,
        role=role,
        transport=transport,
        worker_id="w-0",
        epoch="e-1",
        **{"kv_port": 4321, **fields},
    )


def connector(given: EngineSettings) -> ConnectorConfig:
    return connector_config(given, KvPort(given))


def arguments(given: EngineSettings) -> dict[str, Any]:
    return engine_arguments(given, connector(given))


def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_config, "has_cuda", lambda: False)


def test_tickets_name_the_advertised_address_where_there_is_one(model: str) -> None:
    plain = connector(settings(model, role="prefill"))
    assert (plain.address, plain.ticket_address) == ("127.0.0.1:4321", "127.0.0.1:4321")
    behind_nat = connector(settings(model, role="prefill", advertise_kv="kv.example:80"))
    assert (behind_nat.address, behind_nat.ticket_address) == ("127.0.0.1:4321", "kv.example:80")


@pytest.mark.parametrize("transport", ["grpc", "nixl"])
def test_a_port_of_the_systems_choice_is_nobody_elses_while_the_model_loads(model: str, transport: str) -> None:
    given = settings(model, kv_port=0, transport=transport)
    port = KvPort(given)
    config = connector_config(given, port)
    assert config.shared_port
    with socket.socket() as another, pytest.raises(OSError, match="in use"):
        another.bind((given.host, port.number))
    server = serve_kv_transfer(KvTransferService(OfferBook("e-1"), None), config.address, shared_port=True)
    with socket.create_connection((given.host, port.number), timeout=5):
        pass
    server.stop(None)
    port.close()


def test_nixls_side_channel_is_nobody_elses_while_the_model_loads() -> None:
    port = hold_side_channel("127.0.0.1")
    with socket.socket() as another, pytest.raises(OSError, match="in use"):
        another.bind(("127.0.0.1", port))
    with zmq_ctx(zmq.ROUTER, f"tcp://127.0.0.1:{port}") as listener:
        assert not listener.closed
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_port_that_was_asked_for_is_left_for_the_engine_to_bind_alone(model: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        given = settings(model, kv_port=free.getsockname()[1])
    port = KvPort(given)
    assert not connector_config(given, port).shared_port
    with socket.socket() as another:
        another.bind((given.host, port.number))
    port.close()


def test_an_unknown_argument_is_refused_with_the_nearest_name(model: str) -> None:
    with pytest.raises(SettingsError, match="no engine argument 'max_model_length'; did you mean 'max_model_len'"):
        arguments(settings(model, engine_args={"max_model_length": 512}))


def test_an_argument_like_no_other_is_refused_all_the_same(model: str) -> None:
    with pytest.raises(SettingsError, match="no engine argument 'zzzzzz'; see vLLM's EngineArgs"):
        arguments(settings(model, engine_args={"zzzzzz": 1}))


@pytest.mark.parametrize("name", ["model", "kv_transfer_config", "logits_processors", "worker_extension_cls"])
def test_what_the_handoff_stands_on_can_not_be_given(model: str, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name!r} is set by Segue"):
        arguments(settings(model, engine_args={name: "x"}))


@pytest.mark.parametrize("name", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_several_ranks_need_nixl(model: str, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name} 1 \(seen: 2\); use --transport nixl"):
        arguments(settings(model, engine_args={name: 2}))
    assert arguments(settings(model, transport="nixl", engine_args={name: 2}))[name] == 2
    assert arguments(settings(model, engine_args={name: 1}))[name] == 1


@pytest.mark.parametrize(
    ("transport", "role", "kv_role"),
    [
        ("grpc", "prefill", "kv_producer"),
        ("grpc", "decode", "kv_both"),
        ("nixl", "prefill", "kv_producer"),
        ("nixl", "decode", "kv_consumer"),
    ],
)
def test_the_connector_is_the_transports_and_knows_its_role(
    model: str, platform: str, transport: str, role: str, kv_role: str
) -> None:
    given = settings(model, role, transport, lease_s=12.4)
    config = arguments(given)["kv_transfer_config"]
    assert config.kv_connector_module_path == f"segue.kv_transfer.vllm_{transport}"
    assert config.kv_role == kv_role
    assert config.kv_buffer_device == platform
    assert config.kv_load_failure_policy == "recompute"
    ours = config.kv_connector_extra_config["segue"]
    assert (ours["worker_id"], ours["epoch"], ours["lease_s"]) == ("w-0", "e-1", 12.4)
    assert ours["address"] == "127.0.0.1:4321"
    assert config.kv_connector_extra_config.get("kv_lease_duration") == (12 if transport == "nixl" else None)


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_flex_engine_is_the_same_in_whichever_role_it_begins(model: str, platform: str, role: str) -> None:
    given = arguments(settings(model, role, flex=True))
    assert given["kv_transfer_config"].kv_role == "kv_both"
    assert "max_num_seqs" not in given
    assert given["logits_processors"] == arguments(settings(model, "decode"))["logits_processors"]
    assert arguments(settings(model, role, "nixl", flex=True))["kv_transfer_config"].kv_role == "kv_consumer"


def test_on_cpu_a_flex_engine_computes_one_prompt_at_a_time_while_it_is_for_prefill(platform: str) -> None:
    assert most_running("prefill", 256) == (1 if platform == "cpu" else 256)
    assert most_running("decode", 256) == 256


@pytest.mark.parametrize(("speculative", "processors"), [(None, 1), ({"method": "ngram"}, 0)])
def test_decode_can_force_tokens_unless_it_speculates(model: str, speculative: Any, processors: int) -> None:
    args = {"speculative_config": speculative} if speculative else {}
    assert len(arguments(settings(model, "decode", engine_args=args)).get("logits_processors", [])) == processors
    assert "logits_processors" not in arguments(settings(model, "prefill", engine_args=args))


def test_on_cpu_one_process_and_no_compilation(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu(monkeypatch)
    made = arguments(settings(model))
    assert (made["enforce_eager"], made["distributed_executor_backend"]) == (True, "uni")


def test_on_gpus_vllms_own_choices_stand(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_config, "has_cuda", lambda: True)
    assert not {"enforce_eager", "distributed_executor_backend", "dtype", "max_num_seqs"} & set(
        arguments(settings(model, transport="nixl"))
    )


@pytest.mark.parametrize(("bfloat16", "dtype"), [(True, None), (False, "float32")])
def test_a_cpu_without_bfloat16_computes_in_float32(
    model: str, monkeypatch: pytest.MonkeyPatch, bfloat16: bool, dtype: str | None
) -> None:
    on_cpu(monkeypatch)
    monkeypatch.setattr(vllm_config, "cpu_computes_bfloat16", lambda: bfloat16)
    assert arguments(settings(model)).get("dtype") == dtype


def test_what_the_pool_gives_wins_over_the_platforms_choice(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu(monkeypatch)
    made = arguments(settings(model, engine_args={"enforce_eager": False, "dtype": "bfloat16"}))
    assert (made["enforce_eager"], made["dtype"]) == (False, "bfloat16")


def test_whether_the_cpu_has_bfloat16_is_a_yes_or_no() -> None:
    assert cpu_computes_bfloat16() in {True, False}


def test_auto_is_resolved_by_platform_and_choices_stand(model: str, platform: str) -> None:
    resolved = resolve(settings(model, transport="auto"))
    assert (resolved.kind, resolved.transport) == (("async", "nixl") if platform == "cuda" else ("inproc", "grpc"))
    chosen = settings(model, kind="async", transport="grpc")
    assert resolve(chosen) == chosen


def test_the_environment_is_for_the_platform(model: str, platform: str) -> None:
    environment = vllm_environment(settings(model, kind="inproc", kv_cache_gib=2.6), nixl_port=1234)
    assert environment["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "1234"
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert environment.get("VLLM_CPU_KVCACHE_SPACE") == ("3" if platform == "cpu" else None)
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in vllm_environment(settings(model, kind="async"), 1)


def test_what_the_environment_has_already_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("VLLM_X", raising=False)
    monkeypatch.setattr("os.environ", {"OMP_NUM_THREADS": "3"})
    import os

    apply_environment({"OMP_NUM_THREADS": "1", "VLLM_X": "y"})
    assert os.environ == {"OMP_NUM_THREADS": "3", "VLLM_X": "y"}
