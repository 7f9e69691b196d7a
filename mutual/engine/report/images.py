"""Images that are worth a look: on which the peers disagree most, and of which the best peer is surest and wrong.

Shapes: N images, C classes, M members.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mutual.data import ImageError, PreparedImages
from mutual.engine.report.findings import ImageFinding
from mutual.engine.report.predictions import SplitPredictions
from mutual.engine.report.thumbnails import thumbnail

NUM_IMAGES = 12
"""Of each kind."""
_CHUNK = 1024
"""Images whose probabilities are compared at a time."""


def find_disagreements(predictions: SplitPredictions, peers: Sequence[str]) -> list[ImageFinding]:
    """Returns the images on which `peers`, which know all classes, disagree most, most first; none of them is equal for all."""
    if predictions.multi_label or len(peers) < 2:
        return []
    divergence_N = torch.cat(
        [
            jensen_shannon(torch.stack([predictions.logits[name][start : start + _CHUNK].softmax(dim=1) for name in peers]))
            for start in range(0, predictions.num_images, _CHUNK)
        ]
    ).nan_to_num(-1)
    order = divergence_N.argsort(descending=True, stable=True)[:NUM_IMAGES].tolist()
    return _shown(predictions, [row for row in order if divergence_N[row] > 0])


def find_mistakes(predictions: SplitPredictions, peer: str) -> list[ImageFinding]:
    """Returns the images of which `peer` is wrong, and surest of its class first."""
    if predictions.multi_label:
        return []
    confidences_N = predictions.probabilities(peer).max(dim=1).values
    wrong = (predictions.predictions(peer) != predictions.labels).nonzero().flatten()
    wrong = wrong[~confidences_N[wrong].isnan()]
    order = confidences_N[wrong].argsort(descending=True, stable=True)[:NUM_IMAGES]
    return _shown(predictions, wrong[order].tolist())


def jensen_shannon(probabilities_MNC: Tensor) -> Tensor:
    """Returns the generalised Jensen-Shannon divergence `[N]` of M distributions in nats: entropy of the mean minus mean entropy.

    Example:
        >>> jensen_shannon(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))  # log 2
        tensor([0.6931])
    """
    entropy_N, entropies_MN = (torch.special.entr(each).sum(dim=-1) for each in (probabilities_MNC.mean(dim=0), probabilities_MNC))
    return entropy_N - entropies_MN.mean(dim=0)


def _shown(predictions: SplitPredictions, rows: Sequence[int]) -> list[ImageFinding]:
    found = []
    for row in rows:
        position = predictions.positions[row]
        try:
            image = thumbnail(predictions.images.pixels(position))
        except ImageError:  # it could be read before
            continue
        found.append(
            ImageFinding(
                thumbnail=image,
                label=predictions.class_names[int(predictions.labels[row])],
                predictions={member: _prediction(predictions, member, row) for member in predictions.logits},
                index=origin(predictions.images, position),
            )
        )
    return found


def _prediction(predictions: SplitPredictions, member: str, row: int) -> tuple[str, float]:
    confidence, column = predictions.logits[member][row].softmax(dim=0).max(dim=0)
    label = predictions.known[member][int(column)] if member in predictions.known else int(column)
    return predictions.class_names[label], float(confidence)


def origin(images: PreparedImages, position: int) -> str:
    """Returns where an image is from: a file with the folder that it lies in, or its number in the split."""
    return "/".join(images.name(position).split("/")[-2:])
