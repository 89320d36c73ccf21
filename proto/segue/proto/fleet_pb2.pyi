from segue.proto import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListFleetRequest(_message.Message):
    __slots__ = ("window_s",)
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    window_s: float
    def __init__(self, window_s: _Optional[float] = ...) -> None: ...

class WatchFleetRequest(_message.Message):
    __slots__ = ("interval_s", "window_s")
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    interval_s: float
    window_s: float
    def __init__(self, interval_s: _Optional[float] = ..., window_s: _Optional[float] = ...) -> None: ...

class FleetState(_message.Message):
    __slots__ = ("router_id", "version", "model", "time_unix_s", "uptime_s", "draining", "pools", "workers", "classes", "window_s", "running_requests", "queued_requests", "rates", "event_loop_lag_s", "queued_prompt_tokens", "links")
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    RATES_FIELD_NUMBER: _ClassVar[int]
    EVENT_LOOP_LAG_S_FIELD_NUMBER: _ClassVar[int]
    QUEUED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    router_id: str
    version: str
    model: str
    time_unix_s: float
    uptime_s: float
    draining: bool
    pools: _containers.RepeatedCompositeFieldContainer[FleetPool]
    workers: _containers.RepeatedCompositeFieldContainer[FleetWorker]
    classes: _containers.RepeatedCompositeFieldContainer[FleetClass]
    window_s: float
    running_requests: int
    queued_requests: int
    rates: FleetRates
    event_loop_lag_s: float
    queued_prompt_tokens: int
    links: _containers.RepeatedCompositeFieldContainer[FleetLink]
    def __init__(self, router_id: _Optional[str] = ..., version: _Optional[str] = ..., model: _Optional[str] = ..., time_unix_s: _Optional[float] = ..., uptime_s: _Optional[float] = ..., draining: _Optional[bool] = ..., pools: _Optional[_Iterable[_Union[FleetPool, _Mapping]]] = ..., workers: _Optional[_Iterable[_Union[FleetWorker, _Mapping]]] = ..., classes: _Optional[_Iterable[_Union[FleetClass, _Mapping]]] = ..., window_s: _Optional[float] = ..., running_requests: _Optional[int] = ..., queued_requests: _Optional[int] = ..., rates: _Optional[_Union[FleetRates, _Mapping]] = ..., event_loop_lag_s: _Optional[float] = ..., queued_prompt_tokens: _Optional[int] = ..., links: _Optional[_Iterable[_Union[FleetLink, _Mapping]]] = ...) -> None: ...

class FleetPool(_message.Message):
    __slots__ = ("role", "workers", "ready", "draining", "running_requests", "waiting_requests", "waiting_tokens", "kv_blocks", "free_blocks")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    role: _worker_pb2.Role
    workers: int
    ready: int
    draining: int
    running_requests: int
    waiting_requests: int
    waiting_tokens: int
    kv_blocks: int
    free_blocks: int
    def __init__(self, role: _Optional[_Union[_worker_pb2.Role, str]] = ..., workers: _Optional[int] = ..., ready: _Optional[int] = ..., draining: _Optional[int] = ..., running_requests: _Optional[int] = ..., waiting_requests: _Optional[int] = ..., waiting_tokens: _Optional[int] = ..., kv_blocks: _Optional[int] = ..., free_blocks: _Optional[int] = ...) -> None: ...

class FleetWorker(_message.Message):
    __slots__ = ("worker_id", "epoch", "role", "state", "detail", "address", "facts", "load", "assigned_requests", "assigned_tokens", "circuit_open", "prefill_tokens_per_s", "decode_request_s", "heard_s_ago", "version", "ready_for_s", "assigned_prefill_tokens", "step_prompt_tokens_per_s", "step", "flex", "turns")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CIRCUIT_OPEN_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_REQUEST_S_FIELD_NUMBER: _ClassVar[int]
    HEARD_S_AGO_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    READY_FOR_S_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEP_PROMPT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FLEX_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    epoch: str
    role: _worker_pb2.Role
    state: _worker_pb2.WorkerState
    detail: str
    address: str
    facts: _worker_pb2.EngineFacts
    load: _worker_pb2.Load
    assigned_requests: int
    assigned_tokens: int
    circuit_open: bool
    prefill_tokens_per_s: float
    decode_request_s: float
    heard_s_ago: float
    version: str
    ready_for_s: float
    assigned_prefill_tokens: int
    step_prompt_tokens_per_s: float
    step: StepTime
    flex: bool
    turns: int
    def __init__(self, worker_id: _Optional[str] = ..., epoch: _Optional[str] = ..., role: _Optional[_Union[_worker_pb2.Role, str]] = ..., state: _Optional[_Union[_worker_pb2.WorkerState, str]] = ..., detail: _Optional[str] = ..., address: _Optional[str] = ..., facts: _Optional[_Union[_worker_pb2.EngineFacts, _Mapping]] = ..., load: _Optional[_Union[_worker_pb2.Load, _Mapping]] = ..., assigned_requests: _Optional[int] = ..., assigned_tokens: _Optional[int] = ..., circuit_open: _Optional[bool] = ..., prefill_tokens_per_s: _Optional[float] = ..., decode_request_s: _Optional[float] = ..., heard_s_ago: _Optional[float] = ..., version: _Optional[str] = ..., ready_for_s: _Optional[float] = ..., assigned_prefill_tokens: _Optional[int] = ..., step_prompt_tokens_per_s: _Optional[float] = ..., step: _Optional[_Union[StepTime, _Mapping]] = ..., flex: _Optional[bool] = ..., turns: _Optional[int] = ...) -> None: ...

