"""Tuning takes what is fastest and changes nothing else; its times are not asserted, but made up."""

import json
from functools import partialmethod

import pytest
import torch
import yaml
from support import WORLD, digests, run, tiny_document

import mutual
from mutual import bench
from mutual.engine.costs import tune, tuning, tuning_table
from mutual.engine.costs.candidates import candidates, with_values
from mutual.engine.runtime import Environment
from mutual.engine.storage import RunFolder
from mutual.group import Communicator
from mutual.recipe import parse_recipe

COLOUR = {**tiny_document()["data"], "channels": 3}
ENVIRONMENT = Environment(None, WORLD, "no")


def recipe_of(**sections):
    train = {"epochs": 2, "progress": False, "threads": 2, **sections.pop("train", {})}
    return parse_recipe(tiny_document(**{"data": COLOUR, "train": train, **sections}))


def labels(recipe, **options):
    settings = candidates(recipe, **{"device": "cpu", "tries_threads": True, **options})
    return [[candidate.label for candidate in setting] for setting in settings]


def seconds_of(trial):
    """Made-up seconds: one thread and channels_last are faster by themselves, fused is slower, and foreach a little faster, as noise is."""
    peer, optimizer = trial.training.group.peers["a"], trial.training.optimizers["a"].optimizer
    factors = {
        0.5: trial.threads == 1,
        0.8: peer.input.channels_last,
        1.1: bool(optimizer.defaults["fused"]),
        0.98: bool(optimizer.defaults["foreach"]),
        0.1: peer.tapped._compiled_call_impl is not None,
    }
    return torch.tensor([factor for factor, holds in factors.items() if holds]).prod().item()


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    for name in ("WARMUP", "MIN_ROUNDS", "MAX_ROUNDS"):
        monkeypatch.setattr(tuning, name, 1)


@pytest.fixture
def made_up(monkeypatch):
    """Nothing is timed, and nothing is compiled."""
    monkeypatch.setattr(tuning._Trial, "update", seconds_of)
    monkeypatch.setattr(tuning._Trial, "run_peers", lambda trial: None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: setattr(module, "_compiled_call_impl", module.forward))
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)


def test_what_the_recipe_says_is_not_tried():
    assert labels(recipe_of(train={"threads": 4})) == [
        ["threads 2", "threads 1"],
        ["channels_last true"],
        ["optimizers fused", "optimizers foreach"],
        ["compile, mode default"],
    ]
    said = {"train": {"channels_last": False, "compile": False}, "optimizer": {"name": "sgd", "fused": False}}
    assert labels(recipe_of(**said), tries_threads=False) == [[]]
    assert labels(recipe_of(optimizer={"name": "sgd", "args": {"foreach": True}}))[2] == []
    assert labels(recipe_of(optimizer={"name": "rprop"}))[2] == [], "it has no fused form, and foreach only with it"


def test_a_benchmark_tries_the_other_way_too():
    said = recipe_of(train={"channels_last": True, "compile": True}, optimizer={"name": "sgd", "fused": True})
    assert labels(said, tries_given=True) == [
        ["threads 1"],
        ["channels_last false"],
        ["optimizers as torch chooses", "optimizers foreach"],
        ["compile false"],
    ]


def test_nothing_is_compiled_where_activations_are_computed_once_more():
    """A recipe refuses both: the run's own would not be read again."""
    peers = {"a": {"model": "support:double", "activation_checkpointing": True}, "b": {"model": "support:double"}}
    assert labels(recipe_of(peers=peers)) == labels(recipe_of())[:-1]
    assert labels(recipe_of(peers=peers), tries_given=True, device="cuda") == labels(recipe_of(), tries_given=True, device="cuda")[:-1]


def test_a_gpu_has_other_candidates():
    assert labels(recipe_of(), device="cuda") == [
        ["channels_last true"],
        ["optimizers fused"],
        ["compile, mode default", "compile, mode reduce-overhead"],
    ]


