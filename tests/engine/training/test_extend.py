"""A run that goes on from another one's last state equals the one that was longer from the beginning, and needs the other no more."""

import copy
import json
import random
import shutil
import signal
from functools import partial

import pytest
import yaml
from attacks import die_before_change, record
from support import charted, digests, run, tiny_document
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mutual
from mutual import train
from mutual.engine.storage import RunFolder
from mutual.engine.storage.lock import locked
from mutual.engine.training.peer_optimizer import PeerOptimizer
from mutual.recipe import InputError, RecipeError, load_recipe, parse_recipe

NET = {"model": "support:tiny", "args": {"norm": True, "dropout": 0.3}}
DOCUMENT = tiny_document(
    peers={"a": NET, "b": {**NET, "optimizer": {"name": "adamw", "lr": 0.01, "layer_decay": 0.5}}, "t": {**NET, "frozen": True}},
    objectives=[{"loss": "cross_entropy"}, {"loss": "hint", "at": "body", "sources": "peers_ema"}, {"loss": "kd", "sources": ["t"]}],
    train={"epochs": 2, "progress": False, "ema": 0.9, "log_every": 2},
    checkpoint={"every_steps": 1, "keep": 100, "keep_best": 2},
)


def recipe_of(output, name="tiny", run=None, **sections):
    document = {**copy.deepcopy(DOCUMENT), "output": str(output), "name": name}
    for section, values in sections.items():
        document[section] = {**document[section], **values}
    return parse_recipe(document if run is None else {**document, "extended_from": {"run": str(run)}})


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A finished run of two epochs of five updates."""
    return mutual.fit(recipe_of(tmp_path_factory.mktemp("short"))).folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same, of four."""
    return mutual.fit(recipe_of(tmp_path_factory.mktemp("whole"), train={"epochs": 4})).folder


def cut(folder, output, step):
    copied = shutil.copytree(folder, output / "cut")
    for path in (copied / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path)
    return copied


@pytest.mark.parametrize("step", [10, 7, 5])
def test_an_extended_run_equals_the_longer_one(short, whole, tmp_path, step):
    """Of a finished run, of one that was cut within an epoch, and of one that had better weights than its checkpoint knows."""
    earlier = cut(short, tmp_path, step)
    before = contents(earlier)
    result = mutual.fit(recipe_of(tmp_path, "longer", earlier, train={"epochs": 4}))
    assert contents(earlier) == before, "it is never changed"
    assert digests(result.folder) == digests(whole)
    assert [record["epoch"] for record in result.history] == [0, 1, 2, 3, 4]
    saved = load_recipe(result.folder / "recipe.yaml").extended_from
    assert (saved.run, saved.step) == (str(earlier), step)
    assert saved.sha256 == RunFolder(earlier).checkpoints().listing()[f"step_{step:08d}"]


def test_it_is_resumed_when_the_other_run_is_gone(short, whole, tmp_path):
    earlier = cut(short, tmp_path, 10)
    folder = mutual.fit(recipe_of(tmp_path, "longer", earlier, train={"epochs": 4})).folder
    first = RunFolder(folder).checkpoints().paths()[0]
    assert first.name == "step_00000010", "its own first checkpoint is of the state that it began with"
    for path in RunFolder(folder).checkpoints().paths()[1:]:
        shutil.rmtree(path)
    shutil.rmtree(earlier)
    mutual.fit(recipe_of(tmp_path, "longer", train={"epochs": 4}), resume=True)
    assert digests(folder) == digests(whole)
    assert load_recipe(folder / "recipe.yaml").extended_from.step == 10, "it is said of a run that was resumed, too"
    mutual.fit(recipe_of(tmp_path, "longer", earlier, train={"epochs": 4}), resume=True)
    with pytest.raises(RecipeError, match=r"extended_from.run: the run was started with '.*cut' and cannot go on with 'another'"):
        mutual.fit(recipe_of(tmp_path, "longer", "another", train={"epochs": 4}), resume=True)


