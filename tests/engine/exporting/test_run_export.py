"""What a user gets of an export beside the card: a temperature, int8, latencies; and what wrong input gets."""

import json
import re
from dataclasses import replace

import onnxruntime
import pytest
import safetensors.torch
import torch
from exported_runs import exported, refused
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

import mutual
from mutual.engine import RunFolder
from mutual.engine.exporting import latency, run_export
from mutual.engine.exporting.run_images import RunImages
from mutual.models import read_model
from mutual.recipe import InputError


def logits_of(run, file):
    tensors = safetensors.torch.load_file(file)
    model = mutual.load_peer(run, peer="a")
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(images)
        model.load_state_dict(tensors)
        return before, model(images)


def test_a_temperature_is_in_the_classifiers_weights(run, capsys):
    folder = exported(run, "--temperature", "2")
    before, after = logits_of(run, folder / "a.safetensors")
    torch.testing.assert_close(after, before / 2, rtol=1e-5, atol=1e-6)
    page = (folder / "README.md").read_text()
    assert "The logits are divided by 2 (as it was given to the export): the weights of the classifier hold it" in page
    assert re.search(r"temperature 2: NLL \d\.\d+ before, \d\.\d+ after, on 355 validation images", capsys.readouterr().out)


def test_a_fitted_temperature_lowers_the_nll_and_leaves_the_classes(run, capsys):
    folder = exported(run, "--temperature", "fit", "--json")
    found = json.loads(capsys.readouterr().out)["temperature"]
    assert found["is_fitted"]
    assert found["nll"][1] <= found["nll"][0] + 1e-9
    assert found["nll"][0] == pytest.approx(json.loads((run / "best" / "best.json").read_text())["peers"]["a"]["nll"], abs=1e-5)
    before, after = logits_of(run, folder / "a.safetensors")
    torch.testing.assert_close(after, before / found["value"], rtol=1e-4, atol=1e-5)
    assert "not calibrated" not in (folder / "README.md").read_text()


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "warm", "1e9"])
def test_a_temperature_is_a_positive_number(run, capsys, text):
    assert "must be `fit`, or a number above 0" in refused(capsys, run, f"--temperature={text}")


def test_what_needs_images_says_so_where_they_are_gone(run, capsys, monkeypatch):
    gone = "data={dataset: image_folder, root: nowhere, image_size: 8, channels: 1}"
    assert "no folder nowhere/train" in refused(capsys, run, "--temperature", "fit", gone)
    assert "no folder nowhere/train" in refused(capsys, run, "--format", "onnx", "--int8", gone)
    assert not (run / "export").exists()
    exported(run, "--temperature", "2", gone)
    assert "the temperature is not measured, as that needs the run's images: " in capsys.readouterr().out
    assert "What it changes was not measured." in (run / "export" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--int8",), "--int8 is for the ONNX program; add --format onnx"),
        (("--format", "onnx", "--int8", "--max-drop", "nan"), "--max-drop nan must be"),
        (("--format", "onnx", "--int8", "--calibration", "0"), "--calibration 0 must be at least 1 image"),
        (("--format", "safetensors", "--with-input"), "a safetensors file holds weights"),
    ],
)
def test_options_that_do_not_go_together_are_a_line(run, capsys, options, message):
    assert message in refused(capsys, run, *options)
    assert not (run / "export").exists()


@pytest.mark.slow
def test_int8_is_smaller_and_its_loss_is_measured(run, capsys):
    folder = exported(run, "--format", "onnx", "--int8", "--calibration", "32", "--max-drop", "5", "--json")
    found = json.loads(capsys.readouterr().out)["int8"]
    assert (found["calibration_images"], found["images"], found["metric"]) == (32, 355, "top1")
    assert found["scores"]["float"]["top1"] == pytest.approx(json.loads((run / "best" / "best.json").read_text())["peers"]["a"]["top1"])
    assert (folder / "a.int8.onnx").stat().st_size == found["num_bytes"]
    assert (
        f"| top-1 | {found['scores']['float']['top1']:.2%} | {found['scores']['int8']['top1']:.2%} |" in (folder / "README.md").read_text()
    )
    session = onnxruntime.InferenceSession(folder / "a.int8.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["mutual"])["num_classes"] == 10
    first = (folder / "a.int8.onnx").read_bytes()
    exported(run, "--format", "onnx", "--int8", "--calibration", "32", "--max-drop", "5")
    assert (folder / "a.int8.onnx").read_bytes() == first


@pytest.mark.slow
def test_int8_that_loses_too_much_or_cannot_be_made_is_not_kept(run, capsys, monkeypatch):
    def break_scores(program, output, batches):
        output.write_bytes(program.read_bytes())
        return 3

    monkeypatch.setattr(run_export, "quantize", break_scores)
    drop = {"float": {"top1": 0.9, "nll": 0.1}, "int8": {"top1": 0.875, "nll": 0.2}}
    monkeypatch.setattr("mutual.engine.exporting.run_images.RunImages.scores", lambda *_: drop)
    error = refused(capsys, run, "--format", "onnx", "--int8")
    assert re.search(r"a.int8.onnx is not kept: in int8 top1 is 87.50% on 355 .* in float 90.00%; --max-drop 2.5\d would accept", error)
    assert {path.name for path in (run / "export").iterdir()} == {".mutual-exports.json", "a.onnx", "README.md", "recipe.yaml"}
    monkeypatch.undo()

    def fail(*_, **__):
        raise Fail("Unsupported operator Foo\nand much more")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fail)
    error = refused(capsys, run, "--format", "onnx", "--int8")
    assert "a.onnx cannot be quantised to int8 (Fail: Unsupported operator Foo)" in error


def test_latencies_are_measured_in_turn_and_say_what_was_left_out(trained, monkeypatch):
    def no_compiler(model, **_):
        def fail(_):
            raise RuntimeError("there is no compiler here\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(latency, "_SECONDS", 0.0)
    model = mutual.load_peer(trained, peer="a")
    order = []
    model.register_forward_hook(lambda *_: order.append("eager"))
    found = latency.measure_latency(model, lambda batch: torch.zeros(batch, 1, 8, 8), {})
    assert [(row.variant, row.batch) for row in found.rows] == [("eager", 1), ("compiled", 1), ("eager", 32), ("compiled", 32)]
    assert [row.ratio for row in found.rows] == [1.0, None, 1.0, None]
    assert found.rows[1].note == "RuntimeError: there is no compiler here"
    assert len(order) == 2 * (3 + 5)
    assert "left out: RuntimeError: there is no compiler here" in latency.latency_table(found)


@pytest.mark.slow
def test_latencies_of_every_program_stand_in_the_card(run, monkeypatch, capsys):
    monkeypatch.setattr(latency, "_SECONDS", 0.1)
    folder = exported(run, "--format", "onnx", "--benchmark", "--json")
    rows = json.loads(capsys.readouterr().out)["benchmark"]["rows"]
    assert {(row["variant"], row["batch"]) for row in rows} == {
        (name, batch) for name in ("eager", "compiled", "onnx") for batch in (1, 32)
    }
    assert "| onnx | 32 | " in (folder / "README.md").read_text()


def test_images_with_several_labels_are_not_those_of_a_peer_with_one(run):
    """Programs are scored on images that the peer was trained for, and on no others that have the same classes."""
    recipe = RunFolder(run).recipe()
    _, card = read_model(RunFolder(run).weights("best", "a"))
    with pytest.raises(InputError, match="not what peer 'a' was trained for: its images have several labels each"):
        RunImages(recipe, "a", replace(card, multi_label=True), datasets=(), takes_pixels=False)
