"""A run all parts of which are the user's own: data, transforms, models, optimizer and schedule, from the training to the export."""

import shutil

import pytest
import safetensors.torch
import torch
import yaml
from support import digests, run, tiny_document

import mutual
from mutual.engine.evaluation import evaluate_run
from mutual.engine.storage import RunFolder, peer_files
from mutual.recipe import InputError, RecipeError, parse_recipe

OWN = ["--factory", "support:double", "--dataset", "users_data:noisy"]


def document(output, **sections):
    return tiny_document(
        **{
            "output": str(output),
            "data": {
                "dataset": "users_data:noisy",
                "args": {"length": 41},
                "image_size": 8,
                "channels": 1,
                "batch_size": 8,
                "augment": ["horizontal_flip", "users_parts:Dots"],
            },
            "optimizer": {"name": "users_parts:Noisy", "lr": 0.01, "weight_decay": 0.1, "decay_norm_and_bias": False},
            "schedule": {"name": "users_parts:polynomial", "args": {"power": 2.0}},
            **sections,
        }
    )


def written(folder, **sections):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document(folder, **sections)))
    return folder / "recipe.yaml"


def weights(output):
    return {path.stem: safetensors.torch.load_file(path) for path in sorted((output / "tiny" / "last").iterdir())}


def test_a_resumed_run_is_the_uninterrupted_one_and_other_data_are_refused(tmp_path, monkeypatch):
    whole_document = document(tmp_path / "whole", checkpoint={"every_steps": 4, "keep": 100})
    whole = mutual.fit(whole_document).folder
    cut = shutil.copytree(whole, tmp_path / "cut" / whole.name)
    for path in (cut / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > 8:
            shutil.rmtree(path)
    resumed = {**whole_document, "output": str(tmp_path / "cut")}
    monkeypatch.setattr("users_data.CLASSES", ["plane", "car", "ship"])
    monkeypatch.setattr("users_data.Declared.classes", ["plane", "car", "ship"])
    with pytest.raises(RecipeError, match="classes, number 2: 'bird' then, 'ship' now"):
        mutual.fit(resumed, resume=True)
    monkeypatch.undo()
    changed = {**resumed, "optimizer": {"name": "users_parts:Lion", "lr": 0.01}}
    with pytest.raises(RecipeError, match=r"optimizer\.\w+: the run was started with"):
        mutual.fit(changed, resume=True)
    mutual.fit(resumed, resume=True)
    assert digests(cut) == digests(whole)


def test_no_recipe_of_a_run_chooses_the_code_of_its_data(tmp_path):
    result = mutual.fit(document(tmp_path, train={"epochs": 1, "progress": False}))
    folder = RunFolder(result.folder)
    files = peer_files(folder, None)
    for given in ([], ["users_data:make"]):
        with pytest.raises(InputError, match="come from the data set 'users_data:noisy'; to run that code add --dataset users_data:noisy"):
            evaluate_run(folder.recipe(), files, factories=["support:double"], datasets=given)
    scores = evaluate_run(folder.recipe(), files, factories=["support:double"], datasets=["users_data:noisy"])
    assert scores["a"]["nll"] == pytest.approx(result.metrics["a"]["nll"])


@pytest.mark.slow
def test_every_command_takes_such_a_recipe_or_run(tmp_path):
    teacher = {"model": "support:double", "frozen": True, "store": {"folder": str(tmp_path / "store"), "views": 2}}
    peers = {"a": {"model": "support:double"}, "b": {"model": "support:double"}, "t": teacher}
    objectives = [{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["t"]}]
    recipe = written(tmp_path, peers=peers, objectives=objectives)
    assert "82 computed now" in run("mutual.store", recipe).stdout
    assert "50 records are as computed now" in run("mutual.store", recipe, "--check", "50").stdout
    assert "0 bad, 12 of val that are in train too" in run("mutual.data.check", recipe, expect=1).stdout
    run("mutual.bench", recipe, "--rounds", "2")
    run("mutual.train", recipe, "train.tune=true", "train.tune_seconds=5.0")
    folder = tmp_path / "tiny"
    run("mutual.train", recipe, "train.tune=true", "train.tune_seconds=5.0", "--resume")
    refused = run("mutual.evaluate", folder, "--factory", "support:double", expect=2)
    assert refused.stderr.count("\n") == 1
    assert "ensemble" in run("mutual.evaluate", folder, *OWN).stdout
    assert "ensemble" in run("mutual.evaluate", folder, "--factory", "support:double", "data.dataset=users_data:noisy").stdout
    image = tmp_path / "image.png"
    from PIL import Image

    Image.new("RGB", (12, 10)).save(image)
    assert "plane" in run("mutual.predict", folder, image, "--factory", "support:double").stdout
    run("mutual.export", folder, "--factory", "support:double")


@pytest.mark.slow
def test_ranks_and_placements_give_the_numbers_of_one_process(tmp_path):
    recipe = written(tmp_path)
    run("mutual.train", recipe, f"output={tmp_path / 'one'}")
    for name, placement in (("two", "replicated"), ("apart", "parallel")):
        run(
            "mutual.train",
            recipe,
            f"output={tmp_path / name}",
            f"placement={placement}",
            "data.batch_size=4",
            "data.workers=1",
            processes=2,
        )
        found, expected = weights(tmp_path / name), weights(tmp_path / "one")
        for peer, tensors in expected.items():
            for key, tensor in tensors.items():
                torch.testing.assert_close(found[peer][key], tensor, rtol=0, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.slow
def test_an_item_that_one_rank_cannot_read_ends_all_with_one_line(tmp_path):
    recipe = written(tmp_path, data={**document(tmp_path)["data"], "dataset": "users_data:damaged", "args": {}})
    done = run("mutual.train", recipe, processes=2, expect=1)
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1
    assert "item 7 of the train images of users_data:damaged" in lines[0]


@pytest.mark.slow
def test_a_library_that_crashes_in_a_loader_process_is_one_line(tmp_path):
    data = {**document(tmp_path)["data"], "dataset": "users_data:damaged", "args": {"kind": "Crashing"}, "workers": 1}
    done = run("mutual.train", written(tmp_path, data=data), expect=1, timeout=60)
    assert done.stderr.count("mutual: a loader process ended (DataLoader worker ") == 1, "torch says a line of its own before"
    assert "Traceback" not in done.stderr


def test_names_of_libraries_are_no_code_of_the_users(tmp_path):
    for name in ("os:system", "torch.hub:load", "subprocess:Popen"):
        sections = (
            {"optimizer": {"name": name}},
            {"schedule": {"name": name}},
            {"data": {**document(tmp_path)["data"], "dataset": name, "args": {}}},
            {"data": {**document(tmp_path)["data"], "augment": [name]}},
        )
        for section in sections:
            with pytest.raises(RecipeError, match="not code of yours"):
                mutual.fit(parse_recipe(document(tmp_path, **section)))
