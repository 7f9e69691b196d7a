"""LossPeers: the models of a config as its losses name them, and their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mutual.recipe.edges import LOGITS
from mutual.recipe.errors import did_you_mean
from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.loss_edges import Edge, Path
from mutual.recipe.paddleclas.section import Section
from mutual.recipe.text import format_value

_LOGITS_KEYS = (LOGITS, "output")
"""What their losses call the logits; the second in configs of 2.1 and 2.2."""


class LossPeers:
    """The models of a config by name; what a loss names wrongly is an error at its entry.

    Attributes:
        mixes_labels: images are mixed, and their labels with them.
        has_several_labels: an image may have several.
    """

    def __init__(self, models: Sequence[Model], data: Mapping[str, Any]) -> None:
        self._models = {model.name: model for model in models}
        self.mixes_labels = bool(data.get("mixup") or data.get("cutmix"))
        self.has_several_labels = bool(data.get("multi_label"))

    def is_trained(self, name: str) -> bool:
        """Whether the model is trained."""
        return not self._models[name].document.get("frozen")

    @property
    def num_classes(self) -> int:
        """The number of the models' outputs."""
        return next(iter(self._models.values())).num_classes

    def only(self, section: Section) -> str:
        """Returns the name of the config's only model.

        Raises:
            RecipeError: there are several.
        """
        if len(self._models) > 1:
            raise section.error("", f"is for a single model; take the Distillation... loss that names {', '.join(self._models)}")
        return next(iter(self._models))

    def named(self, section: Section, key: str) -> list[str]:
        """Returns a list of names of models.

        Raises:
            RecipeError: it is none, or empty.
        """
        return self._checked(section.entries(key), section, key)

    def pairs(self, section: Section, key: str = "model_name_pairs") -> list[tuple[str, str]]:
        """Returns a list of lists of two names of models each.

        Raises:
            RecipeError: it is none, or empty.
        """
        pairs = section.entries(key)
        for pair in pairs:
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)):
                raise section.error(key, f"{format_value(pair)} is no pair of names")
        self._checked([name for pair in pairs for name in pair], section, key)
        return [(first, second) for first, second in pairs]

    def pair(self, section: Section, key: str, default: Sequence[str]) -> tuple[str, str]:
        """Returns a list of two names of models as a pair.

        Raises:
            RecipeError: it is none.
        """
        names = self._checked(section.entries(key) or list(default), section, key)
        if len(names) != 2:
            raise section.error(key, f"{format_value(names)} is no pair of names")
        return names[0], names[1]

    def output(self, name: str, output: str | None, section: Section, key: str) -> str:
        """Returns what `at` calls an output of a model; null is the logits.

        Raises:
            RecipeError: the model does not return it.
        """
        outputs = self._models[name].outputs
        if not isinstance(output, str | None):
            raise section.error(key, f"{format_value(output)} is no name of an output")
        if output is None or (output in _LOGITS_KEYS and output not in outputs):
            return LOGITS
        if output not in outputs:
            hint = did_you_mean(output, [LOGITS, *outputs])
            raise section.error(key, f"{name} does not return {format_value(output)}; name it in its return_patterns{hint}")
        return outputs[output]

    def attention(self, name: str, section: Section) -> tuple[tuple[str, ...], int]:
        """Returns the outputs that a model's LinearTransform reads, as `at` calls them, and its width.

        Raises:
            RecipeError: it has none.
        """
        attention = self._models[name].attention
        if not attention:
            raise section.error("model_name_pair", f"{name} is no AttentionModel with a LinearTransform, which AFDLoss reads")
        return tuple(attention["paths"]), attention["qk_dim"]

    def edges(self, pair: tuple[str, str], at: tuple[Path, Path], section: Section, *, is_symmetric: bool, has_leak: bool) -> list[Edge]:
        """Returns the edges of a pair's loss.

        Args:
            pair: the model that learns and the one that teaches.
            at: their outputs.
            section: of the loss.
            is_symmetric: the second model learns from the first by the same loss.
            has_leak: their loss has some other gradient for the second model.
        """
        first, second = pair
        if first == second:
            section.warn(f"[{first}, {second}] is one model, which is not taught by itself here", "model_name_pairs")
            return []
        edges = [Edge(first, second, *at)] if self.is_trained(first) else []
        if is_symmetric and self.is_trained(second):
            edges.append(Edge(second, first, at[1], at[0]))
        if has_leak and self.is_trained(second):
            section.warn(
                f"[{first}, {second}]: their loss has a gradient for {second}, which is trained, too; here it trains {first} alone",
                "model_name_pairs",
            )
        if not edges:
            section.remark(f"[{first}, {second}] trains nothing, there as here: {first} is frozen", "model_name_pairs")
        return edges

    def _checked(self, names: Sequence[object], section: Section, key: str) -> list[str]:
        if not names:
            raise section.error(key, f"names no model; there are {', '.join(self._models)}")
        for name in names:
            if not isinstance(name, str) or name not in self._models:
                raise section.error(key, f"{format_value(name)} is no model of Arch{did_you_mean(name, self._models)}")
        return [str(name) for name in names]
