"""Checkpoints are whole or absent: torn and altered ones are found out, and the one before is taken."""

import pytest

from mutual.engine.checkpoints import FORMAT, Checkpoints, ForeignFormatError, read_checkpoint
from mutual.engine.files import write_file, write_folder

FILES = {"training.pt": b"state" * 100, "a.safetensors": b"weights" * 100}


@pytest.fixture
def checkpoints(tmp_path):
    kept = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (1, 2, 3):
        kept.save(step, {**FILES, "step": str(step).encode()})
    return kept


def test_the_last_k_are_kept(checkpoints):
    assert [path.name for path in checkpoints.paths()] == ["step_00000002", "step_00000003"]


def test_the_newest_is_read(checkpoints):
    assert checkpoints.latest() == {**FILES, "step": b"3"}


def alter_a_byte(path):
    content = bytearray((path / "a.safetensors").read_bytes())
    content[50] ^= 1
    (path / "a.safetensors").write_bytes(content)


def cut_a_file(path):
    (path / "training.pt").write_bytes(FILES["training.pt"][:20])


def lose_a_file(path):
    (path / "a.safetensors").unlink()


def lose_the_manifest(path):
    (path / "manifest.json").unlink()


def garble_the_manifest(path):
    (path / "manifest.json").write_bytes(b"\xff{")


@pytest.mark.parametrize("damage", [alter_a_byte, cut_a_file, lose_a_file, lose_the_manifest, garble_the_manifest])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(checkpoints, damage):
    """Invariant 10."""
    damage(checkpoints.paths()[-1])
    with pytest.warns(UserWarning, match="step_00000003.*taking the checkpoint before it"):
        assert checkpoints.latest() == {**FILES, "step": b"2"}


def test_a_checkpoint_of_another_version_is_refused_and_not_thrown_away(checkpoints):
    manifest = checkpoints.paths()[-1] / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    with pytest.raises(ForeignFormatError, match=r"step_00000003 has format 99.*resume it with the version that wrote it"):
        checkpoints.latest()


def test_none_is_taken_where_all_are_damaged(checkpoints):
    for path in checkpoints.paths():
        alter_a_byte(path)
    with pytest.warns(UserWarning, match="checksum"):
        assert checkpoints.latest() is None


def test_an_interrupted_write_leaves_no_checkpoint(checkpoints, monkeypatch):
    """A write that dies half way is invisible, and the next one cleans up after it."""
    monkeypatch.setattr("mutual.engine.files._sync_folder", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(4, FILES)
    monkeypatch.undo()
    assert checkpoints.latest() == {**FILES, "step": b"3"}
    checkpoints.save(5, FILES)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step_00000003", "step_00000005"]


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "folder" / "file"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_folder_is_replaced_whole(tmp_path):
    write_folder(tmp_path / "x", {"a": b"1", "b": b"2"})
    write_folder(tmp_path / "x", {"a": b"3"})
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "x").iterdir()} == {"a": b"3"}


def test_a_file_that_is_no_checkpoint_is_told_in_a_line(tmp_path):
    with pytest.raises(ValueError, match="torn"):
        read_checkpoint(tmp_path)
