from segue.proto import kv_transfer_pb2 as _kv_transfer_pb2
from segue.proto import sampling_pb2 as _sampling_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_PREFILL: _ClassVar[Role]
    ROLE_DECODE: _ClassVar[Role]

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_LOADING: _ClassVar[WorkerState]
    WORKER_STATE_WARMING: _ClassVar[WorkerState]
    WORKER_STATE_READY: _ClassVar[WorkerState]
    WORKER_STATE_DRAINING: _ClassVar[WorkerState]
ROLE_UNSPECIFIED: Role
ROLE_PREFILL: Role
ROLE_DECODE: Role
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_LOADING: WorkerState
WORKER_STATE_WARMING: WorkerState
WORKER_STATE_READY: WorkerState
WORKER_STATE_DRAINING: WorkerState

class Register(_message.Message):
    __slots__ = ("worker_id", "epoch", "role", "address", "protocol", "version", "flex", "turns")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FLEX_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    epoch: str
    role: Role
    address: str
    protocol: int
    version: str
    flex: bool
    turns: int
    def __init__(self, worker_id: _Optional[str] = ..., epoch: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., address: _Optional[str] = ..., protocol: _Optional[int] = ..., version: _Optional[str] = ..., flex: _Optional[bool] = ..., turns: _Optional[int] = ...) -> None: ...

class EngineFacts(_message.Message):
    __slots__ = ("engine", "engine_version", "model", "max_model_len_tokens", "vocab_size", "layout", "kv_blocks", "transport", "simulated", "kv_address", "max_running_requests", "kv_digest", "accelerator")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    KV_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    KV_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_FIELD_NUMBER: _ClassVar[int]
    engine: str
    engine_version: str
    model: str
    max_model_len_tokens: int
    vocab_size: int
    layout: _kv_transfer_pb2.BlockLayout
    kv_blocks: int
    transport: str
    simulated: bool
    kv_address: str
    max_running_requests: int
    kv_digest: str
    accelerator: str
    def __init__(self, engine: _Optional[str] = ..., engine_version: _Optional[str] = ..., model: _Optional[str] = ..., max_model_len_tokens: _Optional[int] = ..., vocab_size: _Optional[int] = ..., layout: _Optional[_Union[_kv_transfer_pb2.BlockLayout, _Mapping]] = ..., kv_blocks: _Optional[int] = ..., transport: _Optional[str] = ..., simulated: _Optional[bool] = ..., kv_address: _Optional[str] = ..., max_running_requests: _Optional[int] = ..., kv_digest: _Optional[str] = ..., accelerator: _Optional[str] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("state", "detail", "facts")
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    state: WorkerState
    detail: str
    facts: EngineFacts
    def __init__(self, state: _Optional[_Union[WorkerState, str]] = ..., detail: _Optional[str] = ..., facts: _Optional[_Union[EngineFacts, _Mapping]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("running_requests", "waiting_requests", "waiting_tokens", "free_blocks", "held_offers", "step_s", "step_prompt_tokens", "step_requests", "steps")
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    HELD_OFFERS_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    STEP_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEP_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    running_requests: int
    waiting_requests: int
    waiting_tokens: int
    free_blocks: int
    held_offers: int
    step_s: float
    step_prompt_tokens: int
    step_requests: int
    steps: int
    def __init__(self, running_requests: _Optional[int] = ..., waiting_requests: _Optional[int] = ..., waiting_tokens: _Optional[int] = ..., free_blocks: _Optional[int] = ..., held_offers: _Optional[int] = ..., step_s: _Optional[float] = ..., step_prompt_tokens: _Optional[int] = ..., step_requests: _Optional[int] = ..., steps: _Optional[int] = ...) -> None: ...

class KvEvent(_message.Message):
    __slots__ = ("stored", "removed", "cleared")
    class Stored(_message.Message):
        __slots__ = ("parent", "blocks")
        PARENT_FIELD_NUMBER: _ClassVar[int]
        BLOCKS_FIELD_NUMBER: _ClassVar[int]
        parent: int
        blocks: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, parent: _Optional[int] = ..., blocks: _Optional[_Iterable[int]] = ...) -> None: ...
    class Removed(_message.Message):
        __slots__ = ("blocks",)
        BLOCKS_FIELD_NUMBER: _ClassVar[int]
        blocks: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, blocks: _Optional[_Iterable[int]] = ...) -> None: ...
    STORED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    CLEARED_FIELD_NUMBER: _ClassVar[int]
    stored: KvEvent.Stored
    removed: KvEvent.Removed
    cleared: bool
    def __init__(self, stored: _Optional[_Union[KvEvent.Stored, _Mapping]] = ..., removed: _Optional[_Union[KvEvent.Removed, _Mapping]] = ..., cleared: _Optional[bool] = ...) -> None: ...

class KvEvents(_message.Message):
    __slots__ = ("first_sequence", "snapshot", "events")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    snapshot: bool
    events: _containers.RepeatedCompositeFieldContainer[KvEvent]
    def __init__(self, first_sequence: _Optional[int] = ..., snapshot: _Optional[bool] = ..., events: _Optional[_Iterable[_Union[KvEvent, _Mapping]]] = ...) -> None: ...

class WorkerFrame(_message.Message):
    __slots__ = ("register", "status", "load", "outputs", "kv_events", "tokens", "other_routers")
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    KV_EVENTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    OTHER_ROUTERS_FIELD_NUMBER: _ClassVar[int]
    register: Register
    status: Status
    load: Load
    outputs: _containers.RepeatedCompositeFieldContainer[RequestOutput]
    kv_events: KvEvents
    tokens: StepTokens
    other_routers: RouterBacklogs
    def __init__(self, register: _Optional[_Union[Register, _Mapping]] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., outputs: _Optional[_Iterable[_Union[RequestOutput, _Mapping]]] = ..., kv_events: _Optional[_Union[KvEvents, _Mapping]] = ..., tokens: _Optional[_Union[StepTokens, _Mapping]] = ..., other_routers: _Optional[_Union[RouterBacklogs, _Mapping]] = ...) -> None: ...

class RouterBacklog(_message.Message):
    __slots__ = ("router_id", "number", "prefill_tokens", "decode_requests")
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DECODE_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    router_id: str
    number: int
    prefill_tokens: int
    decode_requests: int
    def __init__(self, router_id: _Optional[str] = ..., number: _Optional[int] = ..., prefill_tokens: _Optional[int] = ..., decode_requests: _Optional[int] = ...) -> None: ...

class RouterBacklogs(_message.Message):
    __slots__ = ("routers",)
    ROUTERS_FIELD_NUMBER: _ClassVar[int]
    routers: _containers.RepeatedCompositeFieldContainer[RouterBacklog]
    def __init__(self, routers: _Optional[_Iterable[_Union[RouterBacklog, _Mapping]]] = ...) -> None: ...

class StepTokens(_message.Message):
    __slots__ = ("streams", "token_ids")
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, streams: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class RequestOutput(_message.Message):
    __slots__ = ("request_id", "token_ids", "logprobs", "finish_reason", "stop_token_id", "error", "offer", "usage", "transfer")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[_sampling_pb2.PositionLogprobs]
    finish_reason: _sampling_pb2.FinishReason
    stop_token_id: int
    error: RequestError
    offer: _kv_transfer_pb2.Ticket
    usage: EngineUsage
    transfer: Transfer
    def __init__(self, request_id: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[_sampling_pb2.PositionLogprobs, _Mapping]]] = ..., finish_reason: _Optional[_Union[_sampling_pb2.FinishReason, str]] = ..., stop_token_id: _Optional[int] = ..., error: _Optional[_Union[RequestError, _Mapping]] = ..., offer: _Optional[_Union[_kv_transfer_pb2.Ticket, _Mapping]] = ..., usage: _Optional[_Union[EngineUsage, _Mapping]] = ..., transfer: _Optional[_Union[Transfer, _Mapping]] = ...) -> None: ...

