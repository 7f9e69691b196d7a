"""What the peers see, for pictures: the pixels of the epoch's first images, drawn without changing the run."""

import numpy as np
import pytest
import torch
from PIL import Image
from support import WORLD, digests, tiny_document

import mutual
from mutual.data import mixed
from mutual.engine.runtime import Environment
from mutual.engine.training import build_training
from mutual.engine.training.peer_views import peer_views
from mutual.engine.training.trainer import Trainer
from mutual.recipe import parse_recipe

CROP = [{"name": "random_crop", "padding": 2}, {"name": "horizontal_flip"}]
PEERS = {
    "a": {"model": "support:tiny", "input": {"size": [16, 16]}},
    "b": {"model": "support:tiny", "input": {"channels": 3}},
    "t": {"model": "support:tiny", "frozen": True},
}


def training_of(**changes):
    document = tiny_document(peers=PEERS)
    document["data"] = {**document["data"], "augment": CROP, **changes}
    return build_training(parse_recipe(document), Environment(None, WORLD, "no"))


@pytest.mark.parametrize(
    "data",
    [{}, {"views": "per_peer"}, {"mixup": 0.5, "cutmix": 0.5}, {"views": "per_peer", "mixup": 0.5}, {"crops_per_image": 2}],
    ids=str,
)
def test_they_are_what_the_epochs_first_batch_becomes(data):
    training = training_of(**data)
    for epoch in (0, 1):
        (batch, *_) = next(training.windows(epoch)).batches
        pixels, _ = mixed(batch, num_classes=4)
        views = peer_views(training, 5, epoch=epoch)
        assert list(views) == ["a", "b", "t"]
        for index, (name, view) in enumerate(views.items()):
            model_input = training.group.inputs[name]
            expected = model_input.resize(pixels[index] if pixels.dim() == 5 else pixels)[:5]
            assert view.shape == (5, *model_input.shape)
            assert view.dtype == torch.uint8
            assert torch.equal(view, expected.round().to(torch.uint8))
    training.close()


def test_one_image_is_one_and_an_epoch_has_no_more_than_it_has():
    training = training_of()
    assert [len(peer_views(training, number, epoch=0)["a"]) for number in (1, 1000)] == [1, 40]


def test_an_image_that_cannot_be_read_leaves_nothing_to_show_and_nothing_behind(tmp_path):
    for index in range(8):
        Image.fromarray(np.full((8, 8), 30 * index, np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "7.png").write_bytes(b"no image")
    (tmp_path / "list.txt").write_text("".join(f"{index}.png {index % 2}\n" for index in range(8)))
    (tmp_path / "val.txt").write_text("".join(f"{index}.png {index % 2}\n" for index in range(7)))
    lists = {"train_list": str(tmp_path / "list.txt"), "val_list": str(tmp_path / "val.txt")}
    source = {"dataset": "image_list", "root": str(tmp_path), **lists, "image_size": 8, "channels": 1, "batch_size": 4, "workers": 0}
    for on_bad_image, shown in (("error", 0), ("skip", 8)):
        document = tiny_document(data={**source, "on_bad_image": on_bad_image})
        training = build_training(parse_recipe(document), Environment(None, WORLD, "no"))
        views = peer_views(training, 8, epoch=0)
        assert [len(view) for view in views.values()] == [shown] * (2 if shown else 0)
        assert not training.data.take_bad_images()["train"], "the epoch reports it, when it meets it"


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_that_is_looked_at_is_the_same_bit_for_bit(tmp_path, monkeypatch, workers):
    """In the midst of an epoch, too; with transforms and a dropout that draw."""
    document = tiny_document(peers={name: {"model": "support:tiny", "args": {"dropout": 0.3}} for name in "ab"})
    document["data"] |= {"augment": CROP, "mixup": 0.5, "workers": workers}
    plain = mutual.fit(parse_recipe({**document, "output": str(tmp_path / "plain")}))
    call_back, seen = Trainer._call_back, []

    def look(self, event):
        seen.append(peer_views(self.training, 4, epoch=min(self.progress.epoch, 1)))
        call_back(self, event)

    monkeypatch.setattr(Trainer, "_call_back", look)
    looked_at = mutual.fit(parse_recipe({**document, "output": str(tmp_path / "looked_at")}))
    assert len(seen) == 14
    assert not torch.equal(seen[1]["a"], seen[-1]["a"])
    assert digests(looked_at.folder) == digests(plain.folder)
