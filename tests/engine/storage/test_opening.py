"""What a training finds in its run folder: nothing of the user's is removed, nothing that was trained is begun anew unasked."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
import yaml
from attacks import take_disk_away
from support import run, tiny_document

import mutual
from mutual.engine.storage.files import MARK, replaced
from mutual.engine.storage.lock import LOCK, locked
from mutual.engine.storage.run_folder import RunFolder
from mutual.recipe import InputError, RecipeError, parse_recipe

DOCUMENT = tiny_document(checkpoint={"every_steps": 2, "keep": 2}, train={"epochs": 2, "progress": False, "log_every": 2})


def recipe(output, **train):
    return parse_recipe({**DOCUMENT, "output": str(output), "train": {**DOCUMENT["train"], **train}})


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs")
    mutual.fit(recipe(output))
    return output


@pytest.fixture
def output(trained, tmp_path):
    """The runs folder with one finished run, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


MODES = [{}, {"resume": True}, {"overwrite": True}]


@pytest.mark.parametrize("mode", MODES)
def test_a_folder_of_the_users_own_is_left_alone(tmp_path, mode):
    """It has a recipe.yaml, best/, last/ and export/, and no mark of ours."""
    folder = tmp_path / "tiny"
    for name in ("recipe.yaml", "best/a.safetensors", "last/notes.txt", "export/thesis.pdf", "checkpoints/step_00000001/x.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    before = contents(folder)
    with pytest.raises(InputError, match=r"holds recipe.yaml, checkpoints, last, best, export and not the mark of a run"):
        mutual.fit(recipe(tmp_path), **mode)
    assert contents(folder) == before


@pytest.mark.parametrize("mode", MODES)
def test_a_file_in_the_folders_place_is_left_alone(tmp_path, mode):
    (tmp_path / "tiny").write_text("mine")
    with pytest.raises(InputError, match="tiny is a file, where the run's folder should be"):
        mutual.fit(recipe(tmp_path), **mode)
    assert (tmp_path / "tiny").read_text() == "mine"


def test_overwrite_removes_what_we_wrote_and_nothing_else(output):
    folder = output / "tiny"
    mine = [
        "notes.txt",
        "best/mine.safetensors",
        "last/a.txt",
        "export/a.txt",
        "checkpoints/plan.txt",
        "checkpoints/step_00000008/mine.txt",
    ]
    mine += ["checkpoints/step_1/training.pt", "events.out.tfevents.mine", "elsewhere/a.safetensors"]
    for name in mine:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    (folder / "export" / "a.onnx").write_text("ours")
    result = mutual.fit(recipe(output, epochs=1), overwrite=True)
    assert all((folder / name).read_text() == "mine" for name in mine)
    assert not (folder / "export" / "a.onnx").exists()
    assert [path.name for path in RunFolder(folder).checkpoints().paths()] == ["step_00000004", "step_00000005"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    assert result.folder == folder


def test_a_run_is_not_trained_over_unasked(output):
    before = contents(output)
    with pytest.raises(InputError, match="holds a checkpoint; add --resume to go on"):
        mutual.fit(recipe(output))
    shutil.rmtree(output / "tiny" / "checkpoints")
    with pytest.raises(InputError, match="holds trained weights; add --resume"):
        mutual.fit(recipe(output))
    assert contents(output).items() <= before.items()


def test_resuming_a_finished_run_changes_nothing_that_counts(output):
    before = contents(output)
    mutual.fit(recipe(output), resume=True)
    changed = {name for name, content in contents(output).items() if before.get(name) != content}
    assert all("tfevents" in name or name == "tiny/recipe.yaml" for name in changed), "the recipe says the new output"


def damage_checkpoints(folder):
    for path in RunFolder(folder).checkpoints().paths():
        (path / "training.pt").write_bytes(b"torn")


def test_a_run_whose_checkpoints_are_all_torn_is_left_as_it_is(output):
    damage_checkpoints(output / "tiny")
    before = contents(output)
    with pytest.warns(UserWarning, match="is altered"), pytest.raises(InputError, match="none of the 2 checkpoints"):
        mutual.fit(recipe(output), resume=True)
    assert contents(output) == before


def test_a_disk_that_does_not_answer_ends_the_run_and_leaves_it_as_it_is(output, monkeypatch):
    before = contents(output)
    take_disk_away(monkeypatch, ".pt")
    with pytest.raises(OSError, match="Stale file handle"):
        mutual.fit(recipe(output), resume=True)
    monkeypatch.undo()
    assert contents(output) == before


def test_the_epoch_before_its_checkpoint_is_written_once(tmp_path, monkeypatch):
    """`every_steps` divides the epoch's last step: the checkpoint behind the evaluation is the only one of that step."""
    from mutual.engine.storage.checkpoint_store import CheckpointStore

    steps, save = [], CheckpointStore.save
    monkeypatch.setattr(
        CheckpointStore, "save", lambda self, step, *args, **options: (steps.append(step), save(self, step, *args, **options))
    )
    document = {**DOCUMENT, "output": str(tmp_path), "checkpoint": {"every_steps": 5, "keep": 2}}
    mutual.fit(parse_recipe(document))
    assert steps == [5, 10]
    steps.clear()
    mutual.fit(parse_recipe({**document, "name": "seldom", "checkpoint": {"every_steps": 5, "every_epochs": 2, "keep": 2}}))
    assert steps == [5, 10]


def test_a_folder_in_which_a_training_runs_is_refused(output):
    with locked(output / "tiny"):
        for mode in MODES:
            with pytest.raises(InputError, match="is being trained in by"):
                mutual.fit(recipe(output), **mode)


def test_a_mistake_leaves_no_folder(tmp_path):
    wrong = parse_recipe(
        {**DOCUMENT, "output": str(tmp_path / "runs"), "peers": {"a": {"model": "pplcnet_x9"}, "b": {"model": "small_cnn"}}}
    )
    with pytest.raises(RecipeError, match="is no model"):
        mutual.fit(wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_leaves_what_is_there(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place, error in ((tmp_path / "file", NotADirectoryError), (tmp_path / ("n" * 300), OSError)):
        with pytest.raises(error):
            mutual.fit(recipe(place))
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_changed_recipe_of_a_run_is_noticed(output):
    file = output / "tiny" / "recipe.yaml"
    file.write_text(file.read_text().replace("image_size: 8", "image_size: 9"))
    for use in (lambda: mutual.fit(recipe(output), resume=True), lambda: mutual.load_peer(output / "tiny")):
        with pytest.raises(InputError, match=r"recipe.yaml is not as the run wrote it; undo the change"):
            use()


def test_a_run_keeps_the_precision_and_the_threads_that_it_was_begun_with(tmp_path, monkeypatch):
    begun = parse_recipe({**DOCUMENT, "output": str(tmp_path), "train": {"epochs": 1, "progress": False}})
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    number = torch.get_num_threads()
    # the variable is a launcher's, and who has started the tests is asked whether somebody chose the threads
    monkeypatch.setattr("mutual.engine.runtime.launch_settings.chosen_threads", lambda: number)
    mutual.fit(begun)
    written = RunFolder(tmp_path / "tiny").recipe()
    assert (written.train.precision, written.train.threads) == ("bf16", number)
    assert torch.get_num_threads() == number
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    mutual.fit(begun, resume=True)
    assert RunFolder(tmp_path / "tiny").recipe().train.precision == "bf16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(RecipeError, match="the run was started with 'bf16' and the launcher asks for 'fp16'"):
        mutual.fit(begun, resume=True)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    for key, value in (("precision", "no"), ("threads", number + 1)):
        with pytest.raises(RecipeError, match=rf"train.{key}: the run was started with '?\w+'? and cannot go on with"):
            mutual.fit(begun.model_copy(update={"train": begun.train.model_copy(update={key: value})}), resume=True)


def test_the_recipe_of_a_run_says_what_its_numbers_depend_on(trained):
    notes = yaml.safe_load((trained / "tiny" / "recipe.yaml").read_text())["x-environment"]
    assert notes["torch"] == torch.__version__.partition("+")[0] or notes["torch"] == torch.__version__
    assert (notes["device"], notes["processes"]) == ("cpu", 1)


def test_metrics_of_a_resumed_run_come_from_its_checkpoint(output):
    """A damaged metrics.jsonl neither stops the run nor stays."""
    file = output / "tiny" / "metrics.jsonl"
    before = file.read_text()
    file.write_bytes(b'{"epoch": \xff')
    mutual.fit(recipe(output), resume=True)
    assert file.read_text() == before
    assert [json.loads(line)["epoch"] for line in before.splitlines()] == [1, 2]


def test_without_its_mark_a_run_is_not_ours(output):
    (output / "tiny" / MARK).unlink()
    before = contents(output)
    for mode in MODES:
        with pytest.raises(InputError, match="not the mark of a run"):
            mutual.fit(recipe(output), **mode)
    assert contents(output) == before
    mutual.load_peer(output / "tiny", factory="support:double")  # to read it none is needed


RANKS = {
    **DOCUMENT,
    "placement": "parallel",
    "train": {"epochs": 2, "progress": False},
    "checkpoint": {"every_epochs": 1, "keep": 2},
}


@pytest.mark.slow
def test_ranks_without_the_folder_resume_from_what_rank_0_sends(tmp_path):
    """Each rank has a disk of its own: `output` is a link that leads elsewhere on rank 1."""
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RANKS))
    whole = run("apart_train", tmp_path / "r.yaml", f"output={tmp_path / 'whole'}", processes=2)
    assert "done in" in whole.stdout
    arguments = ("apart_train", tmp_path / "r.yaml", f"output={tmp_path / 'cut'}")
    shutil.copytree(tmp_path / "whole_0", tmp_path / "cut_0")
    newest = tmp_path / "cut_0" / "tiny" / "checkpoints" / "step_00000006"
    shutil.rmtree(newest)
    run(*arguments, "--resume", processes=2)
    ended = [(tmp_path / output / "tiny" / "last" / "a.safetensors").read_bytes() for output in ("whole_0", "cut_0")]
    assert ended[0] == ended[1]
    assert not (tmp_path / "cut_1").exists(), "rank 1 needs nothing and leaves nothing"

    shutil.rmtree(newest)
    shutil.copytree(tmp_path / "whole_0", tmp_path / "cut_1")
    done = run(*arguments, "--resume", processes=2, expect=1)
    line = f"step_00000006 on rank 1 ({socket.gethostname()}) is not what rank 0"
    assert done.stderr.count(line) == 1


@pytest.mark.slow
def test_ranks_with_other_data_are_reported(tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RANKS))
    done = run("apart_train", tmp_path / "r.yaml", f"output={tmp_path / 'x'}", processes=2, expect=1, APART_IMAGES="1")
    assert done.stderr.count("reads others than rank 0") == 1
    assert "number of training images: 40 on rank 0, 41 on rank 1" in done.stderr


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/step_00000010", "best"])
def test_what_a_link_leads_to_is_left_alone(output, tmp_path, place, mode):
    """As where a run was begun from a link to another one's checkpoints."""
    other = tmp_path / "other"
    (output / "tiny" / place).rename(other)
    (output / "tiny" / place).symlink_to(other)
    before = contents(other)
    with pytest.raises(InputError, match=f"{place} is a link to {other}, which may be another run's"):
        mutual.fit(recipe(output), **mode)
    assert contents(other) == before


def test_links_in_the_place_of_files_that_are_written_are_not_followed(output, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    for name in (LOCK, ".unfinished-recipe.yaml"):
        (output / "tiny" / name).symlink_to(mine)
        with pytest.raises(OSError, match=name):
            mutual.fit(recipe(output), resume=True)
        (output / "tiny" / name).unlink(missing_ok=True)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("left", ["moved aside", "weights", "exports"])
def test_what_is_left_of_a_run_is_not_gone_on_with_as_another(output, left):
    """A checkpoint that was moved aside when its rewrite was cut is one; and what a run has left without one is not begun anew unasked."""
    folder = output / "tiny"
    checkpoint = folder / "checkpoints" / "step_00000010"
    if left == "moved aside":
        checkpoint.rename(replaced(checkpoint))
        shutil.rmtree(folder / "checkpoints" / "step_00000008")
    else:
        shutil.rmtree(folder / "checkpoints")
    if left == "exports":
        (folder / "best").rename(folder / "export")
        shutil.rmtree(folder / "last")
    before = contents(folder)
    with pytest.raises(InputError, match=f"holds {'a checkpoint' if left == 'moved aside' else 'trained weights'}; add --resume"):
        mutual.fit(recipe(output))
    with pytest.raises(InputError, match=r"train.epochs: the run was started with 2 and cannot go on with 3"):
        mutual.fit(recipe(output, epochs=3), resume=True)
    assert contents(folder) == before
    mutual.fit(recipe(output), resume=True)
    assert set(contents(folder)) - {str(path) for path in folder.glob("events*")} >= {"best/a.safetensors", "last/b.safetensors"}


def test_a_lock_file_of_the_users_own_stays(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / ".lock").write_text("mine")
    mutual.fit(recipe(tmp_path, epochs=1))
    assert (tmp_path / "tiny" / ".lock").read_text() == "mine"


def test_links_that_lead_nowhere_are_the_users_own(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "best").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="holds best and not the mark"):
        mutual.fit(recipe(tmp_path))
    assert not (tmp_path / "gone").exists()
