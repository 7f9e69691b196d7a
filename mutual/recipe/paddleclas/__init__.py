"""PaddleClas' configs as recipes: `convert_config`, which names whatever has no counterpart here."""

from mutual.recipe.paddleclas.conversion import Conversion, convert_config, is_config, is_override
from mutual.recipe.paddleclas.writing import converted_text

__all__ = ["Conversion", "convert_config", "converted_text", "is_config", "is_override"]
