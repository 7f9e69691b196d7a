"""The Python face: callbacks and results of fit, predict under its two names, and the card of a loaded peer."""

import importlib
import json
import pkgutil
import random
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from support import ROOT, digests, environment, tiny_document

import mutual
from mutual.engine.runtime import StoppedError
from mutual.recipe import InputError, parse_recipe

CLASSES = [str(digit) for digit in range(10)]


def document(root, name, **sections):
    data = {"dataset": "digits", "batch_size": 64, "subset": 128, "augment": [{"name": "random_crop", "padding": 1}]}
    dropout = {"model": "support:tiny", "args": {"dropout": 0.3}}
    train = {"epochs": 2, "progress": False, "log_every": 1}
    return tiny_document(name=name, output=str(root), data=data, peers={"a": dropout, "b": dropout}, **{"train": train, **sections})


class Curious(mutual.Callback):
    """Reads and draws whatever it can."""

    def __init__(self):
        self.events = []

    def _look(self, event, state):
        assert not torch.is_grad_enabled()
        torch.rand(3), random.random()
        total = sum(float(tensor.double().sum()) for model in state.models.values() for tensor in model.state_dict().values())
        assert total == total
        state.scores.clear()
        self.events.append((event, state.epoch, state.update))

    def begin(self, state):
        self._look("begin", state)

    def update(self, state):
        self._look("update", state)

    def epoch(self, state):
        assert state.scores["a"]["top1"] >= 0
        self._look("epoch", state)

    def end(self, state):
        self._look("end", state)


class Stop(mutual.Callback):
    """Stops the run at the first `event`, as the documentation of callbacks says."""

    def __init__(self, event):
        self._is_done = False
        setattr(self, event, self._stop)

    def _stop(self, state):
        if not self._is_done:
            self._is_done = True
            signal.raise_signal(signal.SIGTERM)


