from segue.proto import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PoolWorkerPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POOL_WORKER_PHASE_UNSPECIFIED: _ClassVar[PoolWorkerPhase]
    POOL_WORKER_PHASE_RUNNING: _ClassVar[PoolWorkerPhase]
    POOL_WORKER_PHASE_LEAVING: _ClassVar[PoolWorkerPhase]
    POOL_WORKER_PHASE_RESTARTING: _ClassVar[PoolWorkerPhase]
    POOL_WORKER_PHASE_TURNING: _ClassVar[PoolWorkerPhase]
POOL_WORKER_PHASE_UNSPECIFIED: PoolWorkerPhase
POOL_WORKER_PHASE_RUNNING: PoolWorkerPhase
POOL_WORKER_PHASE_LEAVING: PoolWorkerPhase
POOL_WORKER_PHASE_RESTARTING: PoolWorkerPhase
POOL_WORKER_PHASE_TURNING: PoolWorkerPhase

class ListPoolsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchPoolsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("targets",)
    class Target(_message.Message):
        __slots__ = ("role", "workers")
        ROLE_FIELD_NUMBER: _ClassVar[int]
        WORKERS_FIELD_NUMBER: _ClassVar[int]
        role: _worker_pb2.Role
        workers: int
        def __init__(self, role: _Optional[_Union[_worker_pb2.Role, str]] = ..., workers: _Optional[int] = ...) -> None: ...
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedCompositeFieldContainer[ScaleRequest.Target]
    def __init__(self, targets: _Optional[_Iterable[_Union[ScaleRequest.Target, _Mapping]]] = ...) -> None: ...

class DrainWorkerRequest(_message.Message):
    __slots__ = ("worker_id",)
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    def __init__(self, worker_id: _Optional[str] = ...) -> None: ...

class TurnWorkerRequest(_message.Message):
    __slots__ = ("worker_id", "role")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    role: _worker_pb2.Role
    def __init__(self, worker_id: _Optional[str] = ..., role: _Optional[_Union[_worker_pb2.Role, str]] = ...) -> None: ...

class PoolsState(_message.Message):
    __slots__ = ("backend", "pools", "scaling_mode")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    SCALING_MODE_FIELD_NUMBER: _ClassVar[int]
    backend: str
    pools: _containers.RepeatedCompositeFieldContainer[Pool]
    scaling_mode: str
    def __init__(self, backend: _Optional[str] = ..., pools: _Optional[_Iterable[_Union[Pool, _Mapping]]] = ..., scaling_mode: _Optional[str] = ...) -> None: ...

class Pool(_message.Message):
    __slots__ = ("role", "desired", "workers", "recommended", "reason")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    role: _worker_pb2.Role
    desired: int
    workers: _containers.RepeatedCompositeFieldContainer[PoolWorker]
    recommended: int
    reason: str
    def __init__(self, role: _Optional[_Union[_worker_pb2.Role, str]] = ..., desired: _Optional[int] = ..., workers: _Optional[_Iterable[_Union[PoolWorker, _Mapping]]] = ..., recommended: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class PoolWorker(_message.Message):
    __slots__ = ("worker_id", "phase", "place", "restarts", "process", "flex", "address", "epoch", "resources", "last_turn_s")
    class ResourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    FLEX_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    LAST_TURN_S_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    phase: PoolWorkerPhase
    place: str
    restarts: int
    process: str
    flex: bool
    address: str
    epoch: str
    resources: _containers.ScalarMap[str, float]
    last_turn_s: float
    def __init__(self, worker_id: _Optional[str] = ..., phase: _Optional[_Union[PoolWorkerPhase, str]] = ..., place: _Optional[str] = ..., restarts: _Optional[int] = ..., process: _Optional[str] = ..., flex: _Optional[bool] = ..., address: _Optional[str] = ..., epoch: _Optional[str] = ..., resources: _Optional[_Mapping[str, float]] = ..., last_turn_s: _Optional[float] = ...) -> None: ...
