"""convert_metrics, convert_infer: what theirs measures, and how its predictions are made and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mutual.recipe.errors import RecipeError
from mutual.recipe.paddleclas.images import convert_preprocess
from mutual.recipe.paddleclas.section import Notes, Section

_TOPK = ("TopkAcc", "DistillationTopkAcc", "GoogLeNetTopkAcc")
_MANY_LABELS = ("MultiLabelMAP",)


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
    if not set(topk if isinstance(topk, list) else [topk]) <= {1, 5}:
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
    evaluated: Any = root.content
    for key in ("DataLoader", "Eval", "dataset", "transform_ops"):
        evaluated = evaluated.get(key) if isinstance(evaluated, Mapping) else None
    if given is not None and _prepared(given) != _prepared(evaluated):
        infer.leave_out("transforms", "images are prepared as those of Eval are", value=given)


def _prepared(transforms: Any) -> Any:
    """Returns what images become by a list of transforms and what of it has no counterpart; a list that is wrong as it is."""
    notes = Notes()
    section = Section({"transforms": transforms}, "", notes)
    try:
        found = convert_preprocess(section)
    except RecipeError:
        return transforms
    section.name_untaken()
    return found, notes.left_out


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
    chosen = "" if peer is None or len(document["peers"]) == 1 else f" --peer {peer}"
    return f"{chosen} --topk {process.take('topk', 1)}"


def _take_names(data: dict[str, Any], process: Section) -> None:
    """Takes the file that names the classes, where there is one and the data can be given names."""
    names = process.text("class_id_map_file")
    if names is None:
        return
    if data.get("dataset") == "image_list" and Path(names).is_file():
        data["class_names"] = names
    else:
        process.remark(f"{names} is not read; where it is there, data.class_names of an image_list takes it", "class_id_map_file")
