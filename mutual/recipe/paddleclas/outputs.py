"""convert_metrics, convert_infer: what theirs measures, and how its predictions are made and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mutual.recipe.paddleclas.section import Section

_TOPK = ("TopkAcc", "DistillationTopkAcc", "GoogLeNetTopkAcc")
_MANY_LABELS = ("MultiLabelMAP",)
_WITHOUT_NUMBERS = ("DecodeImage", "ToCHWImage")
"""Transforms that every list of theirs has, or could have, and that say nothing of the image that comes out."""


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
            measured = (
                "mean average precision (map), top-1 of the labels and NLL" if document["data"].get("multi_label") else "top1, top5 and NLL"
            )
            section.pass_over(*section)
            metric.notes.left_out.append(f"{section.path}: is not measured; {measured} are, and train.best_metric chooses among them")


def _convert_topk(section: Section, trained: Sequence[str]) -> None:
    key = section.text("model_key")
    if key is not None and len(trained) > 1:
        section.remark(
            f"the best weights of each trained peer are kept, and the best peer is the best of {', '.join(trained)}", "model_key"
        )
    others = [k for k in section.take("topk", [1, 5]) if k not in (1, 5)]
    if others:
        section.remark("top1 and top5 are measured", "topk")
    section.pass_over(*section)


def convert_infer(document: dict[str, Any], root: Section) -> None:
    """Notes the command that predicts, and takes the names of the classes."""
    if "Infer" not in root:
        return
    infer = root.section("Infer")
    infer.pass_over("batch_size")
    images = infer.text("infer_imgs", "PATH")
    _compare_transforms(infer, root)
    topk = _convert_post_process(document, infer)
    infer.remark(f"python -m mutual.predict {document['output']}/{document['name']} {images}{topk} predicts")


def _compare_transforms(infer: Section, root: Section) -> None:
    given = infer.take("transforms")
    evaluated = _at(root.content, "DataLoader", "Eval", "dataset", "transform_ops")
    if given is not None and _said(given) != _said(evaluated):
        infer.leave_out("transforms", "images are prepared as those of Eval are", value=given)


def _convert_post_process(document: dict[str, Any], infer: Section) -> str:
    """Returns the option of the command."""
    process = infer.section("PostProcess")
    kind = process.text("name")
    if kind is None:
        return ""
    if kind != "Topk":
        process.leave_out("name", "the command prints probabilities, and the classes of the largest", value=kind)
        return ""
    if (names := process.text("class_id_map_file")) is not None:
        document["data"].setdefault("class_names", names)
    process.pass_over("delimiter")
    return f" --topk {process.take('topk', 1)}"


def _at(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _said(transforms: Any) -> Any:
    """Returns transforms in a form in which two that do the same are equal."""
    if not isinstance(transforms, list):
        return transforms
    entries = [{entry: None} if isinstance(entry, str) else entry for entry in transforms]
    kept = [entry for entry in entries if not (isinstance(entry, Mapping) and set(entry) <= set(_WITHOUT_NUMBERS))]
    return [_plain(entry) for entry in kept]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items() if each not in (None, "") and key not in ("channel_num", "order")}
    return str(value).replace(" ", "") if isinstance(value, int | float | str) else value
