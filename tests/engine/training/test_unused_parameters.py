"""A model with parameters that nothing reads trains alike on one process and on two, on which DDP would wait for their gradients."""

import pytest
import safetensors.torch
import torch
import yaml
from support import run, tiny_document

from mutual.group import DataSpec, create_peer_model
from mutual.models import ModelInput
from mutual.recipe import load_recipe

pytestmark = pytest.mark.slow

PEERS = {"a": {"model": "odd_models:Spare"}, "b": {"model": "support:double"}}
DECAY = {"name": "adamw", "lr": 0.01, "weight_decay": 0.5}


def trained(folder, *arguments, processes):
    folder.mkdir(exist_ok=True)
    recipe = tiny_document(peers=PEERS, optimizer=DECAY, train={"epochs": 2, "progress": False, "ema": 0.5})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = run("mutual.train", folder / "recipe.yaml", f"output={folder}", *arguments, processes=processes)
    assert done.stderr.count("depends on 2 parameters (spare.weight, spare.bias)") == 1, done.stderr
    return {peer: safetensors.torch.load_file(folder / "tiny" / "last" / f"{peer}.safetensors") for peer in "ab"}


def test_one_process_and_two_give_the_same_numbers(tmp_path):
    one = trained(tmp_path / "one", "data.batch_size=8", processes=1)
    for placement in ("replicated", "parallel"):
        two = trained(tmp_path / placement, "data.batch_size=4", f"placement={placement}", processes=2)
        for peer, tensors in one.items():
            for name, tensor in tensors.items():
                torch.testing.assert_close(two[peer][name], tensor, rtol=1e-10, atol=1e-10, msg=f"{placement} {peer}.{name}")
    data = DataSpec(4, (), ModelInput((8, 8), (0.0,), (1.0,), channels=1))
    start = create_peer_model(load_recipe(tmp_path / "one" / "recipe.yaml"), "a", data).model
    assert torch.equal(one["a"]["spare.weight"], start.spare.weight), "neither gradient nor weight decay moves it"


def test_a_parameter_that_is_used_now_and_then_is_one_line_on_several_processes(tmp_path):
    recipe = tiny_document(peers={"a": {"model": "odd_models:Dropping"}}, objectives=[{"loss": "cross_entropy"}])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run("mutual.train", tmp_path / "recipe.yaml", f"output={tmp_path}", "train.epochs=1")
    done = run("mutual.train", tmp_path / "recipe.yaml", f"output={tmp_path}", "name=two", "train.epochs=1", processes=2, expect=1)
    assert "uses 2 parameters (body.weight, body.bias) in some forwards only" in done.stderr
    assert "Traceback" not in done.stderr
