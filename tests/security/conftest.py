from __future__ import annotations

from pathlib import Path

import pytest

from tests.security.mesh import Authority


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ours")


@pytest.fixture
def strangers(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "strangers")