def test_each_optimizer_of_a_recipe_is_set():
    peers = {"a": {"model": "support:double", "optimizer": {"name": "adamw"}}, "b": {"model": "support:double"}}
    fused = list(candidates(recipe_of(peers=peers), device="cpu", tries_threads=False))[1][0]
    tuned = with_values(recipe_of(peers=peers), fused.values)
    assert (tuned.optimizer.fused, tuned.peers["a"].optimizer.fused) == (True, True)
    assert tuned.peers["a"].optimizer.name == "adamw"


def test_the_fastest_settings_are_taken_together(made_up):
    result = tune(recipe_of(train={"epochs": 10_000}), ENVIRONMENT, tries_threads=True)
    ratios = {row.label: row.step_ratio and round(row.step_ratio, 3) for row in result.rows}
    assert ratios == {
        "the recipe as given": 1.0,
        "threads 1": 0.5,
        "channels_last true": 0.4,
        "optimizers fused": 0.44,
        "optimizers foreach": 0.392,  # not taken: it gains too little
        "compile, mode default": 0.04,
    }
    assert result.overrides == ["train.threads=1", "train.channels_last=true", "train.compile=true", "train.compile_mode=default"]
    assert result.step_ratio == pytest.approx(0.04)
    assert tuning_table(result).splitlines()[-1].endswith(f"{' '.join(result.overrides)}: 0.04 of the recipe as given")


def test_peers_of_many_kinds_are_all_compiled_while_they_are_measured(made_up, monkeypatch):
    import torch._dynamo.config as limits

    limit, found = "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit", []
    monkeypatch.setattr(tuning._Trial, "run_peers", lambda trial: found.append(getattr(limits, limit)))
    tune(recipe_of(train={"epochs": 10_000}), ENVIRONMENT, tries_threads=False)
    assert found
    assert min(found) >= 2 * 16


