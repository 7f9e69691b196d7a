"""Ten seeded steps of each kind of recipe, pinned: a refactor that changes a number shows here.

`python tests/engine/training/test_golden_curves.py` writes the curves anew; a change of them belongs into CHANGELOG.md.
"""

import json
from pathlib import Path

import pytest
from support import build, tiny_document

CURVES = Path(__file__).parents[2] / "golden" / "curves.json"
CE = {"loss": "cross_entropy"}
TEACHER = {"student": {"model": "support:double"}, "teacher": {"model": "support:double", "args": {"width": 6}, "frozen": True}}
KINDS = {
    "dml": {"objectives": [CE, {"loss": "dml"}]},
    "dml_alternating": {"objectives": [CE, {"loss": "dml", "form": "kl"}], "train": {"update": "alternating"}},
    "udml": {"objectives": [CE, {"loss": "dml", "temperature": 4}, {"loss": "l2", "at": "body"}]},
    "four_peers": {"peers": {name: {"model": "support:double"} for name in "abcd"}, "objectives": [CE, {"loss": "dml"}]},
    "kd": {"peers": TEACHER, "objectives": [CE, {"loss": "kd", "temperature": 4}]},
    "soft_label": {"peers": TEACHER, "objectives": [{"loss": "soft_label"}, {"loss": "cosine", "weight": 0.1}]},
    "accumulated_mixed": {
        "objectives": [CE, {"loss": "dml"}],
        "data": {**tiny_document()["data"], "batch_size": 3, "mixup": 0.2, "cutmix": 1.0, "augment": ["horizontal_flip"]},
        "train": {"accumulate": 2, "clip_grad_norm": 1.0},
    },
}


def curve(kind):
    """By learner, the weighted loss of each of ten updates."""
    recipe, data, group, train_step = build(tiny_document(**KINDS[kind]))
    losses, epoch = {peer.name: [] for peer in group.trainable}, 0
    group.train()
    while True:
        for window in data.train_windows(epoch, world_size=1, shard=(0, 1), accumulate=recipe.train.accumulate):
            train_step(window, len(losses[group.trainable[0].name]), measure=False)
            for name, loss in train_step._meter.flush().loss.items():
                losses[name].append(loss)
            if len(losses[group.trainable[0].name]) == 10:
                return losses
        epoch += 1


@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_give_the_pinned_losses(kind):
    expected = json.loads(CURVES.read_text())[kind]
    found = curve(kind)
    assert found.keys() == expected.keys()
    for name, losses in found.items():
        assert losses == pytest.approx(expected[name], rel=1e-6), name


if __name__ == "__main__":
    CURVES.write_text(json.dumps({kind: curve(kind) for kind in KINDS}, indent=1) + "\n")
