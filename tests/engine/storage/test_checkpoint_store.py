"""CheckpointStore are whole or absent: torn and altered ones are found out, the one before is taken, and none that is good is pruned."""

import errno
import os
from pathlib import Path

import pytest
from attacks import take_disk_away

from mutual.engine.storage import files
from mutual.engine.storage.checkpoint_store import FORMAT, CheckpointStore, ForeignFormatError, read_checkpoint
from mutual.engine.storage.files import MARK, remove, write_file, write_folder
from mutual.recipe import InputError

FILES = {"training.pt": b"state" * 100, "a.safetensors": b"weights" * 100}


@pytest.fixture
def root(tmp_path):
    (tmp_path / MARK).write_text('{"peers": ["a"]}')
    return tmp_path


def saved(root, *steps, keep=2):
    kept = CheckpointStore(root, keep=keep)
    for step in steps:
        kept.save(step, {**FILES, "step.pt": str(step).encode()})
    return kept


@pytest.fixture
def checkpoints(root):
    return saved(root, 1, 2, 3)


def names(checkpoints):
    return [path.name for path in checkpoints.paths()]


def test_the_last_k_are_kept(checkpoints):
    assert names(checkpoints) == ["step_00000002", "step_00000003"]


def test_the_newest_is_read(checkpoints):
    newest = checkpoints.latest()
    assert (newest.step, newest.files) == (3, {**FILES, "step.pt": b"3"})


def test_steps_are_ordered_as_numbers(root):
    checkpoints = saved(root, 99_999_999, 100_000_000)
    assert checkpoints.latest().step == 100_000_000


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


def list_another_file(path):
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("training.pt", "../training.pt"))


def hold_another_step(path):
    other = path.with_name("step_00000002")
    path.rename(path.with_name("aside"))
    other.rename(path)
    path.with_name("aside").rename(other)


DAMAGES = [alter_a_byte, cut_a_file, lose_a_file, lose_the_manifest, garble_the_manifest, list_another_file]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(checkpoints, damage):
    """Invariant 10."""
    damage(checkpoints.paths()[-1])
    with pytest.warns(UserWarning, match="step_00000003.*taking the checkpoint before it"):
        assert checkpoints.latest().step == 2


def test_a_checkpoint_of_another_version_is_refused_and_not_thrown_away(checkpoints):
    manifest = checkpoints.paths()[-1] / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    with pytest.raises(ForeignFormatError, match=r"step_00000003 has format 99.*resume it with the version that wrote it"):
        checkpoints.latest()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(checkpoints, damage):
    for path in checkpoints.paths():
        damage(path)
    before = sorted(checkpoints.folder.rglob("*"))
    with (
        pytest.warns(UserWarning, match="taking the checkpoint before"),
        pytest.raises(InputError, match=r"none of the 2 checkpoints .* is whole.*nothing was changed"),
    ):
        checkpoints.latest()
    assert sorted(checkpoints.folder.rglob("*")) == before


def test_checkpoints_that_changed_places_are_found_out(checkpoints):
    hold_another_step(checkpoints.paths()[-1])
    with pytest.warns(UserWarning, match="is not of this step: it holds step 2"), pytest.raises(InputError, match="is whole"):
        checkpoints.latest()


def test_a_disk_that_does_not_answer_is_not_taken_for_a_damaged_checkpoint(checkpoints, monkeypatch):
    """A stale network handle says nothing of the file: the run must not begin anew because of it."""
    take_disk_away(monkeypatch, ".safetensors")
    with pytest.raises(OSError, match="Stale file handle"):
        checkpoints.latest()


def test_no_checkpoint_is_none(root):
    assert CheckpointStore(root, keep=1).latest() is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_pruning_counts_whole_checkpoints_alone(root, damage):
    """The newest is torn, the run goes on from the one before: what it then writes must not be pruned in favour of the torn one."""
    damage(saved(root, 10, 20, 30, keep=3).paths()[-1])
    checkpoints = CheckpointStore(root, keep=1)
    with pytest.warns(UserWarning, match="taking the checkpoint before it"):
        assert checkpoints.latest().step == 20
    checkpoints.save(25, FILES)
    assert names(checkpoints)[:-1] == ["step_00000025"], "the one just written stays, whatever lies behind it"
    with pytest.warns(UserWarning, match="taking the checkpoint before it"):
        assert checkpoints.latest().step == 25
    checkpoints.save(30, FILES)
    assert names(checkpoints) == ["step_00000030"]


