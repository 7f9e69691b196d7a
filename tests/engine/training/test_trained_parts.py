"""Training a part of a peer: a plain script's numbers, what is frozen bit for bit as it was, by averages, resumes and several ranks."""

import json
import shutil

import pytest
import safetensors.torch
import torch
import yaml
from support import build, digests, initial_model, run, tiny_document, train_epochs
from torch.nn import functional as F

import mutual
from mutual.recipe import RecipeError, parse_recipe

ALONE = [{"loss": "cross_entropy"}]
ARGS = {"norm": True, "dropout": 0.3}
STEM = ("stem.weight", "stem.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
BODY = (*STEM, "body.weight", "body.bias")


def parts(**sections):
    """Two peers: one trains all but its first two layers, the other its head alone."""
    peers = {
        "a": {"model": "support:double", "args": ARGS, "freeze": ["stem", "norm"]},
        "b": {"model": "support:double", "args": ARGS, "train_only": ["head"]},
    }
    return tiny_document(**{"peers": peers, **sections})


def initial(document, name):
    return initial_model(parse_recipe(document), name)[0]


def assert_rested(tensors, start, names):
    for name, value in tensors.items():
        assert torch.equal(value, start[name]) == (name in names), name


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_what_is_frozen_stays_bit_for_bit(update):
    """Weights under weight decay, BatchNorm statistics in the peer and its average; all else moves."""
    optimizer = {"name": "adamw", "lr": 0.01, "weight_decay": 0.5}
    document = parts(train={"epochs": 1, "update": update, "ema": 0.7, "progress": False}, optimizer=optimizer)
    group = train_epochs(document)
    for name, names in (("a", STEM), ("b", BODY)):
        start = initial(document, name).state_dict()
        assert_rested(group.peers[name].model.state_dict(), start, names)
        assert_rested(group.peers[name].average.model.state_dict(), start, names)


def test_a_trained_part_gets_the_numbers_of_a_plain_script():
    document = parts(objectives=ALONE, optimizer={"name": "sgd", "lr": 0.5, "momentum": 0.9, "weight_decay": 0.01})
    document["peers"] = {"b": {**document["peers"]["b"], "args": {"norm": True}}}
    _, data, group, train_step = build(document)
    model = initial(document, "b").eval()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
    group.train()
    for update, window in enumerate(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)):
        (batch,) = window.batches
        train_step(window, update, measure=False)
        images = (batch.images.double() / 255 - torch.tensor(data.info.mean).view(-1, 1, 1)) / torch.tensor(data.info.std).view(-1, 1, 1)
        optimizer.zero_grad()
        F.cross_entropy(model(images)[: batch.num_valid], batch.labels[: batch.num_valid]).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(group.peers["b"].model.state_dict()[name], value, rtol=1e-6, atol=1e-6, msg=name)


def test_a_run_says_how_much_is_trained_and_goes_on_bit_for_bit(tmp_path, capsys):
    train = {"epochs": 2, "ema": 0.9, "progress": False}
    document = parts(train=train, checkpoint={"every_steps": 2, "keep": 100}, output=str(tmp_path))
    folder = mutual.fit(parse_recipe(document)).folder
    summary = capsys.readouterr().out.splitlines()[0]
    assert "a (216 parameters, 168 of them trained)" in summary
    assert "b (216 parameters, 20 of them trained)" in summary
    whole = digests(folder)
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > 4:
            shutil.rmtree(path)
    assert digests(mutual.fit(parse_recipe(document), resume=True).folder) == whole


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ({"freeze": ["stam"]}, "peers.a.freeze: support:double: no module 'stam'; near: stem"),
        ({"train_only": ["dropout"]}, "peers.a.train_only: support:double: no parameter is left to train; a peer that only teaches"),
        (
            {"freeze": ["stem", "body"]},
            "peers.a.freeze: no parameter that is trained reaches 'body' of support:double, by which 'a' is to learn",
        ),
        ({"train_only": ["head"]}, "peers.a.train_only: no parameter that is trained reaches 'body' of support:double, by which 'a' is to"),
    ],
)
def test_a_mistake_is_one_line(peer, message):
    peers = {"a": {"model": "support:double", **peer}, "b": {"model": "support:double"}}
    with pytest.raises(RecipeError) as caught:
        build(tiny_document(peers=peers, objectives=[*ALONE, {"loss": "l2", "at": "body", "learners": ["a"]}]))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_parameters_that_nothing_reads_are_excluded_beside(recwarn):
    peers = {"a": {"model": "odd_models:Spare", "freeze": ["stem"]}}
    group = build(tiny_document(peers=peers, objectives=ALONE))[2]
    assert {name for name, p in group.peers["a"].model.named_parameters() if p.requires_grad} == {
        f"{m}.{p}" for m in ("body", "head") for p in ("weight", "bias")
    }
    (note,) = [str(warning.message) for warning in recwarn if "excluded" in str(warning.message)]
    assert "depends on 2 parameters (spare.weight, spare.bias)" in note, "those that are frozen are not among them"
    peers = {"a": {"model": "odd_models:Spare", "train_only": ["spare"]}}
    with pytest.raises(RecipeError, match="no parameter of odd_models:Spare reaches its outputs"):
        build(tiny_document(peers=peers, objectives=ALONE))


@pytest.mark.slow
def test_two_ranks_and_three_give_the_numbers_of_one(tmp_path):
    """Frozen statistics are no mean of three: they are the same bits. With frozen BatchNorm layers the numbers of ranks do not matter."""
    ends = {}
    start = initial(parts(), "a").state_dict()
    start |= {name: torch.rand(4, dtype=torch.float64) + 0.1 for name in ("norm.running_mean", "norm.running_var")}
    torch.save(start, tmp_path / "start.pt")
    for processes, batch_size in ((1, 12), (2, 6), (3, 4)):
        document = parts(train={"epochs": 2, "ema": 0.9, "progress": False}, output=str(tmp_path), name=f"by_{processes}")
        for peer in document["peers"].values():
            peer |= {"args": {"norm": True}, "weights": str(tmp_path / "start.pt")}
        document["data"] |= {"num_train": 37, "batch_size": batch_size}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
        done = run("mutual.train", tmp_path / "recipe.yaml", processes=processes)
        assert f"{processes} process" in done.stdout
        ends[processes] = {
            peer: safetensors.torch.load_file(tmp_path / f"by_{processes}" / "last" / f"{peer}.safetensors") for peer in "ab"
        }
        for name, names in (("a", STEM), ("b", BODY)):
            assert_rested(ends[processes][name], start, names)
    for processes in (2, 3):
        for peer, tensors in ends[1].items():
            for name, tensor in tensors.items():
                torch.testing.assert_close(ends[processes][peer][name], tensor, rtol=1e-10, atol=1e-10, msg=f"{processes} {peer}.{name}")
    assert json.loads((tmp_path / "by_3" / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 2
