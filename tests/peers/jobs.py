"""Job: what every framework trains in a comparison, and the loader through which its updates are asked for one by one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, TextIO


@dataclass(frozen=True)
class Job:
    """A comparison: models, images and method are the same in every framework.

    Attributes:
        title: its heading in the table.
        method: dml, or kd from a frozen teacher.
        learners: the models that are trained, by our names.
        teacher: the frozen one.
        image_size: of square RGB images.
        batch_size: images of an update.
        num_classes: of the labels.
    """

    title: str
    method: str
    learners: tuple[str, ...]
    image_size: int
    batch_size: int
    teacher: str | None = None
    num_classes: int = 10

    def to_json(self) -> str:
        """Returns the job as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Returns the job that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "learners": tuple(fields["learners"])})


JOBS = {
    "dml_pplcnet": Job("DML, 2 x PPLCNet_x1_0, 64 px, batch 32", "dml", ("pplcnet_x1_0",) * 2, 64, 32),
    "dml_resnet18": Job("DML, 2 x ResNet18, 32 px, batch 64", "dml", ("torchvision/resnet18",) * 2, 32, 64),
    "kd_light_nn": Job("KD, DeepNN to LightNN, 32 px, batch 128", "kd", ("light_nn",), 32, 128, teacher="deep_nn"),
    "kd_resnet18": Job(
        "KD, ResNet34 to ResNet18, 32 px, batch 64", "kd", ("torchvision/resnet18",), 32, 64, teacher="torchvision/resnet34"
    ),
}


class DrivenLoader:
    """Gives a training loop the same batch again whenever an update is asked for, and answers with what the loop took until the next.

    Frameworks own their loops: this is the one place at which an update begins and ends in all of them.

    Args:
        batch: what the loop is given.
        requests: a line for each update that is wanted; the process ends with them.
        answers: where seconds are written.

    Attributes:
        dataset: something with a length, which some loops ask for.
    """

    def __init__(self, batch: Any, requests: TextIO, answers: TextIO) -> None:
        self.dataset = range(1)
        self._batch = batch
        self._requests = requests
        self._answers = answers

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        for _ in self._requests:
            start, cpu_start = time.perf_counter(), time.process_time()
            yield self._batch
            answer(self._answers, {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start})
        os._exit(0)  # whatever a framework would do behind its last epoch


def answer(answers: TextIO, message: dict[str, Any]) -> None:
    """Writes a message as a line."""
    print(json.dumps(message), file=answers, flush=True)
