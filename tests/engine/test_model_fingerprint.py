from __future__ import annotations

from pathlib import Path

import pytest

from segue.base.errors import SettingsError
from segue.engine.model_fingerprint import model_fingerprint

MIB = 1 << 20


def a_model(folder: Path, config: str = '{"layers": 4}', weights: bytes = bytes(3 * MIB)) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(weights)
    return str(folder)


def test_the_same_files_have_the_same_name_wherever_they_are(tmp_path: Path) -> None:
    one, two = (model_fingerprint(a_model(tmp_path / name), None) for name in ("one", "two"))
    assert one == two
    assert len(one) == 16
    int(one, 16)


@pytest.mark.parametrize("at", [0, MIB - 1, 2 * MIB, 3 * MIB - 1])
def test_other_weights_of_the_same_shape_have_another_name(tmp_path: Path, at: int) -> None:
    """A fine-tune differs at both ends of its files; the middle is not read."""
    tuned = bytearray(3 * MIB)
    tuned[at] = 1
    base = model_fingerprint(a_model(tmp_path / "base"), None)
    assert model_fingerprint(a_model(tmp_path / "tuned", weights=bytes(tuned)), None) != base


def test_another_configuration_size_or_file_is_another_name(tmp_path: Path) -> None:
    folders = [
        a_model(tmp_path / "base"),
        a_model(tmp_path / "config", config='{"layers": 5}'),
        a_model(tmp_path / "longer", weights=bytes(3 * MIB + 1)),
        a_model(tmp_path / "shorter", weights=bytes(10)),
        a_model(tmp_path / "more"),
        a_model(tmp_path / "renamed"),
    ]
    (tmp_path / "more" / "extra.bin").write_bytes(b"x")
    (tmp_path / "renamed" / "model.safetensors").rename(tmp_path / "renamed" / "other.safetensors")
    assert len({model_fingerprint(folder, None) for folder in folders}) == len(folders)


def test_what_is_no_weights_does_not_count(tmp_path: Path) -> None:
    one, two = a_model(tmp_path / "one"), a_model(tmp_path / "two")
    (tmp_path / "two" / "README.md").write_text("read me")
    assert model_fingerprint(one, None) == model_fingerprint(two, None)


def test_a_hub_id_is_named_by_id_and_revision() -> None:
    assert model_fingerprint("org/tiny", None) == model_fingerprint("org/tiny", "main")
    assert len({model_fingerprint("org/tiny", r) for r in (None, "v1", "v2")} | {model_fingerprint("org/x", "v1")}) == 4


def test_a_folder_that_holds_no_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"{tmp_path} has no config.json"):
        model_fingerprint(str(tmp_path), None)
