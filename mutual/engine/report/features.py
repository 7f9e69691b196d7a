"""Features: one pass over some images that compares what modules of the peers give, without keeping any of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mutual.engine.evaluation import LoadedPeer, RunInference
from mutual.engine.report.similarity import LinearCKA, Tap
from mutual.group import TappedModel
from mutual.models import classifier_paths
from mutual.recipe import first_line

NUM_IMAGES = 1_000
"""So many images, spread evenly over the split, are compared at most."""
INPUT = ":input"


def compare_features(
    inference: RunInference, split: str, paths: Mapping[str, Sequence[str]]
) -> tuple[LinearCKA[Tap], dict[str, list[str]], list[str]]:
    """Returns the CKA of what the peers' modules at `paths` give, by peer the paths that could be read, and lines about the others.

    Of a peer without paths it is what its classifier is given.
    """
    tapped, notes = _tap(inference, paths)
    cka: LinearCKA[Tap] = LinearCKA()
    seen: dict[str, list[str]] = {}
    if len(tapped) > 1:
        try:
            seen = _add_all(cka, inference, split, tapped, notes)
        finally:
            for model in tapped.values():
                model.remove()
    return cka, seen, notes


def _tap(inference: RunInference, paths: Mapping[str, Sequence[str]]) -> tuple[dict[str, TappedModel], list[str]]:
    tapped, notes = {}, []
    for name, peer in inference.peers.items():
        wanted = list(paths.get(name, ())) or _penultimate(peer)
        if not wanted:
            notes.append(f"features of {name}: no classifier was found whose input could be compared (CKA)")
            continue
        try:
            tapped[name] = TappedModel(peer.bare, wanted)
        except ValueError as error:
            notes.append(f"features of {name} are not compared (CKA): {first_line(error)}")
    return tapped, notes


def _penultimate(peer: LoadedPeer) -> list[str]:
    return [f"{path}{INPUT}" for path in classifier_paths(peer.bare)[:1]]


@torch.no_grad()
def _add_all(
    cka: LinearCKA[Tap], inference: RunInference, split: str, tapped: Mapping[str, TappedModel], notes: list[str]
) -> dict[str, list[str]]:
    """Adds the features of all images; returns by peer the paths of those that are tensors of an image each."""
    comm = inference.environment.comm
    images = inference.data.select_images(split, NUM_IMAGES)
    seen: dict[str, list[str]] = {}
    for batch in inference.data.prepared_batches(images, world_size=comm.size, shard=(comm.rank, comm.size)):
        pixels = batch.to(comm.device).images[: batch.num_valid]
        features: dict[Tap, Tensor] = {}
        for name, model in tapped.items():
            with inference.environment.autocast(inference.peers[name].precision):
                outputs = model(inference.inputs[name](pixels))
            of_peer = {path: output for path, output in outputs.items() if path != model.output}
            readable = {path: output for path, output in of_peer.items() if isinstance(output, Tensor) and len(output) == len(pixels)}
            if name not in seen:
                seen[name] = list(readable)
                unread = ", ".join(sorted(of_peer.keys() - readable))
                notes += [f"features of {name} are not compared (CKA) at {unread}: no tensor of an image each"] if unread else []
            features |= {(name, path): output for path, output in readable.items()}
        cka.add(features)
    return seen
