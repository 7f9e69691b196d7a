"""`kd` beside the labels is what timm's train.py calls logit distillation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mutual.objectives import build_loss

timm_task = pytest.importorskip("timm.task", reason="timm has distillation from 1.0.23 on")


class Net(nn.Module):
    """Logits of flattened images, with what timm asks of a model."""

    num_classes, in_chans = 7, 3

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        self.classifier = nn.Linear(3 * 4 * 4, self.num_classes)

    def forward(self, images):
        return self.classifier(images.flatten(1))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_and_the_labels_are_timms_distillation_task(temperature):
    """In value and gradient, for `--task-loss-weight 0.3`, which leaves 0.7 to the teacher."""
    torch.manual_seed(0)
    student, teacher = Net(), Net()
    images, labels = torch.randn(5, 3, 4, 4), torch.randint(0, 7, (5,))
    arguments = {"criterion": nn.CrossEntropyLoss(), "task_loss_weight": 0.3, "temperature": temperature, "verbose": False}
    theirs = timm_task.LogitDistillationTask(student, teacher, **arguments)(images, labels)["loss"]
    logits = student(images)
    kd = build_loss("kd", temperature=temperature)(logits, teacher(images).detach(), labels)
    ours = 0.3 * F.cross_entropy(logits, labels) + 0.7 * kd
    torch.testing.assert_close(ours, theirs)
    weights = list(student.parameters())
    torch.testing.assert_close(torch.autograd.grad(ours, weights), torch.autograd.grad(theirs, weights))
