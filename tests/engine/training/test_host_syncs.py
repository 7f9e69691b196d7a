"""Habit 12 for every loss and every switch: an update makes a GPU's host wait for nothing.

On a CPU what would make it wait is told by its operators. `F.one_hot` looks at its values on CPUs alone. Optimizers are SGD, whose other
forms on a CPU read their step counter there, or fused.
"""

import linecache

import pytest
from PIL import Image
from support import build
from update_cases import CASES, CE, MASKED, loss_document, tiny_peers

from mutual.engine.costs.op_counts import count_ops
from mutual.objectives import LOSSES


def host_syncs(document):
    """What the host waits for in the second update; the first one makes what is made once."""
    recipe, data, group, train_step = build(document)
    group.train()
    windows = data.train_windows(0, start=0, world_size=1, shard=group.shard, accumulate=recipe.train.accumulate)
    train_step(next(windows), 0, measure=False)
    window = next(windows)
    with count_ops() as counts:
        train_step(window, 1, measure=True)
    assert counts.kernels > 30
    return [f"{sync}: {line}" for sync in counts.host_syncs if "one_hot(" not in (line := source_line(sync.line))]


def source_line(place):
    file, _, line = place.rpartition(":")
    return linecache.getline(file, int(line)).strip()


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_makes_the_host_wait(name):
    assert host_syncs(loss_document(name)) == []


@pytest.mark.parametrize("case", CASES)
def test_no_switch_makes_the_host_wait(case):
    assert host_syncs(tiny_peers(**CASES[case])) == []


@pytest.mark.filterwarnings("ignore:peers.t")
@pytest.mark.parametrize("case", MASKED)
def test_no_selection_of_images_makes_the_host_wait(case):
    assert host_syncs(tiny_peers(**MASKED[case])) == []


def test_images_without_a_label_do_not_make_the_host_wait(tmp_path):
    for index in range(24):
        Image.new("L", (8, 8), 10 * index).save(tmp_path / f"{index}.png")
    (tmp_path / "train.txt").write_text("\n".join(f"{index}.png {index % 4}" for index in range(12)))
    (tmp_path / "more.txt").write_text("\n".join(f"{index}.png" for index in range(12, 24)))
    lists = {"train_list": str(tmp_path / "train.txt"), "val_list": str(tmp_path / "train.txt"), "unlabelled": str(tmp_path / "more.txt")}
    data = {"dataset": "image_list", "root": str(tmp_path), **lists, "image_size": 8, "channels": 1, "batch_size": 8}
    document = tiny_peers(objectives=[CE, {"loss": "ssld"}])
    assert host_syncs({**document, "data": data}) == []