class EngineUsage(_message.Message):
    __slots__ = ("input_tokens", "cached_tokens", "transferred_tokens", "computed_tokens", "queue_s", "compute_s")
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRANSFERRED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_S_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    cached_tokens: int
    transferred_tokens: int
    computed_tokens: int
    queue_s: float
    compute_s: float
    def __init__(self, input_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., transferred_tokens: _Optional[int] = ..., computed_tokens: _Optional[int] = ..., queue_s: _Optional[float] = ..., compute_s: _Optional[float] = ...) -> None: ...

class Transfer(_message.Message):
    __slots__ = ("transport", "bytes", "seconds", "error", "corrupt", "digest_seconds")
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CORRUPT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_SECONDS_FIELD_NUMBER: _ClassVar[int]
    transport: str
    bytes: int
    seconds: float
    error: str
    corrupt: bool
    digest_seconds: float
    def __init__(self, transport: _Optional[str] = ..., bytes: _Optional[int] = ..., seconds: _Optional[float] = ..., error: _Optional[str] = ..., corrupt: _Optional[bool] = ..., digest_seconds: _Optional[float] = ...) -> None: ...

class RequestError(_message.Message):
    __slots__ = ("kind", "message")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[RequestError.Kind]
        KIND_INVALID: _ClassVar[RequestError.Kind]
        KIND_UNAVAILABLE: _ClassVar[RequestError.Kind]
        KIND_INTERNAL: _ClassVar[RequestError.Kind]
        KIND_DEADLINE: _ClassVar[RequestError.Kind]
    KIND_UNSPECIFIED: RequestError.Kind
    KIND_INVALID: RequestError.Kind
    KIND_UNAVAILABLE: RequestError.Kind
    KIND_INTERNAL: RequestError.Kind
    KIND_DEADLINE: RequestError.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    kind: RequestError.Kind
    message: str
    def __init__(self, kind: _Optional[_Union[RequestError.Kind, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("request_id", "input_token_ids", "sampling", "timeout_s", "offer_kv", "ticket", "forced_token_ids", "trace_parent", "priority", "stream")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    OFFER_KV_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    FORCED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TRACE_PARENT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    input_token_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: _sampling_pb2.SamplingParams
    timeout_s: float
    offer_kv: bool
    ticket: _kv_transfer_pb2.Ticket
    forced_token_ids: _containers.RepeatedScalarFieldContainer[int]
    trace_parent: str
    priority: int
    stream: int
    def __init__(self, request_id: _Optional[str] = ..., input_token_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., timeout_s: _Optional[float] = ..., offer_kv: _Optional[bool] = ..., ticket: _Optional[_Union[_kv_transfer_pb2.Ticket, _Mapping]] = ..., forced_token_ids: _Optional[_Iterable[int]] = ..., trace_parent: _Optional[str] = ..., priority: _Optional[int] = ..., stream: _Optional[int] = ...) -> None: ...

class RouterFrame(_message.Message):
    __slots__ = ("registered", "submit", "abort_request_ids", "release", "refused", "renew", "move_request_ids", "resend_kv_events", "backlog")
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    ABORT_REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    MOVE_REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    RESEND_KV_EVENTS_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    registered: Registered
    submit: _containers.RepeatedCompositeFieldContainer[Submit]
    abort_request_ids: _containers.RepeatedScalarFieldContainer[str]
    release: _containers.RepeatedCompositeFieldContainer[_kv_transfer_pb2.ReleaseRequest]
    refused: Refused
    renew: _containers.RepeatedCompositeFieldContainer[_kv_transfer_pb2.RenewRequest]
    move_request_ids: _containers.RepeatedScalarFieldContainer[str]
    resend_kv_events: bool
    backlog: RouterBacklog
    def __init__(self, registered: _Optional[_Union[Registered, _Mapping]] = ..., submit: _Optional[_Iterable[_Union[Submit, _Mapping]]] = ..., abort_request_ids: _Optional[_Iterable[str]] = ..., release: _Optional[_Iterable[_Union[_kv_transfer_pb2.ReleaseRequest, _Mapping]]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., renew: _Optional[_Iterable[_Union[_kv_transfer_pb2.RenewRequest, _Mapping]]] = ..., move_request_ids: _Optional[_Iterable[str]] = ..., resend_kv_events: _Optional[bool] = ..., backlog: _Optional[_Union[RouterBacklog, _Mapping]] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Registered(_message.Message):
    __slots__ = ("router_id", "lease_s", "ports")
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    router_id: str
    lease_s: float
    ports: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, router_id: _Optional[str] = ..., lease_s: _Optional[float] = ..., ports: _Optional[_Iterable[int]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("register", "status", "load", "counters")
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    register: Register
    status: Status
    load: Load
    counters: EngineCounters
    def __init__(self, register: _Optional[_Union[Register, _Mapping]] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., counters: _Optional[_Union[EngineCounters, _Mapping]] = ...) -> None: ...

class EngineCounters(_message.Message):
    __slots__ = ("requests", "input_tokens", "cached_tokens", "transferred_tokens", "computed_tokens", "generated_tokens", "max_generated_tokens_per_request", "max_computed_tokens_per_request")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRANSFERRED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_GENERATED_TOKENS_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAX_COMPUTED_TOKENS_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    requests: int
    input_tokens: int
    cached_tokens: int
    transferred_tokens: int
    computed_tokens: int
    generated_tokens: int
    max_generated_tokens_per_request: int
    max_computed_tokens_per_request: int
    def __init__(self, requests: _Optional[int] = ..., input_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., transferred_tokens: _Optional[int] = ..., computed_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., max_generated_tokens_per_request: _Optional[int] = ..., max_computed_tokens_per_request: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("timeout_s",)
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    timeout_s: float
    def __init__(self, timeout_s: _Optional[float] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("running_requests", "held_offers", "timeout_s")
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    HELD_OFFERS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    running_requests: int
    held_offers: int
    timeout_s: float
    def __init__(self, running_requests: _Optional[int] = ..., held_offers: _Optional[int] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class TurnRequest(_message.Message):
    __slots__ = ("role", "timeout_s")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    role: Role
    timeout_s: float
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class TurnResponse(_message.Message):
    __slots__ = ("empty_s", "ready_s")
    EMPTY_S_FIELD_NUMBER: _ClassVar[int]
    READY_S_FIELD_NUMBER: _ClassVar[int]
    empty_s: float
    ready_s: float
    def __init__(self, empty_s: _Optional[float] = ..., ready_s: _Optional[float] = ...) -> None: ...
