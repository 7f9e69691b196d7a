"""The model card of a run's export: what it says, what may replace it, and that its programs run."""

import json
import re
import shutil

import pytest
import torch
import yaml
from exported_runs import exported, refused
from PIL import Image

import mutual
from mutual import export
from mutual.data import build_data
from mutual.engine import RunFolder
from mutual.engine.comparison import ArmSummary, Comparison, Difference, MetricSummary
from mutual.engine.storage import FinalScores

CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def front_matter(page):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", page, re.DOTALL)[1])


def run_blocks(page, folder, monkeypatch, image):
    """Runs the programs of a card in its folder, in their order; returns what they leave."""
    monkeypatch.chdir(folder)
    image.save("image.png")
    names, found = {}, []
    for block in CODE.findall(page):
        exec(block, names)  # a card of ours, written a moment ago
        found.append(torch.as_tensor(names["logits"]) if "logits" in names else None)
    return found


def image_of(run):
    """A validation image, twice as large, in colour."""
    data = build_data(RunFolder(run).recipe().data, seed=0)
    pixels = next(data.eval_batches(world_size=1, shard=(0, 1))).images[0, 0]
    return Image.fromarray(pixels.numpy()).convert("RGB").resize((16, 16))


def test_a_card_says_what_the_peer_is_and_how_it_was_trained(run, capsys):
    page = (exported(run, "--license", "Apache-2.0") / "README.md").read_text()
    front = front_matter(page)
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "mutual"
    assert "mutual-learning" in front["tags"]
    assert "knowledge-distillation" not in front["tags"]
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["split"] == "validation"
    scores = json.loads((run / "best" / "best.json").read_text())["peers"]["a"]
    assert result["metrics"][0]["value"] == pytest.approx(scores["top1"], abs=1e-6)
    assert "the best epoch was chosen on it" in result["metrics"][0]["name"]
    assert f"| top-1 | {scores['top1']:.2%} |" in page
    assert "On 355 validation images; the best epoch was chosen on them, which makes this optimistic" in page
    assert "(1,442 training images, 355 validation images)" in page.replace("\\", "")
    assert "| dml | b | form js, temperature 1 |" in page
    assert "| b | small\\_cnn | initial weights | was trained with it |" in page
    assert "Not stated" not in page
    assert (run / "export" / "recipe.yaml").read_bytes() == (run / "recipe.yaml").read_bytes()


def test_a_licence_is_never_made_up(run, capsys):
    page = (exported(run) / "README.md").read_text()
    assert "license" not in front_matter(page)
    assert "## Licence\n\nNot stated." in page
    assert "is no identifier of a licence, such as apache-2.0" in refused(capsys, run, "--license", "mine\nall: mine")


def test_hubs_read_the_card(run):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(exported(run) / "README.md").data
    assert data.library_name == "mutual"
    assert {result.metric_type for result in data.eval_results} == {"accuracy", "nll", "ece"}


def test_test_images_stand_in_a_card_where_the_run_has_scored_these_weights_on_them(run):
    row = {"top1": 0.75, "nll": 0.5}
    RunFolder(run).write_final_scores(FinalScores(digest="", peer="a", images=1797, test={"a": row, "b": row}))
    page = (exported(run) / "README.md").read_text()
    assert "On 1,797 test images, scored once, by the weights that were best on the validation images" in page
    assert "| top-1 | 75.00% |" in page
    assert front_matter(page)["model-index"][0]["results"][0]["dataset"]["split"] == "test"
    with (run / "metrics.jsonl").open("a") as file:  # the run was gone on with: its best weights may be others
        file.write('{"epoch": 3}\n')
    assert "validation images; the best epoch was chosen on them" in (exported(run) / "README.md").read_text()


