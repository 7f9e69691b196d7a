"""KD_Lib's own loops: `DML` and `VanillaKD`, with their default losses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import Any

from peers.frameworks import torch_parts
from peers.jobs import Job

NAME = "KD_Lib"
METHODS = {"dml", "kd"}


def versions() -> dict[str, str]:
    """Returns what runs; its part for text, which needs transformers 4.6, is left out."""
    text: Any = ModuleType("KD_Lib.KD.text")
    text.BERT2LSTM = text.get_essentials = None
    sys.modules[text.__name__] = text
    import KD_Lib.KD  # noqa: F401  (whether it can be)

    return {"KD_Lib": version("KD_Lib"), "torch": version("torch")}


def train(job: Job, loader: Callable[[Any], Any]) -> None:
    """Trains the job by the framework's loop; with its own evaluation on nothing, behind the last update."""
    from KD_Lib.KD import DML, VanillaKD

    models = torch_parts.learners(job)
    optimizers = [torch_parts.optimizer(model) for model in models]
    batches = loader(torch_parts.batch(job))
    if job.method == "dml":
        DML(models, batches, [], optimizers).train_students(epochs=1, plot_losses=False, save_model=False)
        return
    teacher = torch_parts.teacher(job)
    distiller = VanillaKD(teacher, models[0], batches, [], torch_parts.optimizer(teacher), optimizers[0])
    distiller.train_student(epochs=1, plot_losses=False, save_model=False)
