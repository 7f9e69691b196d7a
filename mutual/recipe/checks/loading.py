"""The checks of how images are loaded: several crops of each, and the folder that keeps them decoded."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.recipe.data import Data
from mutual.recipe.datasets import family_of_dataset
from mutual.recipe.document import Recipe
from mutual.recipe.errors import Fault
from mutual.recipe.transforms import CenterCrop, Resize


def check_loading(recipe: Recipe) -> Iterator[Fault]:
    """Yields what is wrong with how `recipe` loads images."""
    yield from _check_crops(recipe)
    yield from _check_decoded(recipe.data)


def _check_crops(recipe: Recipe) -> Iterator[Fault]:
    crops = recipe.data.crops_per_image
    if crops == 1:
        return
    for name, store in recipe.stores.items():
        where = f"peers.{name}.store.views"
        if store.views != "epoch" and store.views < crops:
            yield Fault(where, f"{store.views} views of an image, of which an epoch shows {crops} (data.crops_per_image); give more views")


def _check_decoded(data: Data) -> Iterator[Fault]:
    if data.decoded is None:
        return
    if not (data.kind.in_files and data.kind.needs_root):
        yield Fault("data.decoded", f"keeps images of files decoded (image_folder, image_list), not {data.dataset}")
    if family_of_dataset(data.unlabelled or "") == "wds":
        yield Fault("data.decoded", f"keeps images of files decoded, and data.unlabelled names shards ({data.unlabelled})")
    if not data.decoded.strip():
        yield Fault("data.decoded", "names no folder")
    first = data.augment[0] if data.augment else None
    if first is not None and not isinstance(first, Resize | CenterCrop):
        resize = "{name: resize, size: 256, mode: shorter}"
        yield Fault(
            "data.decoded", f"keeps images as they are in every epoch; begin data.augment with a resize, as {resize}, before {first.name}"
        )