def comparison(run):
    def metric(name, mean, std):
        return MetricSummary(values={0: mean - std, 1: mean, 2: mean + std}, mean=mean, std=std)

    arms = [
        ArmSummary(name="plain", member="mean", runs={0: "elsewhere"}, metrics={}, epochs=2),
        ArmSummary(
            name="dml|T4",
            member="mean",
            runs=dict.fromkeys(range(3), str(run)),
            metrics={"top1": metric("top1", 0.9, 0.01), "nll": metric("nll", 0.4, 0.02)},
            epochs=2,
        ),
    ]
    difference = Difference(
        arm="dml|T4",
        baseline="plain",
        metric="top1",
        num_pairs=3,
        mean=0.012,
        std=0.01,
        interval=(-0.001, 0.025),
        p_sign_flip=0.25,
        p_holm=None,
        verdict="too few seeds",
    )
    return Comparison(
        name="all",
        command="",
        baseline="plain",
        seeds=[0, 1, 2],
        split="test",
        epoch="best",
        is_optimistic=False,
        arms=arms,
        differences=[difference],
        equal_compute=[],
        notes=["3 seeds | no claim"],
    )


def test_a_run_of_a_comparison_has_its_seeds_in_the_card(run):
    (run.parent / "comparison.json").write_text(comparison(run).model_dump_json())
    page = (exported(run) / "README.md").read_text()
    assert "| top-1 | 90.00 ± 1.00 % | 3 |" in page
    assert "| plain | top-1 | +1.20 points | -0.10 points to +2.50 points | too few seeds |" in page
    assert "one of the arm dml\\|T4 of the comparison all" in page
    (run.parent / "comparison.json").write_text("{")
    assert "## Compared" not in (exported(run) / "README.md").read_text()


def test_the_programs_in_a_card_give_what_predict_gives(run, monkeypatch):
    image = image_of(run)
    (expected,) = mutual.predict(run, image, peer="a")
    folder = exported(run)
    logits = run_blocks((folder / "README.md").read_text(), folder, monkeypatch, image)[-1]
    assert len(logits) == 1
    probabilities = dict(zip(expected.classes, expected.probabilities, strict=True))
    torch.testing.assert_close(
        logits.softmax(dim=1)[0], torch.tensor([probabilities[str(index)] for index in range(10)]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--with-input",)], ids=["images", "pixels"])
def test_the_programs_in_a_card_run_for_every_format(run, monkeypatch, options):
    image = image_of(run)
    (expected,) = mutual.predict(run, image, peer="a", topk=1)
    folder = exported(run, "--format", "torch,onnx", "--int8", "--max-drop", "5", *options)
    _, *found = run_blocks((folder / "README.md").read_text(), folder, monkeypatch, image)
    assert len(found) == 3
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
    assert (found[2] - found[1]).abs().max() < 0.1 * found[1].abs().max()
    assert int(found[0].argmax()) == int(expected.classes[0])


def test_a_card_replaces_no_file_of_anybody_elses(run, capsys):
    folder = exported(run)
    exported(run)
    with (folder / "README.md").open("a") as file:
        file.write("my own words\n")
    assert "README.md is there already, and not as an export wrote it" in refused(capsys, run)
    exported(run, "--no-card")
    assert "my own words" in (folder / "README.md").read_text()
    (folder / "recipe.yaml").unlink()
    (folder / "recipe.yaml").symlink_to(run / "recipe.yaml")
    shutil.move(folder / "README.md", run / "mine.md")
    exported(run)  # what the link leads to is as an export wrote it, and stays
    assert (run / "recipe.yaml").is_file()
    assert not (folder / "recipe.yaml").is_symlink()


def test_the_card_of_another_peer_gives_way_with_a_line(run, capsys):
    exported(run)
    exported(run)
    assert "was the card of" not in capsys.readouterr().out
    assert export.main([str(run), "--peer", "b"]) == 0
    assert "README.md was the card of digits: a, whose files it no longer describes" in capsys.readouterr().out


def test_starting_over_removes_cards_as_they_were_written(run):
    folder = exported(run)
    (folder / "a-timm").mkdir()
    (folder / "a-timm" / "config.json").write_text("mine")
    record = json.loads((folder / ".mutual-exports.json").read_text())
    record |= {"a-timm/config.json": ["0"], "../recipe.yaml": record["recipe.yaml"], "notes.txt": record["README.md"]}
    (folder / ".mutual-exports.json").write_text(json.dumps(record))
    shutil.copy(folder / "README.md", folder / "notes.txt")
    with (folder / "README.md").open("a") as file:
        file.write("mine")
    RunFolder(run).clear()
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {"README.md", "a-timm/config.json", "notes.txt"}
