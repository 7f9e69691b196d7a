"""What must hold between the sections of a recipe, each of which is right by itself: all faults at once, a line each."""

from mutual.recipe.checks.heads import LOSSES_OF_EMBEDDINGS
from mutual.recipe.checks.recipe import RESERVED_NAMES, check

__all__ = ["LOSSES_OF_EMBEDDINGS", "RESERVED_NAMES", "check"]
