"""Codistillation: jobs that share nothing but a folder join, leave, die and return; a publication that cannot be read is skipped."""

import json
import time
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from support import ROOT, WORLD, assert_equal_weights, build, run, run_launched, start, tiny_document, weights

from mutual.engine.codistillation.jobs import restrict_to_job, split_launch
from mutual.engine.codistillation.weight_exchange import WeightExchange
from mutual.engine.codistillation.weight_store import WeightStore
from mutual.models import ModelCard, create_model, model_bytes
from mutual.recipe import RecipeError, load_recipe, parse_recipe

FASHION = Path("/usr/share/datasets/fashion-mnist")


def stale(folder, trains, **sections):
    return tiny_document(exchange={"kind": "stale", "folder": str(folder), "trains": trains, "every": 2}, **sections)


def job(folder, trains):
    """The group of one job and its exchange."""
    recipe = restrict_to_job(parse_recipe(stale(folder, trains)))
    _, data, group, train_step = build(recipe.model_dump())
    weight_exchange = WeightExchange(recipe, group, WORLD)
    weight_exchange.attach()
    return weight_exchange, data, group, train_step


def publish_nan(folder, file):
    """As a job does whose loss has just diverged."""
    tensors = {name: torch.full_like(tensor, torch.nan) for name, tensor in safetensors.torch.load_file(file).items()}
    WeightStore(str(folder)).publish("a", safetensors.torch.save(tensors), step=9)


def test_a_job_trains_its_own_peers_and_the_others_teach():
    objectives = [{"loss": "cross_entropy", "learners": ["a", "b"]}, {"loss": "dml"}, {"loss": "l2", "learners": ["b"]}]
    recipe = restrict_to_job(parse_recipe(stale("x", ["a"], objectives=objectives)))
    assert recipe.trainable == ("a",)
    assert recipe.exchange.reads == ["b"]
    assert [objective.loss for objective in recipe.objectives] == ["cross_entropy", "dml"]
    assert restrict_to_job(recipe) == recipe, "a resumed job reads its own resolved recipe"


@pytest.mark.filterwarnings("ignore:peers.a")
def test_a_peer_is_the_same_in_its_own_job_and_in_others(tmp_path):
    """With weights for other classes and another size: a new head, and the data's size, although it only teaches in the other job."""
    old = create_model("small_cnn", num_classes=7, in_channels=1)
    card = ModelCard("small_cnn", 7, 1, (12, 12), (0.3,), (0.2,), tuple("abcdefg"))
    (tmp_path / "old.safetensors").write_bytes(model_bytes(old, card))
    fields = {
        "model": "small_cnn",
        "weights": {"file": str(tmp_path / "old.safetensors"), "head": "new"},
        "activation_checkpointing": True,  # which a job whose teacher it is must not ask of it
    }
    groups = []
    for trains in ("a", "b"):
        recipe = restrict_to_job(parse_recipe(stale(tmp_path, [trains], peers={"a": fields, "b": {"model": "small_cnn"}})))
        groups.append(build(recipe.model_dump())[2])
    assert groups[0].inputs == groups[1].inputs
    assert groups[0].inputs["a"].size == (8, 8)
    assert [group.peers["a"].model.fc.out_features for group in groups] == [4, 4]


def test_what_is_published_is_taken_over(tmp_path):
    (first, _, group_a, _), (second, _, group_b, _) = job(tmp_path, ["a"]), job(tmp_path, ["b"])
    assert group_b.unavailable_sources == {"a"}
    second.exchange_if_due(2)
    assert group_b.unavailable_sources == {"a"}, "nothing is there yet"
    with torch.no_grad():
        group_a.peers["a"].model.head.bias.fill_(7)
    first.exchange_if_due(1)
    assert not (tmp_path / "a.json").exists(), "not due"
    first.exchange_if_due(2)
    second.exchange_if_due(2)
    assert group_b.unavailable_sources == set()
    assert_equal_weights(group_b.peers["a"].model.state_dict(), group_a.peers["a"].model.state_dict())


