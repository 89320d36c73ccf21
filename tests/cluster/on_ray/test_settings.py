"""What is asked of Ray for each pool, and what runs there. Without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from segue.base.errors import SettingsError
from segue.base.identity import Identity
from segue.base.tls import TlsFiles, TlsSource
from segue.cli.on_ray import ray_pool
from segue.cluster.cert_files import files_of, write_private
from segue.cluster.on_ray.mesh import Mesh, new_ca
from segue.cluster.on_ray.settings import (
    RayCluster,
    RayPool,
    RayWorker,
    RouterPorts,
    actor_options,
    router_spec,
    worker_spec,
)

PORTS = RouterPorts("10.0.0.1", 8000, 9000, 9100)


def cluster(**settings: object) -> RayCluster:
    return RayCluster(model="m", log_dir="/logs", **settings)  # type: ignore[arg-type]


def of_option(argv: Sequence[str], option: str) -> list[str]:
    return [argv[at + 1] for at, word in enumerate(argv[:-1]) if word == option]


def test_prefill_and_decode_are_placed_on_different_accelerators() -> None:
    prefill = ray_pool(2, ["num_gpus=1", "accelerator_type=H100"], "--prefill-ray")
    decode = ray_pool(3, ["num_gpus=1", "accelerator_type=H200", "num_cpus=4"], "--decode-ray")
    assert prefill.bundle() == {"CPU": 1.0, "GPU": 1.0, "accelerator_type:H100": 0.001}
    assert decode.bundle() == {"CPU": 4.0, "GPU": 1.0, "accelerator_type:H200": 0.001}
    assert (prefill.workers, decode.workers) == (2, 3)


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        ["num_gpus=0.5"],
        ["num_gpus=4", "accelerator_type=A100", "num_cpus=8"],
        ["num_cpus=0.25", "fast-nic=1", "node:10.0.0.7=0.01"],
    ],
)
def test_an_actor_asks_for_all_of_its_bundle_and_no_more(pairs: list[str]) -> None:
    """Ray takes what it asks for out of its placement group: more would never fit, less would be left unused."""
    pool = ray_pool(1, pairs, "--decode-ray")
    options = actor_options(pool)
    asked = {"CPU": options.pop("num_cpus"), **options.pop("resources")}
    if gpus := options.pop("num_gpus", 0):
        asked["GPU"] = gpus
    if accelerator := options.pop("accelerator_type", ""):
        asked[f"accelerator_type:{accelerator}"] = 0.001  # What Ray makes of it.
    assert asked == pool.bundle()
    assert options == {}, "labels are the placement group's"


def test_fractions_resources_and_labels_are_kept_as_they_were_written() -> None:
    pool = ray_pool(
        1,
        ["num_gpus=0.5", "fast-nic=2", "label:ray.io/market-type=!spot", "label:zone=in(a,b)", "label:rack=007"],
        "--decode-ray",
    )
    assert pool.num_gpus == 0.5
    assert pool.resources == {"fast-nic": 2.0}
    assert pool.labels == {"ray.io/market-type": "!spot", "zone": "in(a,b)", "rack": "007"}
    assert pool.bundle() == {"CPU": 1.0, "GPU": 0.5, "fast-nic": 2.0}


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("num_gpu=1", "did you mean 'num_gpus'"),
        ("num_gpus=many", "must be a number"),
        ("num_gpus=-1", "must be a number"),
        ("num_gpus", "is not KEY=VALUE"),
        ("label:=spot", "is not KEY=VALUE"),
        ("fast-nic=nan", "must be a number"),
    ],
)
def test_what_ray_could_not_place_is_refused_here(pair: str, told: str) -> None:
    with pytest.raises(typer.BadParameter, match=told):
        ray_pool(1, [pair], "--decode-ray")
    with pytest.raises(typer.BadParameter, match="twice"):
        ray_pool(1, ["zone=1", "zone=2"], "--decode-ray")
    with pytest.raises(SettingsError, match="at least 1"):
        RayPool(workers=0)


def test_an_engine_of_four_gpus_has_them_in_one_actor_and_runs_its_own_processes_there() -> None:
    tensor_parallel = ("--engine-arg", "tensor_parallel_size=4", "--engine-arg", "distributed_executor_backend=mp")
    pool = RayPool(num_gpus=4, extra_args=tensor_parallel)
    seen = worker_spec(cluster(decode=pool), PORTS, RayWorker("decode", 2), {})
    assert pool.bundle()["GPU"] == actor_options(pool)["num_gpus"] == 4
    assert of_option(seen.argv, "--engine-arg") == ["tensor_parallel_size=4", "distributed_executor_backend=mp"]
    assert seen.cpus is None, "Ray says which GPUs it sees, and nobody else does"
    assert (seen.name, of_option(seen.argv, "--worker-id")) == ("decode-2", ["decode-2"])
    of_prefill = worker_spec(cluster(decode=pool), PORTS, RayWorker("prefill", 0), {})
    assert of_option(of_prefill.argv, "--engine-arg") == []


def test_a_worker_without_gpus_has_as_many_cores_as_ray_counts_for_it() -> None:
    four = cluster(decode=RayPool(num_cpus=4), flex=RayPool(num_cpus=2))
    workers = RayWorker("prefill", 0), RayWorker("decode", 1), RayWorker("decode", 0, flex=True)
    assert [worker_spec(four, PORTS, one, {}).cpus for one in workers] == [1, 4, 2]


def test_each_process_is_given_its_own_certificate_and_listens_in_plain_text_only_if_told(tmp_path: Path) -> None:
    mesh = Mesh(new_ca())
    secured = cluster(ca=None)
    worker = worker_spec(secured, PORTS, RayWorker("decode", 1), files := mesh.of_worker("decode/decode-1"))
    write_private(tmp_path, files)
    (cert,) = of_option(worker.argv, "--tls-cert")
    assert cert == files_of(Path("{files}"), "own").cert
    assert TlsSource(files_of(tmp_path, "own")).current().identities == (Identity("decode", "decode-1"),)
    router = router_spec(secured, PORTS, mesh.of_router("10.0.0.1"))
    assert of_option(router.argv, "--public-tls-cert") == of_option(router.argv, "--tls-cert") == [cert]
    both = TlsFiles(*(str(tmp_path / name) for name in ("own.crt", "own.key", "ca.crt")))
    assert files_of(tmp_path, "own") == both
    for spec in (worker, router):
        assert "PRIVATE KEY" not in repr(spec)
        assert "PRIVATE KEY" not in " ".join(spec.argv)
        assert "--insecure" not in spec.argv
    plain = worker_spec(cluster(insecure=True), PORTS, RayWorker("decode", 1), {})
    assert "--insecure" in plain.argv
    assert "--tls-cert" not in plain.argv


def test_a_cluster_does_not_show_its_ca_s_key() -> None:
    assert "PRIVATE KEY" not in repr(cluster(ca=new_ca()))
