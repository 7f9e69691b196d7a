"""PaddleClas' DML step: its DistillationModel, the losses of both peers, one backward, one step.

Its wheel has the models and not the losses: with a source checkout on PYTHONPATH these are its own, otherwise they are written here in
Paddle by the equation of its DMLLoss.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from peers.jobs import Job

NAME = "PaddleClas"
METHODS = {"dml"}
_MODELS = {"pplcnet_x1_0": "PPLCNet_x1_0", "torchvision/resnet18": "ResNet18"}


def versions() -> dict[str, str]:
    """Returns what runs."""
    if importlib.util.find_spec("ppcls") is None:  # a checkout has it, the wheel inside its package
        wheel = importlib.util.find_spec("paddleclas")
        if wheel is None or wheel.submodule_search_locations is None:
            raise ImportError("No module named 'paddleclas'")
        sys.path.append(wheel.submodule_search_locations[0])
    import paddle
    import ppcls.arch  # noqa: F401  (whether it can be)

    package = "a checkout" if importlib.util.find_spec("paddleclas") is None else version("paddleclas")
    losses = "its own losses" if _has_losses() else "losses written in Paddle"
    return {"PaddleClas": f"{package} ({losses})", "paddle": paddle.__version__}


def train(job: Job, loader: Callable[[Any], Any]) -> None:
    """Trains the job's peers."""
    import paddle
    from ppcls.arch import build_model
    from ppcls.utils import logger

    logger.init_logger()  # some of its models write to it
    paddle.set_device("cpu")
    names = [f"peer{index}" for index in range(len(job.learners))]
    models = [{name: {"name": _MODELS[model], "class_num": job.num_classes}} for name, model in zip(names, job.learners, strict=True)]
    model = build_model({"Arch": {"name": "DistillationModel", "models": models}})
    model.train()
    optimizer = paddle.optimizer.Momentum(0.01, momentum=0.9, weight_decay=4e-5, parameters=model.parameters())
    compute_loss = _losses(names)
    batch = paddle.randn([job.batch_size, 3, job.image_size, job.image_size]), paddle.randint(0, job.num_classes, [job.batch_size, 1])
    for images, labels in loader(batch):
        compute_loss(model(images), labels).backward()
        optimizer.step()
        optimizer.clear_grad()


def _has_losses() -> bool:
    return importlib.util.find_spec("ppcls.loss") is not None


def _losses(names: list[str]) -> Callable[[Any, Any], Any]:
    """Returns the cross-entropy of each peer plus half the Jeffreys divergence of each pair."""
    import paddle
    import paddle.nn.functional as F

    pairs = [[first, second] for index, first in enumerate(names) for second in names[index + 1 :]]
    if _has_losses():
        from ppcls.loss import build_loss

        truth, mutual = {"weight": 1.0, "model_names": names}, {"weight": 1.0, "model_name_pairs": pairs}
        combined = build_loss([{"DistillationGTCELoss": truth}, {"DistillationDMLLoss": mutual}])
        return lambda outputs, labels: combined(outputs, labels)["loss"]

    def compute(outputs: Any, labels: Any) -> Any:
        total = sum(F.cross_entropy(outputs[name], labels) for name in names)
        for first, second in pairs:
            p, q = F.softmax(outputs[first], axis=-1), F.softmax(outputs[second], axis=-1)
            there, back = F.kl_div(paddle.log(p), q, reduction="batchmean"), F.kl_div(paddle.log(q), p, reduction="batchmean")
            total = total + (there + back) / 2
        return total

    return compute
