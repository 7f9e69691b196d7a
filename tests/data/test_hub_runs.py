"""Runs on a table of Hugging Face `datasets`: resumed in mid-epoch, with loader processes, on two ranks, moved, scored and exported."""

import json
import shutil

import datasets
import pytest
import safetensors.torch
import torch
import yaml
from support import digests, run, tiny_document
from tables import png, write_parquet

import mutual
from mutual import evaluate, export, predict
from mutual.recipe import InputError, parse_recipe


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Where `datasets` keeps what it converts, in this process and in others."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that holds the data set, `owls`: 28 training and 6 validation images."""
    folder = tmp_path_factory.mktemp("data")
    write_parquet(folder / "owls", number=28)
    return folder


def document_of(place, output, **data):
    augment = [{"name": "random_resized_crop", "scale": [0.5, 1.0]}, {"name": "rotation", "degrees": 20}]
    fields = {"dataset": "hfds/owls", "root": str(place), "channels": 1, "image_size": 8, "batch_size": 4, "augment": augment}
    return tiny_document(
        output=str(output),
        data={**fields, **data},
        train={"epochs": 2, "progress": False},
        checkpoint={"every_steps": 1, "keep": 100},
    )


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """A finished run of 14 updates, with a checkpoint of each."""
    return mutual.fit(parse_recipe(document_of(place, tmp_path_factory.mktemp("whole")))).folder


def cut(whole, output, step):
    """A copy of the run as it was after so many updates, but for weights and metrics of later epochs."""
    folder = shutil.copytree(whole, output / whole.name)
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path)
    return folder


def test_a_run_that_was_cut_in_mid_epoch_ends_as_it_did(whole, place, tmp_path):
    cut(whole, tmp_path, 10)
    assert digests(mutual.fit(parse_recipe(document_of(place, tmp_path)), resume=True).folder) == digests(whole)


def test_data_that_were_moved_are_the_same_and_others_are_not(whole, place, tmp_path):
    moved = shutil.copytree(place, tmp_path / "moved")
    cut(whole, tmp_path, 10)
    assert digests(mutual.fit(parse_recipe(document_of(moved, tmp_path)), resume=True).folder) == digests(whole)
    shutil.rmtree(tmp_path / "tiny")
    cut(whole, tmp_path, 10)
    write_parquet(tmp_path / "other" / "owls", number=28, num_val=7)
    with pytest.raises(InputError, match=r"number of validation images: 6 then, 7 now"):
        mutual.fit(parse_recipe(document_of(tmp_path / "other", tmp_path)), resume=True)


@pytest.mark.slow
def test_loader_processes_change_nothing_of_a_run(whole, place, tmp_path):
    """Resumed in mid-epoch, too."""
    cut(whole, tmp_path, 3)
    result = mutual.fit(parse_recipe(document_of(place, tmp_path, workers=2)), resume=True)
    assert digests(result.folder) == digests(whole)


@pytest.mark.slow
def test_two_ranks_train_as_one_does(place, tmp_path, cache):
    """Both convert the data set, of which there must be one copy in the end."""
    own = shutil.copytree(place, tmp_path / "own")
    before = set(cache.rglob("*.arrow"))
    weights = {}
    for name, batch_size, processes in (("one", 8, 1), ("two", 4, 2)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document_of(own if processes == 2 else place, tmp_path / name, batch_size=batch_size)))
        run("mutual.train", path, processes=processes)
        weights[name] = safetensors.torch.load_file(tmp_path / name / "tiny" / "last" / "a.safetensors")
    for key, value in weights["one"].items():
        torch.testing.assert_close(weights["two"][key], value, rtol=1e-10, atol=1e-10)
    assert len(set(cache.rglob("*.arrow")) - before) == 2


def test_a_run_is_scored_used_and_exported_as_one_on_files_is(whole, tmp_path, capsys):
    def printed(verb, *arguments):
        assert verb.main([str(whole), *map(str, arguments), "--factory", "support:double"]) == 0
        return capsys.readouterr().out

    lines = [json.loads(line)["eval"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    scores = json.loads(printed(evaluate, "--json"))
    for name in ("a", "b"):
        assert any(scores[name]["top1"] == line[name]["top1"] for line in lines)
    (tmp_path / "a.png").write_bytes(png(5))
    assert '"cat"' in printed(predict, tmp_path / "a.png", "--topk", 3, "--json")
    printed(export, "--format", "safetensors", "--output", tmp_path / "out")
    with safetensors.safe_open(next((tmp_path / "out").glob("*.safetensors")), "pt") as file:
        assert '"owl"' in str(file.metadata())
