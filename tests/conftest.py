"""What the tests with real engines share: the model, and a plain engine to hold answers against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from xdist.remote import Producer

from segue.engine.embedded_model import ensure_embedded_model
from tests.e2e.reference import Reference
from tests.scheduling import EnginesTogether
from tests.simulated import SimulatedCluster, running_simulation

# Machines are shared: what takes long says nothing about the code.
_ON_SHARED_CORES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples whenever the code is the same: what fails, fails for a change, and for whoever looks into it, too.
settings.register_profile("the same again", _ON_SHARED_CORES, derandomize=True)
settings.register_profile("explore", _ON_SHARED_CORES)  # Others each time: --hypothesis-profile=explore
settings.load_profile("the same again")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Variants run when they are asked for (``-m variant``, or by name), not with everything else."""
    if "variant" in config.option.markexpr or any("::" in argument for argument in config.args):
        return
    left_out = [item for item in items if item.get_closest_marker("variant")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("variant")]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> EnginesTogether:
    return EnginesTogether(config, log)


@pytest.fixture(scope="session", autouse=True)
def _logs_can_be_captured() -> Iterator[None]:
    """After a test has set up logging as a process does, too: a logger would remember that for ever."""
    configure = structlog.configure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", partial(_configure_without_cache, configure))
        yield


def _configure_without_cache(configure: Callable[..., None], **settings: Any) -> None:
    configure(**settings | {"cache_logger_on_first_use": False})


@pytest.fixture(scope="session")
def model() -> str:
    return str(ensure_embedded_model())


@pytest.fixture(scope="session")
def reference(model: str) -> Iterator[Reference]:
    with Reference(model) as engine:
        yield engine


@pytest.fixture(scope="session")
def simulated_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedCluster]:
    """A router, a prefill and a decode worker that compute nothing; one for all tests of a process."""
    with running_simulation(tmp_path_factory.mktemp("simulated"), "--prefill", "1", "--decode", "1") as cluster:
        yield cluster
