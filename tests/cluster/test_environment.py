from __future__ import annotations

import pytest

from segue.cluster.environment import Machine, Share, choose_device, share_of, worker_environment


def test_cpu_workers_get_one_core_each_in_turn() -> None:
    machine = Machine(cores=(2, 5))
    assert [share_of(machine, index, "cpu").cores for index in range(3)] == [(2,), (5,), (2,)]


def test_gpu_workers_get_one_gpu_each_in_turn() -> None:
    machine = Machine(cores=(0,), gpus=("3", "4"))
    assert [share_of(machine, index, "cuda").gpu for index in range(3)] == ["3", "4", "3"]


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="no GPU is visible"):
        share_of(Machine(cores=(0,)), 0, "cuda")


def test_a_cpu_worker_is_bound_to_its_core() -> None:
    environment = worker_environment({"PATH": "/bin", "OMP_NUM_THREADS": "8"}, Share((5,)), kv_cache_gib=2)
    assert environment == {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "5",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": "2",
    }


def test_an_engine_of_several_cores_has_a_thread_on_each() -> None:
    environment = worker_environment({}, Share((1, 2, 6)), kv_cache_gib=2)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "1,2,6"


def test_a_gpu_worker_sees_its_gpu_alone() -> None:
    environment = worker_environment({"CUDA_VISIBLE_DEVICES": "0,1"}, Share((0,), gpu="1"), kv_cache_gib=2)
    assert environment == {"CUDA_VISIBLE_DEVICES": "1"}


@pytest.mark.parametrize(
    ("asked", "gpus", "installed", "chosen"),
    [
        ("auto", ("0",), True, "cuda"),
        ("auto", ("0",), False, "cpu"),
        ("auto", (), True, "cpu"),
        ("cpu", ("0",), True, "cpu"),
        ("cuda", (), False, "cuda"),
    ],
)
def test_device_choice(asked: str, gpus: tuple[str, ...], installed: bool, chosen: str) -> None:
    assert choose_device(asked, gpus, installed) == chosen  # type: ignore[arg-type]