class Boom(mutual.Callback):
    def update(self, state):
        if state.update == 3:
            raise ZeroDivisionError("mine")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The recipe of a run with a callback that reads everything, its callback and its result."""
    root = tmp_path_factory.mktemp("face")
    curious = Curious()
    return root, curious, mutual.fit(parse_recipe(document(root, "watched")), callbacks=[curious])


def test_callbacks_are_called_in_order_and_change_no_number(run):
    root, curious, result = run
    updates = [("update", 0, 1), ("update", 0, 2), ("epoch", 1, 2), ("update", 1, 3), ("update", 1, 4), ("epoch", 2, 4)]
    assert curious.events == [("begin", 0, 0), *updates, ("end", 2, 4)]
    plain = mutual.fit(parse_recipe(document(root, "plain")))
    assert digests(plain.folder) == digests(result.folder)
    assert plain.metrics == result.metrics


def test_an_exception_in_a_callback_ends_the_run_and_a_resumed_one_is_the_same(run):
    root, _, result = run
    recipe = parse_recipe(document(root, "resumed", checkpoint={"every_steps": 1}))
    with pytest.raises(ZeroDivisionError, match="mine"):
        mutual.fit(recipe, callbacks=[Boom()])
    curious = Curious()
    resumed = mutual.fit(recipe, resume=True, callbacks=[curious])
    assert curious.events == [("begin", 1, 3), ("update", 1, 4), ("epoch", 2, 4), ("end", 2, 4)]
    assert digests(resumed.folder) == digests(result.folder)
    assert [record["epoch"] for record in resumed.history] == [1, 2]


@pytest.mark.parametrize("event", ["begin", "update", "epoch"])
def test_a_callback_stops_a_run_with_a_checkpoint_and_a_resumed_one_is_the_same(run, event):
    root, _, result = run
    recipe = parse_recipe(document(root, f"stopped_in_{event}"))
    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        mutual.fit(recipe, callbacks=[Stop(event)])
    folder = root / f"stopped_in_{event}"
    assert list(folder.glob("checkpoints/step_*"))
    assert not (folder / ".mutual-run.lock").exists()
    assert digests(mutual.fit(recipe, resume=True).folder) == digests(result.folder)


def test_a_signal_after_the_last_epoch_leaves_the_run_done(run):
    root, _, result = run
    done = mutual.fit(parse_recipe(document(root, "stopped_in_end")), callbacks=[Stop("end")])
    assert digests(done.folder) == digests(result.folder)


def test_a_result_has_history_and_best_scores_and_says_so(run):
    _, _, result = run
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert result.history == lines
    assert result.history[-1]["eval"] == result.metrics
    best = json.loads((result.folder / "best/best.json").read_text())
    assert (result.best_peer, result.best_scores) == (best["peer"], best["peers"])
    assert f"2 epochs; the best peer is {result.best_peer!r} with epoch " in repr(result)


def test_a_loaded_peer_carries_its_card_and_nothing_else(run):
    _, _, result = run
    model = mutual.load_peer(result.folder, factory="support:tiny")
    assert model.card.class_names == tuple(CLASSES)
    assert model.card.in_channels == len(model.card.mean) == len(model.card.std) == 1
    assert not [name for name in model.state_dict() if "card" in name]
    torch.export.export(model, (torch.zeros(2, 1, 8, 8),))


def test_predict_takes_files_folders_pillow_images_and_tensors_alike(run, tmp_path, capsys):
    _, _, result = run
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 1, 11, 9), dtype=torch.uint8, generator=generator)
    files = [tmp_path / f"{index}.png" for index in range(3)]
    pictures = [Image.fromarray(each[0].numpy()) for each in pixels]
    for file, picture in zip(files, pictures, strict=True):
        picture.save(file)

    def answer(images, **options):
        found = mutual.predict(result.folder, images, factory="support:tiny", **options)
        return [(each.classes, each.probabilities) for each in found]

    expected = answer(tmp_path)
    assert len(expected) == 3
    assert sorted(expected[0][0]) == CLASSES
    assert sum(expected[0][1]) == pytest.approx(1)
    for images in (files, [str(file) for file in files], pictures, pixels, list(pixels), [files[0], pictures[1], pixels[2:]]):
        assert answer(images) == expected
    alone = answer(files[0])  # in a batch of another size the last digits may be others
    assert answer(pixels[0]) == answer(pictures[0]) == answer(str(files[0])) == alone
    assert alone[0][1] == pytest.approx(expected[0][1])
    assert answer(files[0], topk=2) == [(alone[0][0][:2], alone[0][1][:2])]
    assert answer(files, peer="ensemble") != expected
    assert mutual.predict(result.folder, files, factory="support:tiny")[1].image == files[1]

    command = [str(result.folder), str(files[0]), "--json", "--topk", "10", "--factory", "support:tiny"]
    assert mutual.predict.main(command) == 0
    printed = json.loads(capsys.readouterr().out)["classes"]
    assert [(each["class"], each["probability"]) for each in printed] == [
        (name, round(value, 6)) for name, value in zip(*alone[0], strict=True)
    ]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(1, 8, 8), {}, r"a tensor of float32 and shape \[1, 8, 8\] is no image"),
        (torch.zeros(8, 8, dtype=torch.uint8), {}, r"shape \[8, 8\] is no image"),
        ([3], {}, "int is no image"),
        ("nowhere.png", {}, "nowhere.png does not exist"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), {"topk": 0}, "topk=0"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), {"peer": "c"}, "trained no peer 'c'"),
    ],
)
def test_what_is_no_image_is_one_line(run, images, options, message):
    with pytest.raises(InputError, match=message):
        mutual.predict(run[2].folder, images, factory="support:tiny", **options)


@pytest.mark.parametrize(
    "first",
    [
        "import mutual",
        "import mutual.predict",
        "from mutual import predict",
        "from mutual.engine import predict",
        "from mutual import Taps, build_loss, DistillationLoss, load_peer",
    ],
)
def test_predict_is_function_and_module_whichever_is_imported_first(first):
    program = f"{first}\nimport mutual, mutual.predict\nassert callable(mutual.predict) and callable(mutual.predict.main)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), check=True)


def test_what_the_faces_list_can_be_imported():
    import mutual.data
    import mutual.engine
    import mutual.engine.storage
    import mutual.models

    for package in (mutual, mutual.data, mutual.engine, mutual.engine.storage, mutual.models):
        assert sorted(package.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)) == package.__all__
        assert set(package.__all__) <= set(dir(package))
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018


def test_no_lazy_name_is_a_submodules_too():
    """Whoever imported that submodule first would get it in the name's place; `predict` alone is meant to be both."""
    for path in sorted((ROOT / "mutual").rglob("__init__.py")):
        name = ".".join(path.parent.relative_to(ROOT).parts)
        package = importlib.import_module(name)
        if hasattr(package, "__getattr__"):
            submodules = {module.name for module in pkgutil.iter_modules([str(path.parent)])}
            assert submodules.isdisjoint(set(package.__all__) - ({"predict"} if package is mutual else set())), name


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([print], "is no instance of a subclass of mutual.Callback"),
        ([mutual.Callback], "is no instance"),
        (
            type("Misspelt", (mutual.Callback,), {"on_epoch": lambda self, state: None})(),
            "has none of the methods begin, update, epoch, end",
        ),
    ],
    ids=["a function", "a class", "a misspelt method"],
)
def test_what_is_no_callback_is_one_line_before_anything_is_removed(tmp_path, callbacks, message):
    with pytest.raises(mutual.InputError, match=message):
        mutual.fit({**tiny_document(), "output": str(tmp_path)}, overwrite=True, callbacks=callbacks)
    assert not list(tmp_path.iterdir())


def test_fit_takes_a_dict_and_refuses_to_resume_and_overwrite_at_once(tmp_path):
    document = {**tiny_document(), "output": str(tmp_path), "train": {"epochs": 1, "progress": False}}
    with pytest.raises(mutual.InputError, match="exclude each other"):
        mutual.fit(document, resume=True, overwrite=True)
    assert mutual.fit(document).folder == tmp_path / document["name"]
