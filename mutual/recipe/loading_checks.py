"""The checks of how images are loaded: several crops of each, and the folder that keeps them decoded."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.recipe.document import Recipe
from mutual.recipe.errors import Fault


def check_loading(recipe: Recipe) -> Iterator[Fault]:
    """Yields what does not go together with the crops of an image in `recipe`."""
    crops = recipe.data.crops_per_image
    if crops == 1:
        return
    for name, store in recipe.stores.items():
        where = f"peers.{name}.store.views"
        if store.views == "epoch":
            message = "'epoch' is for images that occur once in an epoch, and data.crops_per_image is given; give a number of views"
            yield Fault(where, message)
        elif store.views < crops:
            yield Fault(where, f"{store.views} views of an image, of which an epoch shows {crops} (data.crops_per_image); give more views")
