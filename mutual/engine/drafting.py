"""Drafting: a recipe for images that were surveyed, with a size and a batch size that suit them and this machine."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from mutual.data import Survey, build_data
from mutual.engine.costs import profile_peers, release_memory
from mutual.engine.runtime import Environment, LaunchSettings, init_environment, resolve_launch, torch_threads
from mutual.models import check_trusted, is_in_zoo, read_card, weights_path
from mutual.recipe import PRETRAINED, InputError, Recipe, parse_recipe, printable

_SIDES = (32, 48, 64, 96, 128, 160, 192, 224)
_SMALL = 64
"""Up to this size PP-LCNet begins with fewer strides, and images are cropped by a few pixels and not to a part of them."""
_BATCH_SIZES = (8, 16, 32, 64, 128, 256)
_UPDATES, _EPOCHS = 2_000, (20, 60)
_LEAST_UPDATES = 10
"""In an epoch: larger batches make fewer of them."""
_SHARE_OF_MEMORY = {"cuda": 0.7, "cpu": 0.4}
_UNEVEN = 3.0
"""Classes are named as uneven from this ratio of the largest to the smallest on."""


@dataclass(frozen=True)
class Draft:
    """A recipe, and what it was made of.

    Attributes:
        text: of the recipe's file.
        recipe: the same, parsed.
        memory_bytes: what a process needs for it, as measured here; about as much again is the program's own.
        epoch_seconds: of the peers in an epoch, as measured here; loading is not among it.
    """

    text: str
    recipe: Recipe
    memory_bytes: float
    epoch_seconds: float


def draft_recipe(survey: Survey, *, file: Path, student: str | None, teacher: str | None) -> Draft:
    """Returns a recipe for the surveyed images, whose peers have been built and measured here.

    Args:
        survey: what the images are.
        file: where the recipe is to be; its name is the run's.
        student: model of both peers, or of the student beside a teacher; the default is a PP-LCNet.
        teacher: a model that teaches: a run's folder, or a name of torchvision's or timm's zoo, whose weights begin with the zoo's.

    Raises:
        RecipeError: a model does not exist, or does not take the images.
        OSError: the disk or the machine failed.
    """
    side = _side(survey.image_size)
    document = _document(survey, _run_name(file), side, student, teacher)
    recipe = parse_recipe(document)
    environment = init_environment(recipe)
    recipe = resolve_launch(recipe, None, LaunchSettings.of(recipe, environment.comm))
    assert recipe.train.threads is not None, "it is resolved"
    with torch_threads(recipe.train.threads):
        measured = _measure(recipe, environment)
    batch_size = _batch_size(survey.num_images["train"], measured.memory_bytes, environment.comm.device)
    document["data"]["batch_size"] = batch_size
    updates = math.ceil(survey.num_images["train"] / batch_size)
    document["train"]["epochs"] = min(max(math.ceil(_UPDATES / updates), _EPOCHS[0]), _EPOCHS[1])
    return Draft(
        text=_text(document, survey, file, teacher),
        recipe=parse_recipe(document),
        memory_bytes=measured.memory_bytes(batch_size),
        epoch_seconds=updates * measured.update_seconds(batch_size),
    )


@dataclass(frozen=True)
class _Measured:
    """Memory and time of an update, by its number of images."""

    memory_bytes: Callable[[int], float]
    update_seconds: Callable[[int], float]


def _measure(recipe: Recipe, environment: Environment) -> _Measured:
    """Measures each peer by itself; weights of a zoo would be fetched and change nothing here."""
    peers = {name: peer.model_copy(update={"weights": None}) if peer.weights == PRETRAINED else peer for name, peer in recipe.peers.items()}
    recipe = recipe.model_copy(update={"peers": peers})
    data = build_data(recipe.data, seed=recipe.seed)
    data.close()
    profiles = profile_peers(recipe, environment, data.info).values()
    release_memory(environment.comm.device)
    pixels = math.prod(data.info.image_size) * data.info.channels * 4
    return _Measured(
        memory_bytes=lambda size: sum(each.state_bytes + size * (each.saved_bytes + pixels) for each in profiles),
        update_seconds=lambda size: sum(each.seconds(size) + each.step_seconds for each in profiles),
    )


def _run_name(file: Path) -> str:
    """Returns the name of a recipe's file as a run may have it."""
    return re.sub(r"[^\w.-]+", "_", file.stem).strip("_.-") or "mine"


def _side(image_size: tuple[int, int]) -> int:
    """Returns the largest of the usual sides that the shorter side of images has."""
    return max((side for side in _SIDES if side <= min(image_size)), default=_SIDES[0])


