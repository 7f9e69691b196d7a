"""analyse_run: all that a report of a run shows, computed from its folder and its data in one process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mutual.engine.evaluation import RunInference, check_trusted_data
from mutual.engine.inputs import check_data_present, check_split, given_datasets
from mutual.engine.report.edges_of import edges_of, tapped_paths, unread_losses
from mutual.engine.report.features import FeatureModel, compare_features
from mutual.engine.report.findings import Findings
from mutual.engine.report.images import find_disagreements, find_mistakes
from mutual.engine.report.loading import load_peers
from mutual.engine.report.members import find_headless, find_members, forward_flops
from mutual.engine.report.pairs import find_pairs
from mutual.engine.report.parent import parent_of, recipe_changes
from mutual.engine.report.predictions import predict_split
from mutual.engine.report.recommendation import Choice, reason
from mutual.engine.report.remarks import remarks
from mutual.engine.runtime import restore_switches
from mutual.engine.storage import RunFolder, peer_files
from mutual.recipe import InputError, Recipe, first_line

MAX_IMAGES = 50_000
"""So many images of a split are predicted at most; of more, as many, spread evenly."""


@restore_switches()
def analyse_run(
    folder: RunFolder,
    *,
    split: str = "val",
    factories: Sequence[str] = (),
    datasets: Sequence[str] = (),
    overrides: Sequence[str] = (),
    max_images: int = MAX_IMAGES,
) -> Findings:
    """Returns what a report of a run shows: every trained peer by its best weights, frozen ones where theirs are there.

    Args:
        folder: the run folder; the run may still be training, as long as an epoch has been evaluated.
        split: whose images are predicted, `val`, `test` or `train`; temperatures are fitted on the validation images in any case.
        factories: names of models of the user's own that may be built (`my_models:net`), which runs their code.
        datasets: names of data sets of the user's own that may be made (`my_data:make`), which runs their code.
        overrides: fields of the run's recipe to set otherwise, as `key.path=value`, such as `data.root`.
        max_images: most images that are predicted.

    Raises:
        InputError: this is no run folder, or no epoch has been evaluated; weights or data are missing, or do not fit.

    Example:
        >>> from pathlib import Path
        >>> from mutual.engine import RunFolder, analyse_run
        >>> findings = analyse_run(RunFolder(Path("runs/dml_pplcnet")))          # doctest: +SKIP
        >>> findings.best_peer, findings.reason                                  # doctest: +SKIP
        ('b', 'b has the highest validation top-1 accuracy of the two (98.9 % against 98.3 %); both are of the same size.')
    """
    if max_images < 1:
        raise InputError(f"max_images={max_images} must be at least 1")
    trained, recipe = folder.recipe(), folder.recipe(overrides)
    files = peer_files(folder, None)
    check_split(recipe, trained, split)
    check_data_present(recipe)
    check_trusted_data(recipe.data, given_datasets(datasets, overrides))
    peers = load_peers(folder, recipe, files, factories)
    notes = list(peers.notes)
    skipping = recipe.model_copy(update={"data": recipe.data.model_copy(update={"on_bad_image": "skip"})})
    inference = RunInference.prepare(skipping, peers.classifiers, split=split)
    try:
        return _findings(folder, recipe, inference, peers.headless, split=split, max_images=max_images, notes=notes)
    finally:
        inference.data.close()


def _findings(
    folder: RunFolder,
    recipe: Recipe,
    inference: RunInference,
    headless: Mapping[str, FeatureModel],
    *,
    split: str,
    max_images: int,
    notes: list[str],
) -> Findings:
    best = folder.read_best()
    best_peer, history = folder.best_peer(), _history(folder, notes)
    ensemble = list(recipe.trainable)
    predictions = predict_split(inference, split, ensemble=ensemble, max_images=max_images)
    validation = predictions if split == "val" else predict_split(inference, "val", ensemble=ensemble, max_images=max_images)
    edges, paths = edges_of(recipe), tapped_paths(recipe)
    features = compare_features(inference, split, paths, headless)
    members = find_members(recipe, inference, predictions, validation, history, forward_flops(inference))
    members += find_headless(recipe, {name: each.model for name, each in headless.items()}, history)
    choice = Choice(best_peer, best.metric, {name: best.peers[name] for name in recipe.trainable if name in best.peers})
    summary = folder.read_summary()
    notes += remarks(recipe, predictions, validation, members, history, is_finished=summary is not None)
    notes += features.notes
    notes += [f"the loss {loss} is code of your own, which is not run here; its sources are not shown" for loss in unread_losses(recipe)]
    disagreeing = [name for name in recipe.trainable if name in predictions.comparable]
    parent, changes = _changes(recipe, notes)
    return Findings(
        folder=str(folder.path),
        recipe=recipe,
        best_peer=best_peer,
        reason=reason(choice, members, edges, predictions),
        split=split,
        num_images=predictions.num_images,
        members=members,
        pairs=find_pairs(recipe, predictions, edges, history, features),
        edges=edges,
        history=history,
        disagreements=find_disagreements(predictions, disagreeing if len(disagreeing) > 1 else predictions.comparable),
        mistakes=find_mistakes(predictions, best_peer),
        recipe_text=folder.recipe_text(),
        changes=changes,
        environment=folder.notes().get("x-environment", {}),
        summary=summary,
        test=_test_scores(folder),
        class_names=list(predictions.class_names),
        notes=notes,
        parent=parent,
    )


def _history(folder: RunFolder, notes: list[str]) -> list[dict[str, Any]]:
    try:
        return folder.history()
    except InputError as error:
        notes.append(f"{first_line(error)}; what changed over the epochs is left out")
        return []


def _changes(recipe: Recipe, notes: list[str]) -> tuple[str, list[tuple[str, str, str]]]:
    """Returns the folder of the run's parent, empty where there is none, and what their recipes differ in."""
    parent = parent_of(recipe)
    if parent is None:
        return "", []
    try:
        return str(parent), recipe_changes(RunFolder(parent), recipe)
    except InputError as error:
        notes.append(f"what differs from the run before is left out: {first_line(error)}")
        return str(parent), []


def _test_scores(folder: RunFolder) -> Mapping[str, Mapping[str, float]]:
    scores = folder.read_final_scores()
    if scores is None:
        return {}
    return {member: {name: math.nan if value is None else value for name, value in row.items()} for member, row in scores.test.items()}
