"""Habit 12 for every loss and every switch: an update makes a GPU's host wait for nothing.

On a CPU what would make it wait is told by its operators. `F.one_hot` looks at its values on CPUs alone. Optimizers are SGD, whose other
forms on a CPU read their step counter there, or fused.
"""

import linecache

import pytest
from PIL import Image
from support import build, tiny_document

from mutual.engine.costs.op_counts import count_ops
from mutual.objectives import LOSSES

CE = {"loss": "cross_entropy"}
TEACHER = {"model": "support:tiny", "frozen": True, "args": {"norm": True, "width": 5}}
AT = {
    **dict.fromkeys(("at", "cosine", "crd", "hint", "l1", "l2", "mcl", "mgd", "pefd", "rkd_angle", "rkd_distance"), "body"),
    "similarity": "body",
    "smooth_l1": "body",
    "okddip": "body",
    "afd": ["stem", "body"],
    "ofd": ["norm"],
}
MENDED_ELSEWHERE = pytest.mark.xfail(strict=True, raises=AssertionError, reason="selects elements by a mask")
LOSS_CASES = [pytest.param(name, marks=[MENDED_ELSEWHERE] if name == "dkd" else []) for name in LOSSES]
FP16 = {"train": {"precision": "fp16"}, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "args": {"fused": True}}}
CASES = {
    "fp16": FP16,
    "fp16 with Adam": {**FP16, "optimizer": {"name": "adam", "lr": 0.1, "args": {"fused": True}}},
    "fp16, clipped, averaged": {**FP16, "train": {"precision": "fp16", "clip_grad_norm": 0.1, "ema": 0.9, "ema_warmup": True}},
    "bf16": {"train": {"precision": "bf16"}},
    "pause": {"train": {"pause": {"peer": "a", "versus": "b"}}, "optimizer": FP16["optimizer"]},
    "mixed images": {"data": {"mixup": 0.4, "cutmix": 1.0}},
    "a view for each peer": {"data": {"views": "per_peer", "augment": [{"name": "random_crop", "padding": 2}]}},
    "averages that teach": {"train": {"ema": 0.9}, "objectives": [CE, {"loss": "ssld", "sources": "peers_ema"}]},
    "accumulation": {"train": {"accumulate": 2}},
    "one peer after another": {"train": {"update": "alternating", "accumulate": 2}},
    "a schedule of weights": {"objectives": [CE, {"loss": "dml", "schedule": {"name": "linear"}, "gate": "linear"}]},
    "clipped": {"train": {"clip_grad_norm": 0.1}},
    "a teacher": {"peers": {"a": {"model": "support:tiny"}, "t": TEACHER}, "objectives": [CE, {"loss": "kd", "sources": ["t"]}]},
    "a teacher of other classes": {
        "peers": {"a": {"model": "support:tiny"}, "t": {**TEACHER, "classes": [3, 0, 1, 2]}},
        "objectives": [CE, {"loss": "kd", "sources": ["t"]}],
    },
    "another size": {"peers": {"a": {"model": "support:tiny"}, "b": {"model": "support:tiny", "input": {"size": [6, 6]}}}},
    **{
        f"the ensemble {weighting}": {"objectives": [CE, {"loss": "kd", "sources": "ensemble", "ensemble": {"weighting": weighting}}]}
        for weighting in ("mean", "naive", "linear", "min_logit")
    },
}
MASKED = {
    "the gate of what is correct": {"objectives": [CE, {"loss": "dml", "gate": "correct"}]},
    "a teacher of some classes": {
        "peers": {"a": {"model": "support:tiny"}, "t": {**TEACHER, "classes": [0, None, 2, None]}},
        "objectives": [CE, {"loss": "wsl", "sources": ["t"]}],
    },
}


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


def tiny_peers(**sections):
    document = tiny_document()
    peers = {name: {"model": "support:tiny", "args": {"norm": True}} for name in "ab"}
    merged = {key: {**document[key], **sections[key]} for key in ("data", "train") if key in sections}
    return {**document, "peers": peers, **sections, **merged}


@pytest.mark.parametrize("name", LOSS_CASES)
def test_no_loss_makes_the_host_wait(name):
    objective = {"loss": name, **({"at": AT[name]} if name in AT else {})}
    document = tiny_peers(objectives=[objective] if name in ("cross_entropy", "bce") else [CE, objective])
    if name == "bce":
        document["data"] |= {"multi_label": True}
    assert host_syncs(document) == []


@pytest.mark.parametrize("case", CASES)
def test_no_switch_makes_the_host_wait(case):
    assert host_syncs(tiny_peers(**CASES[case])) == []


@MENDED_ELSEWHERE
@pytest.mark.filterwarnings("ignore:peers.t")
@pytest.mark.parametrize("case", MASKED)
def test_no_selection_of_images_makes_the_host_wait(case):
    assert host_syncs(tiny_peers(**MASKED[case])) == []


@MENDED_ELSEWHERE
def test_images_without_a_label_do_not_make_the_host_wait(tmp_path):
    for index in range(24):
        Image.new("L", (8, 8), 10 * index).save(tmp_path / f"{index}.png")
    (tmp_path / "train.txt").write_text("\n".join(f"{index}.png {index % 4}" for index in range(12)))
    (tmp_path / "more.txt").write_text("\n".join(f"{index}.png" for index in range(12, 24)))
    lists = {"train_list": str(tmp_path / "train.txt"), "val_list": str(tmp_path / "train.txt"), "unlabelled": str(tmp_path / "more.txt")}
    data = {"dataset": "image_list", "root": str(tmp_path), **lists, "image_size": 8, "channels": 1, "batch_size": 8}
    document = tiny_peers(objectives=[CE, {"loss": "ssld"}])
    assert host_syncs({**document, "data": data}) == []
