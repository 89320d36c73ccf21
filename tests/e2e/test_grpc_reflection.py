"""A client that knows nothing of Segue but its address: messages and methods come from server reflection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.e2e.running import ONE_CLUSTER, Cluster

pytestmark = [pytest.mark.engine, ONE_CLUSTER]

SERVICE = "segue.v1.Inference"


class ReflectedClient:
    """Calls a service by names alone; requests and responses are whatever the server says they are."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        # A pool of its own: what this process has imported stays out of it.
        self._pool = DescriptorPool(self.database)

    def call(self, method: str, **fields: Any) -> Any:
        """The response, or an iterator of responses."""
        described = self._pool.FindServiceByName(SERVICE).FindMethodByName(method)
        request_type: Any = GetMessageClass(described.input_type)
        response_type: Any = GetMessageClass(described.output_type)
        connect = self._channel.unary_stream if described.server_streaming else self._channel.unary_unary
        send: Any = connect(
            f"/{SERVICE}/{method}",
            request_serializer=request_type.SerializeToString,
            response_deserializer=response_type.FromString,
        )
        return send(request_type(**fields), timeout=30)


@pytest.fixture
def channel(cluster: Cluster) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(cluster.grpc_address) as channel:
        yield channel


@pytest.fixture
def reflected(channel: grpc.Channel) -> ReflectedClient:
    return ReflectedClient(channel)


def test_the_services_are_listed(reflected: ReflectedClient) -> None:
    services = set(reflected.database.get_services())
    assert {SERVICE, "grpc.health.v1.Health"} <= services
    assert "segue.v1.WorkerHub" not in services, "workers have a port of their own"


def test_models_and_tokens(cluster: Cluster, reflected: ReflectedClient) -> None:
    (model,) = reflected.call("ListModels").models
    assert model.id == cluster.model
    assert model.max_model_len_tokens == 4096
    tokens = reflected.call("Tokenize", text="def function(self):")
    assert len(tokens.token_ids) > 3
    assert tokens.max_model_len_tokens == 4096


def test_an_answer_whole_and_streamed(reflected: ReflectedClient) -> None:
    sampling = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
    whole = reflected.call("GenerateUnary", text="def function(self):", sampling=sampling)
    assert whole.usage.output_tokens == 12
    assert whole.timings.transport == "grpc"

    parts = list(reflected.call("Generate", text="def function(self):", sampling=sampling))
    assert len(parts) > 1
    assert "".join(choice.text for part in parts for choice in part.choices) == whole.choices[0].text
    ids = [token_id for part in parts for choice in part.choices for token_id in choice.token_ids]
    assert ids == list(whole.choices[0].token_ids)
    assert [part.HasField("usage") for part in parts] == [False] * (len(parts) - 1) + [True]

    tokens = reflected.call("Tokenize", text="def function(self):")
    same = reflected.call("GenerateUnary", token_ids={"ids": tokens.token_ids}, sampling=sampling)
    assert same.choices[0].text == whole.choices[0].text


def test_health(channel: grpc.Channel) -> None:
    for service in ("", SERVICE):
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
