"""The examples of loops of one's own, on made-up images: they learn, also under Lightning where that is installed."""

import sys
from importlib import import_module
from types import ModuleType

import pytest
import torch
from support import ROOT
from test_readme import blocks
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

import mutual


@pytest.fixture
def garments(monkeypatch):
    """Stands for the example's data: squares whose brightness and stripes are their class."""
    made_up = ModuleType("garments")
    draw = torch.Generator().manual_seed(0)
    made_up.KINDS = torch.randint(10, (2000,), generator=draw)
    stripes = (torch.arange(28) % (2 + made_up.KINDS[:, None] // 2) == 0)[:, None, :].expand(-1, 28, -1)
    made_up.GARMENTS = (stripes * 0.5 + 0.4 * (made_up.KINDS % 2)[:, None, None]) + torch.rand(2000, 28, 28, generator=draw) * 0.1

    def collages(seed):
        picks = torch.randint(2000, (4, 2), generator=torch.Generator().manual_seed(seed))
        images = torch.zeros(4, 3, 96, 96)
        images[:, :, 2:30, 34:62], images[:, :, 60:88, 5:33] = (made_up.GARMENTS[each][:, None] for each in picks.T)
        boxes = torch.tensor([[34.0, 2.0, 62.0, 30.0], [5.0, 60.0, 33.0, 88.0]])
        return list(images), [{"boxes": boxes, "labels": made_up.KINDS[each] + 1} for each in picks]

    made_up.collages = collages
    monkeypatch.setitem(sys.modules, "garments", made_up)


def example(marker):
    found = [block.code for block in blocks((ROOT / "mutual/objectives/README.md").read_text()) if marker in block.code]
    (code,) = found
    return code


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("garments", "one_thread")
def test_the_example_of_a_detector_learns(capsys):
    """It asserts that the features' distance and the detector's own losses fall, on images that it has not seen; here in half as long."""
    exec(example("FasterRCNN").replace("steps=20", "steps=10"), {})
    assert capsys.readouterr().out.startswith("hint: ")


@pytest.mark.slow
@pytest.mark.usefixtures("garments", "one_thread")
def test_the_example_of_a_lightning_module_learns_without_lightning(capsys):
    exec(example("training_step"), {})
    assert capsys.readouterr().out.startswith("teacher ")


@pytest.mark.slow
@pytest.mark.usefixtures("garments", "one_thread")
def test_the_example_of_a_lightning_module_learns_under_lightning(capsys):
    name = next((name for name in ("lightning", "pytorch_lightning") if _is_there(name)), None)
    if name is None:
        pytest.skip("lightning is not installed")
    lightning = import_module(name)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    code = example("training_step").replace("class Distilled(nn.Module)", "class Distilled(LightningModule)")
    before, _, after = code.partition("class Trainer:")
    _, _, after = after.partition("def top1")
    names = {
        "LightningModule": lightning.LightningModule,
        "Trainer": lambda max_epochs: lightning.Trainer(max_epochs=max_epochs, **options),
    }
    exec(f"{before}def top1{after}", names)
    assert "teacher " in capsys.readouterr().out


def _is_there(name):
    try:
        import_module(name)
    except ImportError:
        return False
    return True


def test_a_detector_of_torchvisions_is_tapped_in_its_backbone_and_its_pyramid():
    torch.manual_seed(0)
    sizes = {"min_size": 64, "max_size": 64, "rpn_pre_nms_top_n_test": 20, "rpn_post_nms_top_n_test": 5}
    detector = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3, **sizes).eval()
    taps = mutual.Taps(detector, ["backbone.body.6", "backbone.body", "backbone:pool", "roi_heads.box_head"])
    with torch.no_grad():
        detector([torch.rand(3, 64, 48), torch.rand(3, 48, 64)])
    outputs = taps.take()
    assert list(outputs) == ["backbone.body.6", "backbone.body:0", "backbone.body:1", "backbone:pool", "roi_heads.box_head"]
    learner = torch.zeros(2, 8, 4, 4, requires_grad=True)
    shapes = {"learner_shape": learner.shape[1:], "source_shape": outputs["backbone.body.6"].shape[1:]}
    loss = mutual.build_loss("hint", **shapes)
    loss(learner, outputs["backbone.body.6"]).backward()
    assert learner.grad.any()
