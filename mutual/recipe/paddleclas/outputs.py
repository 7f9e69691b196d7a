"""convert_metrics, convert_infer: what theirs measures, and how its predictions are made and shown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from mutual.recipe.errors import RecipeError
from mutual.recipe.paddleclas.images import convert_preprocess
from mutual.recipe.paddleclas.section import Notes, Section

_TOPK = ("TopkAcc", "DistillationTopkAcc", "GoogLeNetTopkAcc")
_MANY_LABELS = ("MultiLabelMAP",)
_STUDENT = "Student"
_PATH = "PATH"


def convert_metrics(document: dict[str, Any], root: Section) -> None:
    """Notes what differs in how the best weights are chosen: there by the first metric, where a training evaluates."""
    metric = root.section("Metric")
    metric.pass_over("Train")  # the training's accuracy is measured
    chooses = _at(root.content, "Global", "eval_during_train") is not False
    trained = _trained(document)
    for name, section in metric.named_sections("Eval"):
        if name in _TOPK:
            _convert_topk(section, trained)
        elif name in _MANY_LABELS:
            section.pass_over(*section)
        else:
            measured = "map and nll" if document["data"].get("multi_label") else "top1, top5 and nll"
            section.pass_over(*section)
            if chooses:
                section.warn(
                    f"is not measured, by which the best weights are chosen there; {measured} are, and train.best_metric is one of them"
                )
            else:
                section.remark(f"is not measured; {measured} are")
        chooses = False


def _trained(document: Mapping[str, Any]) -> list[str]:
    return [name for name, peer in document["peers"].items() if not peer.get("frozen")]


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
    options = _convert_post_process(document, infer)
    if "--peer" not in options and _STUDENT in document["peers"] and len(_trained(document)) > 1:
        options = f" --peer {_STUDENT}{options}"  # theirs predicts by it, without being told
    run = quote(f"{document['output']}/{document['name']}")
    infer.remark(f"python -m mutual.predict {run} {images if images == _PATH else quote(images)}{options} predicts")


def _compare_transforms(infer: Section, root: Section) -> None:
    """Names transforms that do something else than those of Eval, by which images are predicted, too."""
    given = infer.take("transforms")
    if given is None:
        return
    why = "images are prepared as those of Eval are"
    wanted, evaluated = _prepared(given), _prepared(_at(root.content, "DataLoader", "Eval", "dataset", "transform_ops"))
    if wanted == evaluated and wanted is not None:
        return
    if wanted is not None and evaluated is not None and _without_interpolation(wanted) == _without_interpolation(evaluated):
        infer.remark(f"{why}, which are interpolated in another way", "transforms")
    else:
        infer.leave_out("transforms", why, value=given)


def _prepared(transforms: Any) -> tuple[dict[str, Any], list[str]] | None:
    """Returns what images become by a list of transforms, and what of it has no counterpart; None for a list that is wrong."""
    notes = Notes()
    section = Section({"transforms": transforms}, "", notes)
    try:
        found = convert_preprocess(section)
    except RecipeError:
        return None
    section.name_untaken()
    return found, notes.left_out


def _convert_post_process(document: dict[str, Any], infer: Section) -> str:
    """Returns the options of the command."""
    content = infer.content.get("PostProcess")
    name = content.get("name") if isinstance(content, Mapping) else None
    kind = content.get("func", "Topk") if isinstance(content, Mapping) and name == "DistillationPostProcess" else name
    if kind != "Topk":
        if content:
            infer.take("PostProcess")
            infer.remark("is not applied: the command prints probabilities, and the classes of the largest", "PostProcess")
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
    if data.get("dataset") == "image_list" and os.path.isfile(names):  # noqa: PTH113 - False of what no file can be called
        data["class_names"] = names
    else:
        process.remark(f"{names} is not read; where it is there, data.class_names of an image_list takes it", "class_id_map_file")


def _at(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _without_interpolation(prepared: tuple[dict[str, Any], list[str]]) -> tuple[dict[str, Any], list[str]]:
    data, left_out = prepared
    steps = [{key: value for key, value in step.items() if key != "interpolation"} for step in data.get("preprocess", [])]
    return {**data, "preprocess": steps}, left_out
