"""Trackers beside TensorBoard: what is missing, what fails, and what goes on where a run is resumed."""

import json
import os
from types import SimpleNamespace

import pytest
from support import tiny_document

import mutual
from mutual.engine.monitoring import check_trackers, services
from mutual.engine.storage import RunFolder, TrackedRuns
from mutual.recipe import InputError, RecipeError, parse_recipe


def recipe_of(tmp_path, *tracking, **changes):
    document = tiny_document(output=str(tmp_path), tracking=list(tracking), **changes)
    del document["train"]["pictures"]  # they are drawn unless a recipe says otherwise
    return parse_recipe(document)


class Service:
    """A tracker of Accelerate's, which fails from its call of this number on."""

    def __init__(self, fails_at=None):
        self.calls, self.fails_at, self.tracker = [], fails_at, SimpleNamespace(id="abc", name="run")

    def _called(self, what, *arguments):
        self.calls.append((what, *arguments))
        if len(self.calls) == self.fails_at:
            raise ConnectionError("no\nroute")

    def store_init_configuration(self, values):
        self._called("hyperparameters", values)

    def log(self, values, step):
        self._called("log", values, step)

    def log_images(self, values, step):
        self._called("pictures", values, step)

    def finish(self):
        self._called("finish")


@pytest.fixture
def served(monkeypatch):
    """By name the services that a run starts, and with what."""
    made = {}

    def start(accelerator, name, project, arguments):
        if name == "tensorboard":
            raise AssertionError("it was not asked for")
        if name == "comet_ml":
            raise OSError("no\nanswer")
        made.setdefault(name, []).append((Service(fails_at=3 if name == "swanlab" else None), project, dict(arguments)))
        return made[name][-1][0]

    monkeypatch.setattr(services, "start_tracker", start)
    monkeypatch.setattr("mutual.engine.fitting.check_trackers", lambda recipe: None)
    return made


def test_what_is_missing_is_a_line_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(RecipeError, match=r"tracking\.1: comet_ml is not installed; pip install comet-ml, or leave it out"):
        mutual.fit(recipe_of(tmp_path, "tensorboard", "comet_ml"))
    assert not (tmp_path / "tiny").exists()


def test_what_accelerate_does_not_know_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.utils.LoggerType.list", lambda: ["tensorboard", "wandb"])
    with pytest.raises(RecipeError, match=r"tracking\.0: the installed Accelerate knows no trackio; pip install --upgrade accelerate"):
        check_trackers(recipe_of(tmp_path, "trackio"))


def test_a_service_is_told_all_that_tensorboard_is(tmp_path, served):
    wandb = {"name": "wandb", "project": "mine", "args": {"mode": "offline"}}
    folder = mutual.fit(recipe_of(tmp_path, wandb)).folder
    ((service, project, arguments),) = served["wandb"]
    assert (project, arguments) == ("mine", {"name": "tiny", "mode": "offline"})
    kinds = [call[0] for call in service.calls]
    assert kinds[0] == "hyperparameters"
    assert kinds[-1] == "finish"
    assert service.calls[0][1]["objectives"]
    logged = {key for call in service.calls if call[0] == "log" for key in call[1]}
    assert {"accuracy/top1/a", "best/top1", "ensemble/nll", "optimizer/grad_norm/b", "kl/mean"} <= logged
    pictures = {key for call in service.calls if call[0] == "pictures" for key in call[1]}
    assert {"pictures/confusion/a", "pictures/views/b", "pictures/kl"} <= pictures
    assert not list(folder.rglob("events.*")), "TensorBoard was not asked for"
    assert RunFolder(folder).read_tracked().ids == {"wandb": "abc"}


def test_a_resumed_run_goes_on_in_the_same_run_of_its_service(tmp_path, served):
    mutual.fit(recipe_of(tmp_path, "wandb", "clearml"))
    mutual.fit(recipe_of(tmp_path, "wandb", "clearml"), resume=True)
    (_, _, first), (again, _, second) = served["wandb"]
    assert "id" not in first
    assert (second["id"], second["resume"]) == ("abc", "allow")
    assert "hyperparameters" not in {call[0] for call in again.calls}
    assert served["clearml"][1][2] == {}, "of which no id is kept"
    mutual.fit(recipe_of(tmp_path, "wandb"), overwrite=True)
    assert "id" not in served["wandb"][2][2], "it is another run"


def test_a_service_that_fails_later_is_left_out(tmp_path, served):
    with pytest.warns(UserWarning, match="swanlab has failed and is left out from here on: no route"):
        result = mutual.fit(recipe_of(tmp_path, "swanlab", "wandb"))
    assert len(served["swanlab"][0][0].calls) == 3
    assert len(served["wandb"][0][0].calls) > 3
    assert len(result.history) == 2


def test_a_service_that_cannot_start_is_a_line(tmp_path, served):
    with pytest.raises(InputError, match="tracking: comet_ml cannot start: no answer; log in"):
        mutual.fit(recipe_of(tmp_path, "comet_ml"))


def test_a_service_that_does_not_answer_is_named(tmp_path, monkeypatch):
    import time

    monkeypatch.setattr(services, "PATIENCE", 0.01)
    monkeypatch.setattr(services, "start_tracker", lambda *_: time.sleep(0.2) or Service())
    lines = []
    monkeypatch.setattr(services.warnings, "warn", lambda text, **_: lines.append(text))
    services.Services(recipe_of(tmp_path, "aim"), RunFolder(tmp_path / "tiny")).start(SimpleNamespace(), {})
    assert lines == ["still waiting for aim to start; an offline mode needs no server (tracking.N.args)"]


def test_damaged_ids_are_none(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_tracked() == TrackedRuns(ids={})
    (tmp_path / "tracked.json").write_text('{"ids": 3}')
    assert folder.read_tracked() == TrackedRuns(ids={})


def test_an_id_of_a_service_in_which_no_run_goes_on_is_passed_over(tmp_path, served):
    folder = mutual.fit(recipe_of(tmp_path, "clearml")).folder
    (folder / "tracked.json").write_text('{"ids": {"clearml": "abc"}}')
    mutual.fit(recipe_of(tmp_path, "clearml"), resume=True)
    assert served["clearml"][1][2] == {}


def test_no_tracker_is_a_tracking_too(tmp_path):
    folder = mutual.fit(recipe_of(tmp_path)).folder
    assert not list(folder.rglob("events.*"))
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_services_that_are_installed_track_without_a_network(tmp_path, monkeypatch, name):
    pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    for variable in ("TRACKIO_DIR", "WANDB_DIR"):
        monkeypatch.setitem(os.environ, variable, str(tmp_path))
    monkeypatch.setitem(os.environ, "MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    entry = {"name": name, "args": {"mode": "offline"} if name == "wandb" else {}}
    folder = mutual.fit(recipe_of(tmp_path, entry)).folder
    (before,) = json.loads((folder / "tracked.json").read_text())["ids"].values()
    mutual.fit(recipe_of(tmp_path, entry), resume=True)
    assert json.loads((folder / "tracked.json").read_text())["ids"] == {name: before}