def test_nothing_is_pruned_for_a_damaged_checkpoint(root):
    checkpoints = saved(root, 1, 2, keep=2)
    alter_a_byte(checkpoints.paths()[-1])
    again = CheckpointStore(root, keep=2)
    again.save(3, FILES)
    assert names(again) == ["step_00000001", "step_00000002", "step_00000003"], "1 and 3 are the two whole ones"
    again.save(4, FILES)
    assert names(again) == ["step_00000003", "step_00000004"]


@pytest.mark.parametrize("stage", ["unfinished", "moved aside", "renamed"])
def test_a_rewritten_step_is_there_at_every_moment(root, monkeypatch, stage):
    """Killed anywhere in the second write of a step, one whole checkpoint of it is left."""
    checkpoints = saved(root, 7, keep=1)

    class Killed(BaseException):
        pass

    rename, written, removed = Path.rename, files._write_synced, files.remove

    def killed(*_, **__):
        raise Killed

    if stage == "unfinished":
        monkeypatch.setattr(
            files, "_write_synced", lambda path, content: killed() if path.name == "training.pt" else written(path, content)
        )
    elif stage == "moved aside":
        monkeypatch.setattr(Path, "rename", lambda path, to: killed() if path.name.startswith(".unfinished") else rename(path, to))
    else:
        monkeypatch.setattr(
            files, "remove", lambda paths, root: killed() if ".replaced" in str(paths := list(paths)) else removed(paths, root=root)
        )
    with pytest.raises(Killed):
        checkpoints.save(7, FILES)
    monkeypatch.undo()
    assert CheckpointStore(root, keep=1).latest().step == 7
    saved(root, 7, keep=1)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step_00000007"], "the next write leaves nothing of it behind"


def test_an_interrupted_write_leaves_no_checkpoint(checkpoints, monkeypatch):
    """A write that fails half way is invisible, and leaves nothing on a disk that is full."""
    monkeypatch.setattr("mutual.engine.storage.files._sync_folder", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(4, FILES)
    monkeypatch.undo()
    assert checkpoints.latest().step == 3
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step_00000002", "step_00000003"]
    checkpoints.save(5, FILES)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step_00000003", "step_00000005"]


def test_what_others_put_among_checkpoints_stays(root):
    checkpoints = saved(root, 1, keep=1)
    mine = [
        checkpoints.folder / "step_notes",
        checkpoints.folder / "step_00000009" / "mine.txt",
        checkpoints.folder / "step_00000001" / "x.txt",
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    checkpoints.save(2, FILES)
    remove(checkpoints.files(), root=root)
    assert all(path.read_text() == "mine" for path in mine)
    assert names(checkpoints) == []


def test_nothing_is_removed_from_a_folder_without_our_mark(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(InputError, match="does not carry the mark of a run"):
        remove([tmp_path / "x"], root=tmp_path)
    assert (tmp_path / "x").exists()


def test_links_are_removed_and_not_followed(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine").write_text("mine")
    (root / "link").symlink_to(elsewhere)
    remove([root / "link"], root=root)
    assert not (root / "link").exists()
    assert (elsewhere / "mine").exists()


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "folder" / "file"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_folder_is_replaced_whole(root):
    write_folder(root / "x", {"a": b"1", "b": b"2"}, root=root)
    write_folder(root / "x", {"a": b"3"}, root=root)
    assert {entry.name: entry.read_bytes() for entry in (root / "x").iterdir()} == {"a": b"3"}
    assert sorted(entry.name for entry in root.iterdir()) == [MARK, "x"]


def test_half_a_file_does_not_stay_on_a_full_disk(tmp_path, monkeypatch):
    def full(path, content):
        path.write_bytes(content[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_file(tmp_path / "file", b"old")
    monkeypatch.setattr(files, "_write_synced", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "file", b"new")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"file": b"old"}


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="torn"):
        read_checkpoint(tmp_path)
