"""The AsyncLLM adapter, the default on GPUs, run on CPU for both pools."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.client import SegueClient
from segue.proto.inference_pb2 import Path as HandoffPath
from tests.e2e.processes import assert_gone, tree
from tests.e2e.reference import Case, Reference
from tests.e2e.running import assert_baseline, running_cluster
from tests.e2e.test_parity import GREEDY, prompt_of

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(420)]


async def test_a_cluster_of_async_engines_answers_like_one_engine(tmp_path: Path, reference: Reference) -> None:
    arguments = ("--engine", "async", "--engine-arg", "dtype=float32", "--transport", "grpc")
    with running_cluster(tmp_path, *arguments) as cluster:
        processes = tree(cluster.process.pid)
        assert cluster.describe("decode-0").status.facts.engine == "vllm-async"
        seeded = {"temperature": 0.8, "seed": 11, "max_tokens": 16}
        cases = [Case(prompt_of(length, 30), GREEDY) for length in (1, 127, 128, 300)]
        cases += [Case(prompt_of(200, 31), seeded)]
        async with SegueClient(cluster.grpc_address) as client:
            answers = [await client.generate(case.prompt, **case.sampling) for case in cases]
            assert [answer.token_ids for answer in answers] == reference.answer(cases)
            assert {answer.timings.transport for answer in answers} == {"grpc"}
            assert [answer.timings.path for answer in answers] == [HandoffPath.PATH_SEEDED] * 4 + [
                HandoffPath.PATH_EXACT
            ]
            async for _ in client.stream(prompt_of(300, 32), temperature=0.0, max_tokens=1000, ignore_eos=True):
                break
            await client.generate("after the cancelled one", temperature=0.0, max_tokens=4)
        assert_baseline(cluster)
        decode = cluster.describe("decode-0")
        assert decode.counters.max_computed_tokens_per_request <= 1

        # These engines have processes of their own, which nobody ends if the supervisor can't.
        assert len(processes) > 6
        cluster.process.kill()
        assert_gone(processes)
