"""The verbs as a user calls them, on one small run: train, watch, evaluate, predict, export; and what wrong input gets."""

import json
import re

import onnxruntime
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from support import charted, inputs_of, run, tiny_document
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mutual
from mutual import evaluate, export, predict, train
from mutual.data import build_data
from mutual.models import read_model
from mutual.recipe import Data

DOCUMENT = tiny_document(
    name="small",
    data={"dataset": "digits", "batch_size": 64, "augment": [{"name": "random_crop", "padding": 1}]},
    peers={"a": {"model": "small_cnn"}, "b": {"model": "small_cnn", "args": {"widths": [16, 32, 64, 48]}}},
    objectives=[{"loss": "cross_entropy"}, {"loss": "dml"}, {"loss": "l2", "at": "blocks2", "weight": 0.1}],
    optimizer={"name": "adam", "lr": 0.01},
    train={"epochs": 3, "log_every": 5, "progress": False, "clip_grad_norm": 10.0},
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The run folder of a small training."""
    root = tmp_path_factory.mktemp("runs")
    (root / "small.yaml").write_text(yaml.safe_dump(DOCUMENT))
    assert train.main([str(root / "small.yaml"), f"output={root}"]) == 0
    return root / "small"


@pytest.fixture(scope="session")
def events(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_the_run_folder_is_as_the_design_says(folder):
    assert (folder / "recipe.yaml").exists()
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step_00000046", "step_00000069"]
    for part in ("last", "best"):
        assert {path.stem for path in (folder / part).glob("*.safetensors")} == {"a", "b"}
    assert not [path for path in folder.rglob("*") if "unfinished" in path.name]


def test_metrics_are_one_line_an_epoch(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 23), (2, 46), (3, 69)]
    last = lines[-1]
    assert set(last["eval"]) == {"a", "b", "ensemble", "pairs"}
    assert 0.5 < last["eval"]["a"]["top1"] <= 1
    assert set(last["train"]["objectives"]) == {"cross_entropy", "dml", "l2@blocks2"}
    assert last["train"]["images_per_second"] > 0


def test_tensorboard_shows_every_peer_and_objective(events, folder):
    charts = charted(folder)
    for peer in "ab":
        for tag in ("loss/train", "accuracy/train_top1", "accuracy/top1", "loss/nll", "calibration/ece", "agreement/churn"):
            assert f"{tag}/{peer}" in charts
        assert {f"optimizer/learning_rate/{peer}", f"optimizer/grad_norm/{peer}"} <= charts.keys()
    assert {"accuracy/top1/ensemble", "agreement/mean", "kl/mean", "speed/images_per_second"} <= charts.keys()
    assert {"agreement/b/a", "kl/b/a", "kl/a/b"} <= charts.keys(), "of a with b, of a from b, and of b from a"
    assert {"objective/cross_entropy", "objective/dml", "objective/l2@blocks2"} <= charts.keys()
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    point = charts["loss/nll/a"][-1]
    assert (point.step, point.value) == (69, pytest.approx(last["eval"]["a"]["nll"]))
    assert [point.step for point in charts["loss/train/a"]] == [5, 10, 15, 20, 23, 25, 30, 35, 40, 45, 46, 50, 55, 60, 65, 69]


def test_tensorboard_holds_the_recipe_as_text_and_compares_whole_runs(events, folder):
    text = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "model: small_cnn" in text
    hparams = EventAccumulator(str(folder / "hparams")).Reload()
    assert "_hparams_/session_start_info" in hparams.summary_metadata
    assert set(hparams.Tags()["scalars"]) == {"best/top1", "best/nll", "ensemble/top1", "ensemble/nll"}, "each is a column"
    best = json.loads((folder / "best" / "best.json").read_text())
    assert hparams.Scalars("best/top1")[-1].value == pytest.approx(best["peers"][best["peer"]]["top1"])


def test_evaluate_agrees_with_the_models_own_logits(folder, capsys):
    assert evaluate.main([str(folder), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    data = build_data(mutual.load_recipe(folder / "recipe.yaml").data, seed=0)
    for peer in "ab":
        model, right = mutual.load_peer(folder, peer=peer), 0
        for batch in data.eval_batches(world_size=1, shard=(0, 1)):
            images, labels = inputs_of(batch, data.info)
            right += int((model(images).argmax(1) == labels).sum())
        assert scores[peer]["top1"] == pytest.approx(right / 355)
    best = json.loads((folder / "best" / "best.json").read_text())
    assert scores[best["peer"]]["top1"] == pytest.approx(best["peers"][best["peer"]]["top1"])


def test_scores_and_names_of_any_length_stand_apart():
    row = {"top1": 0.25, "nll": 310416480.0, "ece": 0.75}
    lines = evaluate.table({"a_peer_called_so": row, "ensemble": {**row, "nll": 1.5}}).splitlines()
    assert [line.split() for line in lines] == [
        ["top1", "nll", "ece"],
        ["a_peer_called_so", "25.00%", "310416480.0000", "0.7500"],
        ["ensemble", "25.00%", "1.5000", "0.7500"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_evaluate_prints_a_table(folder, capsys):
    assert evaluate.main([str(folder), "--peer", "best"]) == 0
    out = capsys.readouterr().out
    assert "top1" in out
    assert "ensemble" not in out
    assert "support" not in out


def test_evaluate_scores_each_class(folder, capsys):
    assert evaluate.main([str(folder), "--per-class"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (member, *heads), first = next((line.split(), lines[index + 1].split()) for index, line in enumerate(lines) if "support" in line)
    assert (member, heads) == ("a", ["support", "recall", "precision", "F1"])
    assert evaluate.main([str(folder), "--per-class", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    classes = scores.pop("per_class")
    assert classes.keys() == scores.keys() - {"pairs"} == {"a", "b", "ensemble"}
    for name, rows in classes.items():
        assert [row["name"] for row in rows] == list(map(str, range(10)))
        assert sum(row["support"] for row in rows) == 355
        assert sum(row["recall"] for row in rows) / 10 == pytest.approx(scores[name]["macro_top1"])
        assert sum(row["recall"] * row["support"] for row in rows) / 355 == pytest.approx(scores[name]["top1"])
    assert first[:3] == ["0", str(classes["a"][0]["support"]), f"{classes['a'][0]['recall']:.2%}"]


@pytest.mark.slow
def test_evaluation_on_two_processes_counts_every_image_once(folder, capsys):
    done = run("mutual.evaluate", folder, "--json", "--per-class", processes=2)
    assert evaluate.main([str(folder), "--json", "--per-class"]) == 0
    alone = json.loads(capsys.readouterr().out)
    both = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert both.pop("per_class") == alone.pop("per_class")
    for member, row in alone.items():
        assert both[member] == pytest.approx(row, abs=1e-5)


@pytest.fixture
def images(tmp_path):
    data = build_data(Data(dataset="digits"), seed=0)
    batch = next(data.eval_batches(world_size=1, shard=(0, 1)))
    for index in range(4):
        Image.fromarray(batch.images[index, 0].numpy()).save(tmp_path / f"{index}.png")
    return tmp_path, batch.labels[:4].tolist()


def test_predict_names_the_classes_of_image_files(folder, images, capsys):
    root, labels = images
    assert predict.main([str(folder), str(root), "--topk", "3", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [str(root / f"{index}.png") for index in range(4)]
    assert [len(line["classes"]) for line in lines] == [3] * 4
    right = sum(line["classes"][0]["class"] == str(label) for line, label in zip(lines, labels, strict=True))
    assert right >= 3
    assert predict.main([str(folder), str(root / "0.png"), "--peer", "ensemble"]) == 0
    assert "%" in capsys.readouterr().out


def test_an_export_replaces_no_file_but_its_own(folder, tmp_path, capsys):
    arguments = [str(folder), "--peer", "b", "--output", str(tmp_path)]
    for _ in range(2):
        assert export.main(arguments) == 0
    (tmp_path / "b.safetensors").write_bytes(b"mine")
    (tmp_path / "a.safetensors").mkdir()
    for peer in "ab":
        assert export.main([*arguments, "--peer", peer]) == 2
        assert "is there already, and not as an export wrote it; move it away, or give another --output" in capsys.readouterr().err
    assert (tmp_path / "b.safetensors").read_bytes() == b"mine"
    (tmp_path / ".mutual-exports.json").write_bytes(b"{")
    (tmp_path / "b.safetensors").unlink()
    assert export.main(arguments) == 2
    assert "README.md is there already, and not as an export wrote it; move it away, or give another --output, or --no-card" in (
        capsys.readouterr().err
    )
    assert export.main([*arguments, "--no-card"]) == 0
    (tmp_path / "README.md").unlink()
    (tmp_path / "recipe.yaml").unlink()
    assert export.main(arguments) == 0
    (tmp_path / "file").write_bytes(b"mine")
    assert export.main([*arguments[:-1], str(tmp_path / "file")]) == 2
    assert "is a file; give the folder to write to" in capsys.readouterr().err


@pytest.mark.slow
def test_every_export_gives_the_models_logits(folder, tmp_path, capsys):
    assert export.main([str(folder), "--peer", "b", "--format", "safetensors,torch,onnx", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("logits agree within") == 3
    model, images = mutual.load_peer(folder, peer="b"), torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        expected = model(images)
        rebuilt, card = read_model(tmp_path / "b.safetensors")
        assert torch.equal(rebuilt(images), expected)
        assert card.class_names == tuple("0123456789")
        torch.testing.assert_close(torch.export.load(tmp_path / "b.pt2").module()(images), expected)
    session = onnxruntime.InferenceSession(tmp_path / "b.onnx")
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), expected, rtol=1e-3, atol=1e-4)
    assert not any(name.startswith("tapped") for name in safetensors.torch.load_file(tmp_path / "b.safetensors"))


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (evaluate, ["RUN", "--peer", "c"], "trained no peer 'c'; it trained a, b"),
        (evaluate, ["nowhere"], "nowhere is no run folder"),
        (predict, ["RUN", "nowhere.png"], "nowhere.png does not exist"),
        (predict, ["RUN", "RUN/metrics.jsonl"], "metrics.jsonl is no image that can be read"),
        (export, ["RUN", "--format", "onxx"], "'onxx' is no export format; did you mean 'onnx'"),
        (train, ["nowhere.yaml"], "nowhere.yaml: no such file"),
        (train, ["RUN/recipe.yaml", "train.epoch=3"], "train.epoch.*did you mean 'epochs'"),
    ],
)
def test_wrong_input_gets_a_line_and_exit_code_2(folder, capsys, command, arguments, message):
    assert command.main([argument.replace("RUN", str(folder)) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error), error


def test_a_loss_that_diverges_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, capsys):
    """Invariant 9: the peer, the objective and the step are named."""
    peers = {"a": {"model": "support:diverging"}, "b": {"model": "support:tiny"}}
    document = tiny_document(name="bad", peers=peers, checkpoint={"every_steps": 1})
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(document))
    assert train.main([str(tmp_path / "bad.yaml"), f"output={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert "is not finite" in error
    assert "step 2: the loss of peer 'a' in objective cross_entropy (a <- labels)" in error
    kept = sorted((tmp_path / "bad" / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step_00000001"]
    for path in kept[0].glob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in safetensors.torch.load_file(path).values() if tensor.is_floating_point())


def test_weights_that_are_not_finite_are_never_saved(tmp_path, capsys):
    document = tiny_document(name="poisoned", checkpoint={"every_steps": 1})
    document["peers"] = {"a": {"model": "support:tiny"}, "b": {"model": "support:poisoned"}}
    (tmp_path / "poisoned.yaml").write_text(yaml.safe_dump(document))
    assert train.main([str(tmp_path / "poisoned.yaml"), f"output={tmp_path}"]) == 1
    assert "step 1: the weights of peer 'b' are not finite" in capsys.readouterr().err
    assert not list(tmp_path.glob("poisoned/checkpoints/step_*"))


def test_peers_that_have_become_copies_are_noted(tmp_path, capsys):
    """Two peers that start from one file and learn the same have nothing to teach each other."""
    document = tiny_document(name="copies", train={"epochs": 2, "progress": False})
    document["peers"] = {name: {"model": "support:double", "weights": str(tmp_path / "start.safetensors")} for name in "ab"}
    model = mutual.create_model("support:double", num_classes=4, in_channels=1)
    (tmp_path / "start.safetensors").write_bytes(safetensors.torch.save(model.state_dict()))
    (tmp_path / "copies.yaml").write_text(yaml.safe_dump(document))
    assert train.main([str(tmp_path / "copies.yaml"), f"output={tmp_path}"]) == 0
    assert capsys.readouterr().out.count("the peers have become copies of each other") == 1


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM"])
def test_backends_that_hold_one_model_are_refused(folder, tmp_path, capsys, monkeypatch, variable):
    monkeypatch.setenv(variable, "true")
    assert train.main([str(folder / "recipe.yaml"), f"output={tmp_path}"]) == 2
    assert "holds one model for each engine and cannot train a group; choose DDP" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(folder, tmp_path, precision):
    short = ["train.epochs=1", "data.subset=512", "data.batch_size=32"]  # float16 is slow on CPUs
    recipe = mutual.load_recipe(folder / "recipe.yaml", [f"output={tmp_path}", f"train.precision={precision}", *short])
    result = mutual.fit(recipe)
    assert result.metrics["a"]["nll"] < 2


def test_the_launchers_precision_holds_where_the_recipe_says_none(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert train.main([str(folder / "recipe.yaml"), f"output={tmp_path}", "train.epochs=1", "train.precision=null"]) == 0
    assert "precision bf16" in capsys.readouterr().out


def test_moving_averages_mixing_views_and_alternating_updates_train(folder, tmp_path):
    overrides = [
        "train.ema=0.9",
        "data.mixup=0.2",
        "data.cutmix=1",
        "data.views=per_peer",
        "train.update=alternating",
        "train.channels_last=true",
    ]
    recipe = mutual.load_recipe(folder / "recipe.yaml", [f"output={tmp_path}", "train.deterministic=true", *overrides])
    try:
        result = mutual.fit(recipe)
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert result.metrics["ensemble"]["top1"] > 0.5
    assert result.folder == tmp_path / "small"
    assert mutual.load_peer(result.folder)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.slow
def test_compiled_peers_train(folder, tmp_path):
    document = {**DOCUMENT, "train": {**DOCUMENT["train"], "compile": True, "epochs": 1}, "data": {**DOCUMENT["data"], "subset": 128}}
    (tmp_path / "compiled.yaml").write_text(yaml.safe_dump(document))
    run("mutual.train", tmp_path / "compiled.yaml", f"output={tmp_path}")
    assert mutual.load_peer(tmp_path / "small")(torch.zeros(1, 1, 8, 8)).isfinite().all()