class StepTime(_message.Message):
    __slots__ = ("fixed_s", "per_request_s", "samples")
    FIXED_S_FIELD_NUMBER: _ClassVar[int]
    PER_REQUEST_S_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    fixed_s: float
    per_request_s: float
    samples: int
    def __init__(self, fixed_s: _Optional[float] = ..., per_request_s: _Optional[float] = ..., samples: _Optional[int] = ...) -> None: ...

class FleetLink(_message.Message):
    __slots__ = ("prefill_worker", "decode_worker", "bytes_per_s", "fixed_s", "transfers", "differs")
    PREFILL_WORKER_FIELD_NUMBER: _ClassVar[int]
    DECODE_WORKER_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    FIXED_S_FIELD_NUMBER: _ClassVar[int]
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    DIFFERS_FIELD_NUMBER: _ClassVar[int]
    prefill_worker: str
    decode_worker: str
    bytes_per_s: float
    fixed_s: float
    transfers: int
    differs: bool
    def __init__(self, prefill_worker: _Optional[str] = ..., decode_worker: _Optional[str] = ..., bytes_per_s: _Optional[float] = ..., fixed_s: _Optional[float] = ..., transfers: _Optional[int] = ..., differs: _Optional[bool] = ...) -> None: ...

class FleetClass(_message.Message):
    __slots__ = ("name", "queued_requests", "running_requests", "rates", "promised_ttft_s", "promised_tokens_per_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    RATES_FIELD_NUMBER: _ClassVar[int]
    PROMISED_TTFT_S_FIELD_NUMBER: _ClassVar[int]
    PROMISED_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    queued_requests: int
    running_requests: int
    rates: FleetRates
    promised_ttft_s: float
    promised_tokens_per_s: float
    def __init__(self, name: _Optional[str] = ..., queued_requests: _Optional[int] = ..., running_requests: _Optional[int] = ..., rates: _Optional[_Union[FleetRates, _Mapping]] = ..., promised_ttft_s: _Optional[float] = ..., promised_tokens_per_s: _Optional[float] = ...) -> None: ...

class FleetRates(_message.Message):
    __slots__ = ("requests_per_s", "failed_per_s", "refused_per_s", "output_tokens_per_s", "prompt_tokens_per_s", "cached_prompt_tokens_per_s", "transfer_bytes_per_s", "ttft_s", "itl_s", "slo_attainment", "arriving_requests_per_s", "arriving_prompt_tokens_per_s", "mean_output_tokens", "ttft_attainment", "itl_attainment")
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    FAILED_PER_S_FIELD_NUMBER: _ClassVar[int]
    REFUSED_PER_S_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    CACHED_PROMPT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    TTFT_S_FIELD_NUMBER: _ClassVar[int]
    ITL_S_FIELD_NUMBER: _ClassVar[int]
    SLO_ATTAINMENT_FIELD_NUMBER: _ClassVar[int]
    ARRIVING_REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    ARRIVING_PROMPT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    MEAN_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TTFT_ATTAINMENT_FIELD_NUMBER: _ClassVar[int]
    ITL_ATTAINMENT_FIELD_NUMBER: _ClassVar[int]
    requests_per_s: float
    failed_per_s: float
    refused_per_s: float
    output_tokens_per_s: float
    prompt_tokens_per_s: float
    cached_prompt_tokens_per_s: float
    transfer_bytes_per_s: float
    ttft_s: Quantiles
    itl_s: Quantiles
    slo_attainment: float
    arriving_requests_per_s: float
    arriving_prompt_tokens_per_s: float
    mean_output_tokens: float
    ttft_attainment: float
    itl_attainment: float
    def __init__(self, requests_per_s: _Optional[float] = ..., failed_per_s: _Optional[float] = ..., refused_per_s: _Optional[float] = ..., output_tokens_per_s: _Optional[float] = ..., prompt_tokens_per_s: _Optional[float] = ..., cached_prompt_tokens_per_s: _Optional[float] = ..., transfer_bytes_per_s: _Optional[float] = ..., ttft_s: _Optional[_Union[Quantiles, _Mapping]] = ..., itl_s: _Optional[_Union[Quantiles, _Mapping]] = ..., slo_attainment: _Optional[float] = ..., arriving_requests_per_s: _Optional[float] = ..., arriving_prompt_tokens_per_s: _Optional[float] = ..., mean_output_tokens: _Optional[float] = ..., ttft_attainment: _Optional[float] = ..., itl_attainment: _Optional[float] = ...) -> None: ...

class Quantiles(_message.Message):
    __slots__ = ("p50", "p90", "p99", "count")
    P50_FIELD_NUMBER: _ClassVar[int]
    P90_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    p50: float
    p90: float
    p99: float
    count: int
    def __init__(self, p50: _Optional[float] = ..., p90: _Optional[float] = ..., p99: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...
