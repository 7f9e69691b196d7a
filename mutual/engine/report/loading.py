"""load_peers: the peers of a run whose weights can be found: trained ones, frozen ones, and those that other jobs train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mutual.engine.evaluation import LoadedPeer, load_frozen, read_headless, read_models
from mutual.engine.inputs import check_weights_present
from mutual.engine.report.features import FeatureModel
from mutual.engine.storage import BEST, RunFolder
from mutual.recipe import InputError, Recipe, first_line


@dataclass(frozen=True)
class RunPeers:
    """The peers of a run with their weights.

    Attributes:
        classifiers: those that give logits, in the recipe's order.
        headless: frozen ones without a classifier.
        notes: lines about those that are not there, or of which a part is.
    """

    classifiers: dict[str, LoadedPeer]
    headless: dict[str, FeatureModel] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load_peers(folder: RunFolder, recipe: Recipe, files: Sequence[Path], factories: Sequence[str]) -> RunPeers:
    """Returns the trained peers and those of the others whose weights are there; a line says why one is left out.

    Args:
        folder: the run folder.
        recipe: the run's, with other values where the user gave some.
        files: the trained peers' best weights.
        factories: names of models of the user's own that may be built.

    Raises:
        InputError: weights of a trained peer cannot be read, or its model is not to be built.
    """
    peers = RunPeers(_read(files, factories))
    for name in recipe.peers:
        if name in recipe.trainable:
            continue
        try:
            if recipe.is_trained(name):
                file = _file_of_job(folder, recipe, name)
                peers.classifiers[name] = _read([file], factories)[name]
                peers.notes.append(f"{name}, which another job trains, is shown by the best weights in {file.parent.parent}")
            else:
                _add_frozen(peers, recipe, name, files[0], factories)
        except InputError as error:
            peers.notes.append(f"{name}, which is not trained in this run, is left out: {first_line(error, max_length=400)}")
    classifiers = {name: peers.classifiers[name] for name in recipe.peers if name in peers.classifiers}
    return RunPeers(classifiers, peers.headless, peers.notes)


def _read(files: Sequence[Path], factories: Sequence[str]) -> dict[str, LoadedPeer]:
    return {name: LoadedPeer(model, model, card) for name, (model, card) in read_models(files, factories).items()}


def _add_frozen(peers: RunPeers, recipe: Recipe, name: str, trained: Path, factories: Sequence[str]) -> None:
    check_weights_present(recipe, name)
    if name not in recipe.headless:
        peers.classifiers[name] = load_frozen(recipe, name, trained, factories)
        return
    model, model_input = read_headless(recipe, name, trained, factories)
    peers.headless[name] = FeatureModel(model, model_input, recipe.peers[name].precision, is_headless=True)
    peers.notes.append(f"{name} has no classifier: its features are compared (CKA), and nothing else")


def _file_of_job(folder: RunFolder, recipe: Recipe, name: str) -> Path:
    """Returns the best weights of a peer that another job of the same launch trains: its run folder is `NAME_PEER`, as this one's is."""
    for own in recipe.exchange.trains or ():
        if folder.path.name.endswith(f"_{own}"):
            return RunFolder(folder.path.with_name(f"{folder.path.name.removesuffix(own)}{name}")).verified_weights(BEST, name)
    raise InputError("another job trains it, and its weights are in that job's run")
