"""Features: one pass over some images that compares what modules of the peers give, without keeping any of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mutual.data import PreparedImages
from mutual.engine.evaluation import RunInference
from mutual.engine.report.similarity import LinearCKA, Tap
from mutual.group import TappedModel
from mutual.models import ModelInput, classifier_paths
from mutual.recipe import EMBEDDING, LOGITS, Precision, first_line

NUM_IMAGES = 1_000
"""So many images, spread evenly over the split, are compared at most."""
_INPUT = ":input"


@dataclass(frozen=True)
class FeatureModel:
    """A peer whose features are compared.

    Attributes:
        model: in eval mode.
        input: what it reads.
        precision: in which it is run; None: the run's.
        is_headless: it has no classifier, and its own output is one of its features.
    """

    model: nn.Module
    input: ModelInput
    precision: Precision | None = None
    is_headless: bool = False


@dataclass(frozen=True)
class ComparedFeatures:
    """The CKA of peers' features.

    Attributes:
        cka: by peer and module path.
        paths: by peer the module paths whose outputs could be compared.
        notes: lines about those that could not.
    """

    cka: LinearCKA[Tap]
    paths: dict[str, list[str]]
    notes: list[str]


def compare_features(
    inference: RunInference, split: str, paths: Mapping[str, Sequence[str]], headless: Mapping[str, FeatureModel]
) -> ComparedFeatures:
    """Returns the CKA of what the peers' modules at `paths` give, without paths of what their classifiers are given.

    Args:
        inference: the peers with a classifier, and images.
        split: of whose images at most 1,000 are compared.
        paths: by peer the module paths.
        headless: frozen peers without a classifier.
    """
    models = {name: FeatureModel(peer.bare, inference.inputs[name], peer.precision) for name, peer in inference.peers.items()}
    found = ComparedFeatures(LinearCKA(), {}, [])
    tapped = _tap({**models, **headless}, paths, found.notes)
    try:
        if len(tapped) > 1:
            _add_all(found, inference, inference.data.select_images(split, NUM_IMAGES), {**models, **headless}, tapped)
    finally:
        for model in tapped.values():
            model.remove()
    return found


def _tap(models: Mapping[str, FeatureModel], paths: Mapping[str, Sequence[str]], notes: list[str]) -> dict[str, TappedModel]:
    tapped = {}
    for name, each in models.items():
        wanted = list(paths.get(name, ())) or ([] if each.is_headless else _penultimate(each.model))
        if not wanted and not each.is_headless:
            notes.append(f"features of {name} are not compared (CKA): no classifier was found whose input they would be")
            continue
        try:
            tapped[name] = TappedModel(each.model, wanted, output=EMBEDDING if each.is_headless else LOGITS)
        except ValueError as error:
            notes.append(f"features of {name} are not compared (CKA): {first_line(error)}")
    return tapped


def _penultimate(model: nn.Module) -> list[str]:
    return [f"{path}{_INPUT}" for path in classifier_paths(model)[:1]]


@torch.no_grad()
def _add_all(
    found: ComparedFeatures,
    inference: RunInference,
    images: PreparedImages,
    models: Mapping[str, FeatureModel],
    tapped: Mapping[str, TappedModel],
) -> None:
    """Adds the features of `images`, as far as they are tensors of an image each."""
    comm = inference.environment.comm
    for model in tapped.values():
        model.to(comm.device)
    for batch in inference.data.prepared_batches(images, world_size=comm.size, shard=(comm.rank, comm.size)):
        pixels = batch.to(comm.device).images[batch.readable_rows]
        if len(pixels) == 0:
            continue
        features: dict[Tap, Tensor] = {}
        for name, model in tapped.items():
            is_first = name not in found.paths
            with inference.environment.autocast(models[name].precision):
                read = models[name].input(pixels)
                outputs = model.probe(read) if is_first else model(read)  # probing copies what is changed in place behind a tap
            of_peer = {path: output for path, output in outputs.items() if path != LOGITS}
            readable = {path: output for path, output in of_peer.items() if isinstance(output, Tensor) and len(output) == len(pixels)}
            if is_first:
                found.paths[name] = list(readable)
                unread = ", ".join(sorted(of_peer.keys() - readable))
                found.notes.extend([f"features of {name} at {unread} are not compared (CKA): no tensor of an image each"] if unread else [])
            features |= {(name, path): output for path, output in readable.items()}
        found.cka.add(features)
