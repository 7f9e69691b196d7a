"""card_page: a model card as Markdown with YAML front matter, as model hubs read it.

Names and texts from recipes and data are escaped: none of them can end a table, a block or the front matter, or be HTML.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from mutual.engine.exporting import card_sections as sections
from mutual.engine.exporting.card_facts import CardFacts, metrics_of
from mutual.engine.exporting.card_sections import METRICS
from mutual.engine.exporting.markdown import section
from mutual.recipe import SPLIT_NAMES, DistillationObjective, printable


def card_page(facts: CardFacts, *, of_timm_folder: bool = False) -> bytes:
    """Returns the content of a model card's file; `of_timm_folder`: of the one in the folder that timm loads."""
    parts = [sections.introduction(facts), section("Model", sections.model_section(facts))]
    if of_timm_folder:
        parts.append(section("Use", sections.timm_section(facts, ".")))
    else:
        parts += [section("Files", sections.files_section(facts)), section("Use", sections.use_section(facts))]
    parts += [section("Classes", sections.classes_section(facts)), section("Scores", sections.scores_section(facts))]
    if facts.comparison is not None:
        parts.append(section("Compared", sections.comparison_section(*facts.comparison)))
    if facts.temperature is not None:
        parts.append(section("Temperature", sections.temperature_section(facts)))
    if facts.int8 is not None and not of_timm_folder:
        parts.append(section("int8", sections.int8_section(facts.int8)))
    if facts.benchmark is not None and not of_timm_folder:
        parts.append(section("Latency", sections.latency_section(facts.benchmark)))
    parts.append(section("Training", sections.training_section(facts)))
    parts += [section("Licence", sections.license_section(facts)), section("Limits", sections.limits_section(facts))]
    front = yaml.safe_dump(_front_matter(facts, of_timm_folder=of_timm_folder), sort_keys=False, allow_unicode=True, width=120)
    text = f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"
    return text.encode("utf-8", "backslashreplace")  # a name may hold bytes that are no UTF-8


def title_of(page: bytes) -> str | None:
    """Returns the title of a model card; None where it has none."""
    found = re.search(rb"^# (.*)$", page, re.MULTILINE)
    return None if found is None else found[1].decode("utf-8", "replace").replace("\\", "")


def _front_matter(facts: CardFacts, *, of_timm_folder: bool) -> dict[str, Any]:
    recipe = facts.recipe
    tags = ["image-classification", "mutual"]
    if any(isinstance(objective, DistillationObjective) for objective in recipe.objectives):
        tags += ["mutual-learning"] if len(recipe.trainable) > 1 else []
        tags += ["knowledge-distillation"] if len(recipe.trainable) < len(recipe.peers) else []
    tags += ["timm"] if facts.timm else []
    tags += sorted({each.format.partition(" ")[0] for each in facts.files if each.format.startswith("onnx")})
    dataset = printable(recipe.data.dataset)
    hub_name = dataset.removeprefix("hfds/")
    is_on_hub = dataset.startswith("hfds/") and re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", hub_name) is not None
    front = {
        **({} if facts.license is None else {"license": facts.license}),
        "library_name": "timm" if of_timm_folder else "mutual",
        "pipeline_tag": "image-classification",
        "tags": tags,
        **({"datasets": [hub_name]} if is_on_hub else {}),
    }
    results = _results(facts, hub_name if dataset.startswith("hfds/") else printable(recipe.data.title))
    if not results:
        return front
    name = printable(f"{facts.run}/{facts.stem}")
    types = sorted({metric["type"] for metric in results[0]["metrics"]})
    return {**front, "metrics": types, "model-index": [{"name": name, "results": results}]}


def _results(facts: CardFacts, dataset: str) -> list[dict[str, Any]]:
    """Returns the scores as model hubs read them."""
    scores = facts.scores
    metrics = metrics_of(scores.row) if scores is not None else {}
    if scores is None or not metrics:
        return []
    suffix = "" if scores.split == "test" else " (validation; the best epoch was chosen on it)"
    listed = [{"type": METRICS[key][0], "value": round(value, 6), "name": f"{METRICS[key][1]}{suffix}"} for key, value in metrics.items()]
    named = {"type": re.sub(r"[^\w./-]", "_", dataset), "name": dataset, "split": SPLIT_NAMES[scores.split]}
    return [{"task": {"type": "image-classification"}, "dataset": named, "metrics": listed}]