def test_nothing_is_compiled_that_the_run_cannot_repay(made_up, monkeypatch):
    notes = {row.label: row.note for row in tune(recipe_of(), ENVIRONMENT, tries_threads=True).rows}
    line = "left out: compiling takes about 75 s, and 10 updates of 400 ms could save 2 s"
    assert notes["compile, mode default"] == line
    monkeypatch.setattr(tuning, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(tuning, "COMPILATIONS", 1e9)
    result = tune(recipe_of(), ENVIRONMENT, tries_threads=True)
    assert result.rows[-1].note.endswith("and the run would save 4 s")
    assert "train.compile" not in result.values


def test_nothing_more_is_tried_when_the_time_is_over(made_up):
    result = tune(recipe_of(train={"tune_seconds": 1e-3}), ENVIRONMENT, tries_threads=True)
    assert result.values == {}
    assert all("train.tune_seconds leaves 0 s" in row.note for row in result.rows[1:])
    assert "nothing is faster than the recipe as given" in tuning_table(result)


def test_what_fails_is_left_out_by_name(made_up, monkeypatch):
    def fail(trial):
        raise RuntimeError("there is no compiler here\nand much more")

    def fused_fails(spec, parameters, model):
        if spec.fused:
            raise ValueError("sgd: fused takes no such dtype")
        return torch.optim.SGD(parameters, fused=spec.fused, foreach=spec.foreach)

    monkeypatch.setattr(tuning._Trial, "run_peers", fail)
    monkeypatch.setattr("mutual.engine.training.setup.build_optimizer", fused_fails)
    result = tune(recipe_of(train={"epochs": 10_000}), ENVIRONMENT, tries_threads=True)
    notes = {row.label: row.note for row in result.rows}
    assert notes["compile, mode default"] == "left out: RuntimeError: there is no compiler here"
    assert notes["optimizers fused"] == "left out: optimizer: sgd: fused takes no such dtype"
    assert result.overrides == ["train.threads=1", "train.channels_last=true"]


def test_all_ranks_take_what_the_main_process_found(made_up):
    class SecondRank(Communicator):
        """Hears of another result than its own, as if the first rank's clock had told another budget."""

        def all_gather_json(self, value):
            is_result = isinstance(value, list) and len(value) == 3 and isinstance(value[1], float)
            return [[{"train.threads": 7}, 0.3, 1.0] if is_result else value]

    environment = Environment(None, SecondRank(0, 1, torch.device("cpu")), "no")
    result = tune(recipe_of(), environment, tries_threads=True)
    assert (result.values, result.step_ratio) == ({"train.threads": 7}, 0.3)


def test_the_stores_of_a_run_are_not_filled(tmp_path):
    teacher = {"model": "support:tiny", "frozen": True, "store": {"folder": str(tmp_path / "store")}}
    recipe = recipe_of(peers={"a": {"model": "support:tiny"}, "t": teacher}, objectives=[{"loss": "cross_entropy"}, {"loss": "kd"}])
    tune(recipe, ENVIRONMENT, tries_threads=False)
    assert not (tmp_path / "store").exists()


def test_a_tuned_run_is_the_run_of_its_resolved_recipe(tmp_path, made_up, monkeypatch):
    """Dropout, augmentation and initial weights draw as if nothing had been measured; and a resumed run measures nothing."""
    peers = {name: {"model": "support:tiny", "args": {"norm": True, "dropout": 0.5}} for name in "ab"}
    document = tiny_document(data=COLOUR, peers=peers, output=str(tmp_path / "tuned"), train={"epochs": 1, "progress": False, "tune": True})
    torch.manual_seed(1)
    mutual.fit(document)
    tuned = RunFolder(tmp_path / "tuned" / "tiny").recipe()
    assert (tuned.train.tune, tuned.train.channels_last, tuned.train.compile, tuned.optimizer.fused) == (False, True, False, None)
    torch.manual_seed(2)
    mutual.fit(tuned.model_copy(update={"output": str(tmp_path / "plain")}))
    assert digests(tmp_path / "plain" / "tiny") == digests(tmp_path / "tuned" / "tiny")
    monkeypatch.setattr("mutual.engine.costs.tuning.tune", None)  # whoever calls it fails
    mutual.fit(document, resume=True)
    assert RunFolder(tmp_path / "tuned" / "tiny").recipe() == tuned


def test_updates_are_measured_with_their_own_threads(monkeypatch):
    threads, step = set(), tuning._Trial.update

    def recording(trial):
        seconds = step(trial)
        threads.add(trial.threads)
        return seconds

    monkeypatch.setattr(tuning._Trial, "update", recording)
    before = torch.get_num_threads()
    result = tune(recipe_of(), ENVIRONMENT, tries_threads=True)
    assert threads == {1, 2}
    assert torch.get_num_threads() == before
    assert all(row.step_seconds > 0 for row in result.rows if not row.note)


@pytest.mark.slow
def test_compiled_peers_are_measured(monkeypatch):
    monkeypatch.setattr(tuning, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))  # C++ would take a minute
    recipe = recipe_of(train={"channels_last": False}, optimizer={"name": "sgd", "fused": False})
    row = tune(recipe, ENVIRONMENT, tries_threads=False).rows[-1]
    assert row.label == "compile, mode default"
    assert row.step_seconds is not None
    assert row.note.startswith("compiling took ")


def test_the_verb_prints_what_to_set(tmp_path, capsys, made_up):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tiny_document(data=COLOUR, train={"epochs": 1, "threads": 2})))
    assert bench.main([str(tmp_path / "r.yaml"), "--tune"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny"
    assert lines[-1].endswith("train.threads=1 train.channels_last=true: 0.40 of the recipe as given")
    assert bench.main([str(tmp_path / "r.yaml"), "--tune", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["overrides"] == ["train.threads=1", "train.channels_last=true"]
    for other in (["--placements"], ["--store"], ["--predict", "8"]):
        with pytest.raises(SystemExit) as ended:
            bench.main([str(tmp_path / "r.yaml"), "--tune", *other])
        assert ended.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(f"--tune does not go with {other[0]}")


@pytest.mark.slow
def test_two_processes_train_what_they_found_together(tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tiny_document(data=COLOUR, output=str(tmp_path))))
    done = run("mutual.train", tmp_path / "r.yaml", "train.tune=true", "train.epochs=1", processes=2)
    assert done.stdout.count("tuned in ") == 1
    written = RunFolder(tmp_path / "tiny").recipe()
    assert not written.train.tune
    run("mutual.train", tmp_path / "r.yaml", "train.tune=true", "train.epochs=1", "--resume", processes=2)
    assert RunFolder(tmp_path / "tiny").recipe() == written
