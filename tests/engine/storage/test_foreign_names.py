"""What the files of a run folder name is looked for in that folder alone: they may be anybody's (invariant 11)."""

import io
import json
import shutil

import pytest
import torch
from support import tiny_document

import mutual
from mutual.engine.storage import MARK, RunFolder, remove, sha256
from mutual.recipe import InputError, parse_recipe

NET = {"model": "small_cnn", "args": {"widths": [4], "strides": [2]}}


def recipe_of(output, name="tiny", epochs=2, **fields):
    train, checkpoint = {"epochs": epochs, "progress": False}, {"keep_best": 1, "keep": 2}
    return parse_recipe(
        tiny_document(output=str(output), name=name, peers={"a": NET, "b": NET}, train=train, checkpoint=checkpoint, **fields)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return mutual.fit(recipe_of(tmp_path_factory.mktemp("trained"))).folder


def state_that_names(folder, file, digest):
    """Makes the run's checkpoint one whose best weights are said to be `file`, too."""
    path = max((folder / "checkpoints").iterdir())
    state = torch.load(path / "training.pt", weights_only=True)
    state["best"]["sha256"][file] = digest
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (path / "training.pt").write_bytes(buffer.getvalue())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"]["training.pt"] = sha256(buffer.getvalue())
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.filterwarnings("ignore:.*is missing or damaged")
@pytest.mark.parametrize("name", ["{outside}/my-model", "../../outside/my-model"])
def test_weights_elsewhere_that_best_json_names_are_not_removed(name, trained, tmp_path):
    foreign = tmp_path / "outside" / "my-model.safetensors"
    foreign.parent.mkdir()
    foreign.write_bytes(b"not ours")
    folder = shutil.copytree(trained, tmp_path / "tiny")
    best = json.loads((folder / "best" / "best.json").read_text())
    best["sha256"][f"best/{name.format(outside=foreign.parent)}"] = [sha256(b"not ours")]
    (folder / "best" / "best.json").write_text(json.dumps(best))
    shutil.rmtree(max((folder / "checkpoints").iterdir()))
    mutual.fit(recipe_of(tmp_path), resume=True)
    assert foreign.read_bytes() == b"not ours"


def test_an_extension_writes_no_weights_elsewhere_that_a_checkpoint_names(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "deep" / "er" / "tiny")
    (tmp_path / "deep" / "x.safetensors").write_bytes(b"theirs")
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    state_that_names(folder, "best/../../../x", sha256(b"theirs"))
    mutual.fit(recipe_of(tmp_path / "mine", "longer", 3, extended_from={"run": str(folder)}))
    assert (tmp_path / "x.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["{outside}/x", "best/../../x", "../x"])
def test_nothing_is_removed_outside_of_the_run_folder(name, tmp_path):
    root = tmp_path / "run"
    (root / "best").mkdir(parents=True)
    (root / MARK).write_text("{}")
    (tmp_path / "x").write_text("not ours")
    with pytest.raises(InputError, match="outside"):
        remove([root / name.format(outside=tmp_path)], root=root)
    assert (tmp_path / "x").read_text() == "not ours"


def test_best_json_that_names_files_elsewhere_is_damaged(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "tiny")
    best = json.loads((folder / "best" / "best.json").read_text())
    best["sha256"]["best/../../x"] = ["0"]
    (folder / "best" / "best.json").write_text(json.dumps(best))
    with pytest.raises(InputError, match="damaged"):
        RunFolder(folder).read_best()
