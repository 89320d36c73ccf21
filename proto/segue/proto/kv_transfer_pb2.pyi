from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BlockLayout(_message.Message):
    __slots__ = ("model", "dtype", "block_tokens", "layers", "block_bytes", "order", "tensor_parallel")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    TENSOR_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    dtype: str
    block_tokens: int
    layers: int
    block_bytes: int
    order: str
    tensor_parallel: int
    def __init__(self, model: _Optional[str] = ..., dtype: _Optional[str] = ..., block_tokens: _Optional[int] = ..., layers: _Optional[int] = ..., block_bytes: _Optional[int] = ..., order: _Optional[str] = ..., tensor_parallel: _Optional[int] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("ticket_id", "producer_id", "producer_epoch", "request_id", "layout", "tokens", "blocks", "lease_s", "transport", "address", "nixl", "expires_unix_s")
    TICKET_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NIXL_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    ticket_id: str
    producer_id: str
    producer_epoch: str
    request_id: str
    layout: BlockLayout
    tokens: int
    blocks: int
    lease_s: float
    transport: str
    address: str
    nixl: bytes
    expires_unix_s: float
    def __init__(self, ticket_id: _Optional[str] = ..., producer_id: _Optional[str] = ..., producer_epoch: _Optional[str] = ..., request_id: _Optional[str] = ..., layout: _Optional[_Union[BlockLayout, _Mapping]] = ..., tokens: _Optional[int] = ..., blocks: _Optional[int] = ..., lease_s: _Optional[float] = ..., transport: _Optional[str] = ..., address: _Optional[str] = ..., nixl: _Optional[bytes] = ..., expires_unix_s: _Optional[float] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("ticket_id", "producer_epoch", "request_id", "layout", "first_block")
    TICKET_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    FIRST_BLOCK_FIELD_NUMBER: _ClassVar[int]
    ticket_id: str
    producer_epoch: str
    request_id: str
    layout: BlockLayout
    first_block: int
    def __init__(self, ticket_id: _Optional[str] = ..., producer_epoch: _Optional[str] = ..., request_id: _Optional[str] = ..., layout: _Optional[_Union[BlockLayout, _Mapping]] = ..., first_block: _Optional[int] = ...) -> None: ...

class KvChunk(_message.Message):
    __slots__ = ("layer", "first_block", "blocks", "payload", "digest", "last", "digest_of_all")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    FIRST_BLOCK_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_OF_ALL_FIELD_NUMBER: _ClassVar[int]
    layer: int
    first_block: int
    blocks: int
    payload: bytes
    digest: int
    last: bool
    digest_of_all: int
    def __init__(self, layer: _Optional[int] = ..., first_block: _Optional[int] = ..., blocks: _Optional[int] = ..., payload: _Optional[bytes] = ..., digest: _Optional[int] = ..., last: _Optional[bool] = ..., digest_of_all: _Optional[int] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("ticket_id", "producer_epoch", "reason")
    TICKET_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ticket_id: str
    producer_epoch: str
    reason: str
    def __init__(self, ticket_id: _Optional[str] = ..., producer_epoch: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("freed",)
    FREED_FIELD_NUMBER: _ClassVar[int]
    freed: bool
    def __init__(self, freed: _Optional[bool] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("ticket_ids", "producer_epoch", "lease_s")
    TICKET_IDS_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    ticket_ids: _containers.RepeatedScalarFieldContainer[str]
    producer_epoch: str
    lease_s: float
    def __init__(self, ticket_ids: _Optional[_Iterable[str]] = ..., producer_epoch: _Optional[str] = ..., lease_s: _Optional[float] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("gone_ticket_ids", "held_offers")
    GONE_TICKET_IDS_FIELD_NUMBER: _ClassVar[int]
    HELD_OFFERS_FIELD_NUMBER: _ClassVar[int]
    gone_ticket_ids: _containers.RepeatedScalarFieldContainer[str]
    held_offers: int
    def __init__(self, gone_ticket_ids: _Optional[_Iterable[str]] = ..., held_offers: _Optional[int] = ...) -> None: ...

class DigestRequest(_message.Message):
    __slots__ = ("ticket_id", "producer_epoch", "request_id", "layout", "blocks", "claim")
    TICKET_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    ticket_id: str
    producer_epoch: str
    request_id: str
    layout: BlockLayout
    blocks: _containers.RepeatedScalarFieldContainer[int]
    claim: bool
    def __init__(self, ticket_id: _Optional[str] = ..., producer_epoch: _Optional[str] = ..., request_id: _Optional[str] = ..., layout: _Optional[_Union[BlockLayout, _Mapping]] = ..., blocks: _Optional[_Iterable[int]] = ..., claim: _Optional[bool] = ...) -> None: ...

class DigestResponse(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, digests: _Optional[_Iterable[int]] = ...) -> None: ...
