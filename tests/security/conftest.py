from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.router.access import caller
from tests.security.mesh import Authority


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ours")


@pytest.fixture
def strangers(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "strangers")


@pytest.fixture(autouse=True)
def _nobody_calls_afterwards() -> Iterator[None]:
    """A gate that a test asks itself, outside of any request, says who calls to all that comes after it."""
    yield
    caller._NAME.set(None)
