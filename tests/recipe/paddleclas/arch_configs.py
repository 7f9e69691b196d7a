"""Configs of PaddleClas whose Arch is converted by itself."""

import copy

import pytest

from mutual.recipe import PeerSpec, RecipeError, check_section
from mutual.recipe.paddleclas.architectures import convert_models
from mutual.recipe.paddleclas.section import Notes, Section

PLAIN = {"name": "PPLCNet_x0_25", "class_num": 10}


def converted(arch, settings=None):
    """The models of a section Arch by name, and the notes."""
    notes = Notes()
    sections = Section(copy.deepcopy(arch), "Arch", notes), Section(settings or {}, "Global", notes)
    models = convert_models(*sections)
    for section in sections:
        section.name_untaken()
    for model in models:
        check_section(PeerSpec, model.document)
    return {model.name: model for model in models}, notes


def distilled(*models, **entries):
    """Two models or more, called A, B, ..., and other entries of Arch."""
    return converted(
        {"name": "DistillationModel", "models": [{name: model} for name, model in zip("ABCD", models, strict=False)], **entries}
    )


def fault_of(arch, settings=None):
    with pytest.raises(RecipeError) as caught:
        converted(arch, settings)
    (line,) = str(caught.value).splitlines()
    return line


def said(lines, start):
    """Those lines that begin so, without it."""
    return [line.removeprefix(f"{start}: ") for line in lines if line.startswith(f"{start}: ")]
