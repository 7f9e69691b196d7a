"""convert_metrics, convert_infer: what theirs measures, and how its predictions are made and shown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from mutual.recipe.data import Data
from mutual.recipe.paddleclas.section import Section

_TOPK = ("TopkAcc", "DistillationTopkAcc", "GoogLeNetTopkAcc")
_MANY_LABELS = ("MultiLabelMAP",)
_PATH = "PATH"
_TO_CHANNELS_FIRST = "ToCHWImage"
"""Ends the transforms of Infer; those of Eval end with it by themselves."""


def convert_metrics(document: dict[str, Any], root: Section) -> None:
    """Notes what differs in how the best weights are chosen."""
    metric = root.section("Metric")
    metric.pass_over("Train")  # the training's accuracy is measured
    trained = [name for name, peer in document["peers"].items() if not peer.get("frozen")]
    for name, section in metric.named_sections("Eval"):
        if name in _TOPK:
            _convert_topk(section, trained)
        elif name in _MANY_LABELS:
            section.pass_over(*section)
        else:
            measured = "map and nll" if document["data"].get("multi_label") else "top1, top5 and nll"
            section.pass_over(*section)
            metric.notes.left_out.append(f"{section.path}: is not measured; {measured} are, and train.best_metric chooses among them")


def _convert_topk(section: Section, trained: Sequence[str]) -> None:
    key = section.text("model_key")
    if key is not None and len(trained) > 1:
        section.remark(f"each trained peer keeps its best weights, and the best peer is one of {', '.join(trained)}", "model_key")
    topk = section.take("topk", [1, 5])
    if any(each not in (1, 5) for each in (topk if isinstance(topk, list) else [topk])):
        section.remark("top1 and top5 are measured", "topk")
    section.pass_over(*section)


def convert_infer(document: dict[str, Any], root: Section) -> None:
    """Notes the command that predicts, and takes the names of the classes."""
    if "Infer" not in root:
        return
    infer = root.section("Infer")
    infer.pass_over("batch_size")
    images = infer.text("infer_imgs", _PATH)
    _compare_transforms(infer, root)
    topk = _convert_post_process(document, infer)
    run = quote(f"{document['output']}/{document['name']}")
    infer.remark(f"python -m mutual.predict {run} {images if images == _PATH else quote(images)}{topk} predicts")


def _compare_transforms(infer: Section, root: Section) -> None:
    given = infer.take("transforms")
    evaluated = _at(root.content, "DataLoader", "Eval", "dataset", "transform_ops")
    if given is not None and _said(given) != _said(evaluated):
        infer.leave_out("transforms", "images are prepared as those of Eval are", value=given)


def _convert_post_process(document: dict[str, Any], infer: Section) -> str:
    """Returns the options of the command."""
    content = infer.content.get("PostProcess")
    name = content.get("name") if isinstance(content, Mapping) else None
    kind = content.get("func", "Topk") if isinstance(content, Mapping) and name == "DistillationPostProcess" else name
    if kind != "Topk":
        if content:
            infer.leave_out("PostProcess", "the command prints probabilities, and the classes of the largest")
        return ""
    process = infer.section("PostProcess")
    process.pass_over("name", "func", "key", "delimiter")
    _take_names(document["data"], process)
    peer = process.text("model_name")
    chosen = "" if peer is None or len(document["peers"]) == 1 else f" --peer {quote(peer)}"
    return f"{chosen} --topk {process.number('topk', 1)}"


def _take_names(data: dict[str, Any], process: Section) -> None:
    """Takes the file that names the classes, where there is one and the data can be given names."""
    names = process.text("class_id_map_file")
    if names is None:
        return
    if "class_names" in Data.model_fields and data.get("dataset") == "image_list" and os.path.isfile(names):  # noqa: PTH113 - False of what no file can be called
        data.setdefault("class_names", names)
    else:
        process.remark(f"{names} is not read; where it is there, data.class_names of an image_list takes it", "class_id_map_file")


def _at(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _said(transforms: Any) -> Any:
    """Returns transforms in a form in which two that do the same are equal."""
    if not isinstance(transforms, list):
        return transforms
    entries = [{entry: None} if isinstance(entry, str) else entry for entry in transforms]
    return [_plain(entry) for entry in entries if not (isinstance(entry, Mapping) and _TO_CHANNELS_FIRST in entry)]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items() if each not in (None, "") and key not in ("channel_num", "order")}
    return str(value).replace(" ", "") if isinstance(value, int | float | str) else value