def test_an_edge_from_an_unavailable_peer_weighs_nothing(tmp_path):
    _, data, group, train_step = job(tmp_path, ["b"])
    alone = tiny_document(peers={"b": {"model": "support:double"}}, objectives=[{"loss": "cross_entropy"}])
    _, _, expected, other = build(alone)
    for each, group_of in ((train_step, group), (other, expected)):
        group_of.train()
        for update, window in enumerate(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)):
            each.simultaneous(window, update, measure=False)
    of_b = {name: value for name, value in weights(group).items() if name.startswith("b.")}
    assert_equal_weights(of_b, weights(expected), tolerance=1e-12)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder, file: file.write_bytes(file.read_bytes()[:-40]), "half-written or altered"),
        (lambda folder, file: file.unlink(), "cannot be read"),
        (lambda folder, file: (folder / "a.json").write_text('{"file"'), "the manifest of peer 'a' cannot be read"),
        (
            lambda folder, file: WeightStore(str(folder)).publish("a", safetensors.torch.save({"x": torch.ones(2)}), step=9),
            "another model's",
        ),
        (publish_nan, "what peer 'a' has published is not finite"),
    ],
)
def test_a_publication_that_cannot_be_read_is_skipped_with_a_warning(tmp_path, spoil, message):
    (first, _, _, _), (second, _, group_b, _) = job(tmp_path, ["a"]), job(tmp_path, ["b"])
    first.exchange_if_due(2)
    second.exchange_if_due(2)
    before = {name: value.clone() for name, value in group_b.peers["a"].model.state_dict().items()}
    first.exchange_if_due(4)
    (file,) = tmp_path.glob("a-*4-*.safetensors")
    spoil(tmp_path, file)
    second._digests.clear()
    with pytest.warns(UserWarning, match=message):
        second.exchange_if_due(4)
    assert_equal_weights(group_b.peers["a"].model.state_dict(), before)
    first.exchange_if_due(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second.exchange_if_due(6)


def test_the_shelf_keeps_the_last_two_and_any_fsspec_address_serves():
    published = WeightStore("memory://shelf")
    assert published.latest("a") is None
    for step in range(4):
        published.publish("a", bytes([step]) * 10, step=step)
    digest, content = published.latest("a")
    assert content == bytes([3]) * 10
    assert len(digest) == 64
    assert len(published._files.glob(f"{published._root}/a-*.safetensors")) == 2


def test_publishing_removes_nothing_but_what_the_peer_has_published_before(tmp_path):
    """Neither what a peer whose name begins alike has published, nor what the user keeps in the folder."""
    published = WeightStore(str(tmp_path))
    for peer in ("a-b", "a"):
        for step in range(3):
            published.publish(peer, peer.encode() * 10, step=step)
    kept = ["a-mine.safetensors", "a-0000000001-backup.safetensors", "a-1-deadbeef.safetensors", "[a].txt"]
    for name in kept:
        (tmp_path / name).write_text("the user's own")
    (tmp_path / ".unfinished-a-0000000001-deadbeef.safetensors").write_text("of a job that was killed")
    for step in range(3, 6):
        published.publish("a", b"a" * step, step=step)
    assert published.latest("a-b")[1] == b"a-b" * 10
    left = {path.name for path in tmp_path.iterdir()} - {"a.json", "a-b.json", *kept}
    assert sorted(name[: len("a-b-0000000001")] for name in left if name.startswith("a-b-")) == ["a-b-0000000001", "a-b-0000000002"]
    assert sorted(name[: len("a-0000000001")] for name in left if not name.startswith("a-b-")) == ["a-0000000004", "a-0000000005"]
    assert all((tmp_path / name).exists() for name in kept)


def test_a_peer_that_nobody_publishes_is_named_once(tmp_path):
    exchange, _, _, _ = job(tmp_path, ["b"])
    exchange.refresh()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for update in range(1, 21):
            exchange.exchange_if_due(update)
            if update == 5:
                assert not caught
    assert [str(each.message).partition(";")[0] for each in caught] == [
        f"nobody has published peer 'a' in {tmp_path} so far, so nothing is learned from it"
    ]


@pytest.mark.slow
def test_a_job_in_which_ranks_hold_different_peers_publishes_them_all_and_reads_what_one_of_them_needs(tmp_path):
    """Only rank 1 holds the learner of c, and so c itself, which another job trains; without its weights nothing is learned from it."""
    peers = {name: {"model": "support:double"} for name in "abc"}
    objectives = [{"loss": "cross_entropy", "learners": ["a", "c"]}, {"loss": "dml", "learners": ["b"], "sources": ["c"]}]
    published = WeightStore(str(tmp_path / "shelf"))
    published.publish("c", safetensors.torch.save(build(tiny_document())[2].peers["a"].model.state_dict()), step=1)
    document = stale(tmp_path / "shelf", ["a", "b"], peers=peers, objectives=objectives, placement="parallel")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    done = run("mutual.train", tmp_path / "recipe.yaml", f"output={tmp_path}", processes=2)
    assert "b (208 parameters, rank 1)" in done.stdout
    trained = {name: safetensors.torch.load_file(tmp_path / "tiny" / "last" / f"{name}.safetensors") for name in "ab"}
    for name, tensors in trained.items():
        assert_equal_weights(safetensors.torch.load(published.latest(name)[1]), tensors)
    metrics = json.loads((tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()[0])
    assert metrics["train"]["loss"]["b"] > 0, "the edge from c weighs"


def test_a_job_that_begins_anew_is_read_although_its_steps_are_lower(tmp_path):
    published = WeightStore(str(tmp_path))
    for step in (464, 480, 16, 32):
        published.publish("a", bytes([step % 256]) * 10, step=step)
        assert published.latest("a")[1] == bytes([step % 256]) * 10
    assert len(list(tmp_path.glob("a-*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        ({"kind": "stale", "trains": ["a"]}, "exchange.folder: a stale exchange needs the folder"),
        ({"kind": "stale", "folder": "x", "trains": ["c"]}, "exchange.trains: 'c' is no peer"),
        ({"folder": "x"}, "exchange.folder: belongs to kind: stale"),
    ],
)
def test_a_wrong_exchange_is_one_line(exchange, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(tiny_document(exchange=exchange))


@pytest.mark.parametrize(
    ("launched", "message"),
    [
        ({}, "exchange.trains: say which peers this job trains, of a, b; or start a multiple of 2 processes, to train all"),
        ({"WORLD_SIZE": "3", "RANK": "0"}, "start a multiple of 2 processes"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "exchange.trains: several jobs in one launch need torchrun"),
    ],
)
def test_processes_that_cannot_be_divided_among_the_peers_are_reported_so(monkeypatch, launched, message):
    for name in ("WORLD_SIZE", "RANK", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=message):
        split_launch(parse_recipe(stale("x", [])))
    assert split_launch(parse_recipe(stale("x", ["a"]))).name == "tiny"


@pytest.mark.slow
def test_one_launch_is_divided_into_a_job_for_each_peer(tmp_path):
    """Four processes: two train one peer, two the other; each pair has a run of its own, and reads what the other has published."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(stale(tmp_path / "shelf", [])))
    arguments = ["mutual.train", tmp_path / "recipe.yaml", f"output={tmp_path}"]
    done = run(*arguments, "data.batch_size=4", processes=4)
    for mine, other in ("ab", "ba"):
        assert f"tiny_{mine}: {mine} (208 parameters), {other} (as published)" in done.stdout
        resolved = load_recipe(tmp_path / f"tiny_{mine}" / "recipe.yaml")
        assert (resolved.exchange.trains, resolved.exchange.reads) == ([mine], [other])
        assert (tmp_path / "shelf" / f"{mine}.json").exists()
    assert done.stdout.count("2 processes on cpu") == 2
    again = run_launched(*arguments, "data.batch_size=8", "train.epochs=2", "--resume", processes=2)  # by torchrun itself
    assert again.stdout.count("done in") == 2


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_two_jobs_without_a_process_group_help_each_other_although_one_is_killed(tmp_path):
    """Both finish, and each is at least as good as it is alone (NLL)."""
    recipe = ROOT / "recipes" / "fashion_mnist" / "codistillation.yaml"
    common = [f"output={tmp_path}", f"data.root={FASHION}", "train.eval_every=30", "train.progress=false"]
    shared = [*common, f"exchange.folder={tmp_path / 'shelf'}"]

    def begin(name):
        return start("mutual.train", recipe, *shared, f"name={name}", f"exchange.trains=[{name}]", "--resume")

    running = {name: begin(name) for name in "ab"}
    deadline = time.monotonic() + 120
    while not (tmp_path / "b" / "checkpoints" / "step_00000160").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running["b"].kill()
    running["b"].wait(timeout=10)
    running["b"] = begin("b")
    for job in running.values():
        assert job.wait(timeout=200) == 0, job.stderr
    run("mutual.train", recipe, *common, "name=lone", "exchange={}", "objectives=[{loss: cross_entropy}]")

    def nll(folder, peer):
        return json.loads((tmp_path / folder / "metrics.jsonl").read_text().splitlines()[-1])["eval"][peer]["nll"]

    for name in "ab":
        assert nll(name, name) <= nll("lone", name)
    assert load_recipe(tmp_path / "a" / "recipe.yaml").exchange.reads == ["b"]