def test_the_charts_begin_with_the_other_runs_scores(short, tmp_path):
    folder = mutual.fit(recipe_of(tmp_path, "longer", short, train={"epochs": 3})).folder
    charts = charted(folder)
    assert [event.step for event in charts["accuracy/top1/a"]] == [5, 10, 15]
    assert [event.step for event in charts["loss/train/a"]] == [11, 12, 13, 14, 15]
    assert "extended_from/text_summary" in EventAccumulator(str(folder)).Reload().Tags()["tensors"]


def test_rates_and_decays_are_those_of_the_new_recipe(short, tmp_path, monkeypatch):
    seen = []
    step = PeerOptimizer.step

    def recorded(self, update, **arguments):
        step(self, update, **arguments)
        group = self.optimizer.param_groups[-1]
        seen.append((update, self.peer.name, group["lr"], group["weight_decay"], group.get("momentum")))

    monkeypatch.setattr(PeerOptimizer, "step", recorded)
    other = {"lr": 0.25, "momentum": 0.5, "weight_decay": 0.1}
    mutual.fit(recipe_of(tmp_path, "longer", short, train={"epochs": 3}, optimizer=other, schedule={"name": "linear"}))
    assert seen[0] == (10, "a", pytest.approx(0.25 / 3), 0.1, 0.5), "a schedule of three epochs, of which two are done"
    assert seen[1][:3] == (10, "b", pytest.approx(0.01 / 3))


def test_a_run_without_patience_left_goes_on(tmp_path):
    recipe = recipe_of(tmp_path, train={"epochs": 9, "patience": 1, "min_improvement": 1.0})
    assert [record["epoch"] for record in mutual.fit(recipe).history] == [0, 1, 2]
    longer = recipe_of(tmp_path, "longer", tmp_path / "tiny", train={"epochs": 9, "patience": 2, "min_improvement": 1.0})
    assert [record["epoch"] for record in mutual.fit(longer).history] == [0, 1, 2, 3], "one evaluation is counted already"
    again = recipe_of(tmp_path, "again", tmp_path / "tiny", train={"epochs": 9, "patience": 1, "min_improvement": 1.0})
    assert [record["epoch"] for record in mutual.fit(again).history] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"data": {"num_val": 13}},
            r"^data.num_val: .*tiny was trained with 12 and cannot be extended with 13; an extension may",
        ),
        ({"peers": {"a": {"model": "support:tiny"}}}, r"^peers.a.args.norm: .*trained with True and cannot be extended with None"),
        ({"optimizer": {"name": "adam", "momentum": None}}, r"^optimizer.name: .* begins a run with its weights$"),
        ({"train": {"ema": 0.5}}, r"^train.ema: "),
    ],
)
def test_what_an_extension_may_not_change_is_refused(short, tmp_path, sections, message):
    with pytest.raises(RecipeError, match=message):
        mutual.fit(recipe_of(tmp_path, "longer", short, **sections))
    assert not (tmp_path / "longer").exists()


def test_what_cannot_be_extended_is_refused(short, tmp_path):
    with pytest.raises(InputError, match="is no run folder"):
        mutual.fit(recipe_of(tmp_path, "longer", tmp_path / "nothing"))
    with pytest.raises(RecipeError, match=r"extended_from.run: .* would go on from itself; give the new run a name of its own"):
        mutual.fit(recipe_of(short.parent, "tiny", short), overwrite=True)
    with pytest.raises(RecipeError, match=r"train.epochs: nothing is left to train: .*tiny has trained 2 epochs already; give more"):
        mutual.fit(recipe_of(tmp_path, "longer", short))
    empty = cut(short, tmp_path, 0)
    with pytest.raises(RecipeError, match=r"cut holds no checkpoint; begin with its weights, peers.NAME.weights="):
        mutual.fit(recipe_of(tmp_path, "longer", empty))
    with locked(empty), pytest.raises(InputError, match="cut is being trained in by this very process"):
        mutual.fit(recipe_of(tmp_path, "longer", empty))
    recipe = recipe_of(tmp_path, "longer", short, train={"epochs": 3})
    with pytest.raises(RecipeError, match=r"^extended_from: the last checkpoint of .* is of step 10, with sha256 [0-9a-f]{64}; give these"):
        mutual.fit(recipe.with_extension(str(short), step=9))
    assert not (tmp_path / "longer").exists()
    mutual.fit(recipe)
    with pytest.raises(InputError, match="holds a checkpoint; add --resume to go on"):
        mutual.fit(recipe)