def _batch_size(num_images: int, memory_bytes: Callable[[int], float], device: torch.device) -> int:
    """Returns the largest batch size whose memory is there, and of which an epoch has enough; on a CPU at most 64."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    share = _SHARE_OF_MEMORY.get(device.type, 0.4)
    most = _BATCH_SIZES[-1] if device.type == "cuda" else 64
    sizes = [size for size in _BATCH_SIZES if size <= most and memory_bytes(size) <= share * free and size * _LEAST_UPDATES <= num_images]
    return max(sizes, default=_BATCH_SIZES[0])


def _document(survey: Survey, name: str, side: int, student: str | None, teacher: str | None) -> dict[str, Any]:
    model = student or ("pplcnet_x0_5" if side <= _SMALL else "pplcnet_x1_0")
    peer: dict[str, Any] = {"model": model}
    if model.startswith("pplcnet") and side <= _SMALL:
        peer["args"] = {"strides": [2, 1, 2, 2, 2] if side <= 48 else [2, 2, 2, 2, 1]}
    data: dict[str, Any] = {**survey.fields, "image_size": side, "batch_size": 2, "augment": _augmentation(side)}
    if side <= _SMALL:
        data["preprocess"] = [_WHOLE]
    if survey.channels == 1:
        data["channels"] = 1
    if survey.bad:
        data["on_bad_image"] = "skip"
    document: dict[str, Any] = {"name": name, "data": data, "train": {"epochs": 1}, **_optimization(model)}
    if teacher is None:
        document |= {"peers": {"a": peer, "b": peer}, "objectives": [{"loss": "cross_entropy", "label_smoothing": 0.1}, {"loss": "dml"}]}
    else:
        document |= {
            "peers": {"student": peer, "teacher": _teacher(teacher)},
            "objectives": [{"loss": "cross_entropy"}, {"loss": "kd", "learners": ["student"], "sources": ["teacher"], "temperature": 4}],
        }
    return document


def _teacher(name: str) -> dict[str, Any]:
    """Returns the section of a teacher: a frozen one of a run or a weights file, or one of a zoo that is trained in the same run."""
    if name.startswith(("torchvision/", "timm/", "paddleclas/")):
        return {"model": name, "weights": PRETRAINED, "optimizer": {"name": "sgd", "lr": 0.005, "momentum": 0.9, "weight_decay": 1e-4}}
    try:
        path = weights_path(name)
        card = read_card(path)
    except ValueError as error:
        raise InputError(f"--teacher {printable(name)}: {printable(error)}") from error
    if card is None:
        raise InputError(f"--teacher {printable(name)}: {path} does not say of which model it is; write `peers.teacher.model` by hand")
    if not is_in_zoo(card.model):
        raise InputError(f"--teacher {printable(name)}: it is of {card.model}, code of yours; write `peers.teacher.model` by hand")
    try:
        check_trusted(path, card)
    except ValueError as error:
        raise InputError(f"--teacher {printable(name)}: {printable(error)}") from error
    return {"model": card.model, **({"args": card.args} if card.args else {}), "weights": name, "frozen": True}


_WHOLE = {"name": "resize", "mode": "exact"}
"""Takes all of an image. Augmentation of small images begins with it, so that evaluation has to: its default cuts the margins off."""


def _augmentation(side: int) -> list[Any]:
    if side <= _SMALL:
        return [_WHOLE, {"name": "random_crop", "padding": max(2, side // 8)}, "horizontal_flip"]
    return [{"name": "random_resized_crop", "scale": [0.35, 1.0]}, "horizontal_flip"]


def _optimization(model: str) -> dict[str, Any]:
    schedule = {"name": "cosine", "warmup_epochs": 2}
    if model.startswith("timm/"):
        return {"optimizer": {"name": "adamw", "lr": 5e-4, "weight_decay": 0.05}, "schedule": schedule}
    return {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 4e-5, "nesterov": True}, "schedule": schedule}


_NOTES = {
    "train": "the folder itself",
    "val": "this part of the images of each class, drawn by the seed, chooses the best weights",
    "test": "scored once, at the end",
    "image_size": "height and width; larger is slower and often more accurate",
    "batch_size": "measured here; per process",
    "augment": "of the training images; take horizontal_flip out where left and right differ (text, digits)",
    "preprocess": "of the validation and test images: whole, as the training images are",
    "on_bad_image": "some cannot be read: `python -m mutual.data.check` with this recipe finds all of them",
    "channels": "all that were read are grey",
}
"""What stands behind a field of `data`."""


def _text(document: dict[str, Any], survey: Survey, file: Path, teacher: str | None) -> str:
    """Returns the recipe with a comment for each choice."""
    data = document["data"]
    method = "Deep mutual learning of two peers (arXiv:1706.00384)" if teacher is None else "Knowledge distillation (arXiv:1503.02531)"
    sizes = survey.class_sizes.values()
    height, width = survey.image_size
    lines = [
        f"# {method}: {sum(survey.num_images.values()):,} images of {len(sizes):,} classes, mostly about {width} x {height} pixels.",
        "#",
        f"#   accelerate launch -m mutual.train {_comment(file)}",
        *([] if teacher is None else [f"#   python -m mutual.export runs/{document['name']} --peer student"]),
        f"name: {_flow(document['name'])}",
        "data:",
    ]
    for key, value in data.items():
        is_folder = key in ("val", "test") and isinstance(value, str)  # which says itself what it is
        note = "" if is_folder or key not in _NOTES else f"   # {_NOTES[key]}"
        entries = value if isinstance(value, list) else []
        lines.append(f"  {key}:{'' if entries else ' ' + _flow(value)}{note}")
        lines += [f"    - {_flow(entry)}" for entry in entries]
    if survey.imbalance >= _UNEVEN:
        lines.append(f"  # sampler: balanced   # classes have {min(sizes):,} to {max(sizes):,} training images")
    lines.append("peers:")
    lines += [f"  {peer}: {_flow(section)}" for peer, section in document["peers"].items()]
    lines.append("objectives:")
    lines += [f"  - {_flow(objective)}" for objective in document["objectives"]]
    lines += [f"{key}: {_flow(document[key])}" for key in ("optimizer", "schedule", "train")]
    return "\n".join(lines) + "\n"


def _comment(file: Path) -> str:
    """Returns a path on one line, which UTF-8 can encode."""
    return printable(file).encode(errors="backslashreplace").decode()


def _flow(value: Any) -> str:
    """Returns a value as YAML on one line, unless it has lines itself."""
    text = _dumped(value, allow_unicode=True)
    return text if text.isprintable() else _dumped(value, allow_unicode=False)  # PyYAML writes U+0085 so that it is read as a space


def _dumped(value: Any, *, allow_unicode: bool) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=allow_unicode)
    return text.removesuffix("\n...\n").strip()