def test_the_verb_extends_and_a_refused_resume_names_the_command(tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**DOCUMENT, "output": str(tmp_path)}))
    assert train.main([str(file), "train.epochs=1"]) == 0
    assert train.main([str(file), "train.epochs=2", "--resume"]) == 2
    line = capsys.readouterr().err
    assert f"`python -m mutual.train {file} --extend {tmp_path / 'tiny'} name=tiny_2 train.epochs=2` goes on from its last state" in line
    assert train.main(line.partition("`")[2].partition("`")[0].split()[3:]) == 0
    lines = (tmp_path / "tiny_2" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(record)["epoch"] for record in lines] == [0, 1, 2]
    assert train.main([str(file), "train.epochs=1", "optimizer.lr=0.01", "--resume"]) == 2  # no epoch is left for that rate
    line = capsys.readouterr().err
    assert "name=tiny_3 optimizer.lr=0.01 train.epochs=2` goes on from its last state" in line
    assert train.main([str(file), "train.epochs=2", "data.num_val=11", "--resume"]) == 2
    line = capsys.readouterr().err
    best = tmp_path / "tiny" / "best"
    assert f"peers.a.weights={best / 'a.safetensors'} peers.b.weights={best / 'b.safetensors'} name=tiny_3 train.epochs=2" in line
    assert train.main(line.partition("`")[2].partition("`")[0].split()[3:]) == 0


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_between_two_changes_of_its_folder(tmp_path, pytestconfig, processes):
    """Resumed with and without the flag, it ends as it would have; the other run stays as it is."""
    file, log = tmp_path / "recipe.yaml", tmp_path / "log"
    file.write_text(yaml.safe_dump({**DOCUMENT, "data": {**DOCUMENT["data"], "batch_size": 8 // processes}, "placement": "parallel"}))
    run("mutual.train", file, f"output={tmp_path}", processes=processes)
    before = contents(tmp_path / "tiny")

    def arguments(output, *, extends):
        words = ["mutual.train", file, f"output={output}", "name=longer", "train.epochs=3", "--resume"]
        return [*words, "--extend", tmp_path / "tiny"] if extends else words

    run(*arguments(tmp_path / "whole", extends=True), processes=processes, prepare=partial(record, tmp_path / "whole" / "longer", log))
    expected = digests(tmp_path / "whole" / "longer")
    changes = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines() if line.startswith("change")]
    beginning = next(number for number, change in enumerate(changes) if "manifest" in change)
    is_long, moments = pytestconfig.getoption("--faults-long"), random.Random(0)
    for number in range(2, len(changes)) if is_long else moments.sample(range(4, beginning + 4), 4 // processes):
        output, code = tmp_path / str(number), -signal.SIGKILL if processes == 1 else 1
        attack = partial(die_before_change, output / "longer", number)
        run(*arguments(output, extends=True), processes=processes, prepare=attack, expect=code, grace=0.5)
        has_recipe = (output / "longer" / "recipe.yaml").exists()
        run(*arguments(output, extends=not has_recipe or number % 2), processes=processes)
        assert digests(output / "longer") == expected, (number, changes[number - 1])
    assert contents(tmp_path / "tiny") == before
