"""The weights that a config's models begin with: files, those that PaddleClas publishes, and none where they fit nothing."""

import pytest
from arch_configs import PLAIN, converted, distilled, fault_of, said

from mutual.recipe.paddleclas.conversion import _read_as_theirs


@pytest.mark.parametrize(
    ("pretrained", "weights"),
    [
        (False, None),
        (None, None),
        (True, "pretrained"),
        ("output/PPLCNet/best_model", {"file": "output/PPLCNet/best_model.pdparams", "head": "auto"}),
        ("a.v2/best.pdparams", {"file": "a.v2/best.pdparams", "head": "auto"}),
        ("mine.safetensors", {"file": "mine.safetensors", "head": "auto"}),
        ("https://example.org/files/mine.pdparams", {"file": "mine.pdparams", "head": "auto"}),
    ],
)
def test_pretrained_names_weights(pretrained, weights):
    """Theirs passes over a classifier of another width, with a warning."""
    models, _ = converted({**PLAIN, "pretrained": pretrained})
    assert models["model"].document.get("weights") == weights


def test_distilled_weights_are_an_argument_of_ours():
    models, _ = converted({**PLAIN, "pretrained": True, "use_ssld": True})
    assert models["model"].document["args"] == {"use_ssld": True}


def test_a_file_for_the_whole_is_divided_by_the_models_names():
    models, notes = converted(
        {"name": "DistillationModel", "models": [{"A": {**PLAIN, "pretrained": True}}, {"B": PLAIN}]}, {"pretrained_model": "output/latest"}
    )
    assert {name: model.document["weights"] for name, model in models.items()} == {
        name: {"file": "output/latest.pdparams", "prefix": f"{name}.", "head": "auto"} for name in "AB"
    }
    assert said(notes.remarks, "Arch.models.0.A.pretrained") == ["output/latest.pdparams is loaded behind it, and replaces it"]


@pytest.mark.parametrize(
    ("frozen", "size", "mean", "read"),
    [
        (True, 224, 0.485, None),
        (True, 32, 0.485, {"size": 32}),
        (True, [80, 160], 0.485, {"size": [80, 160]}),
        (False, 32, 0.485, None),  # it reads the data's size by itself
        (False, 32, 0.5, {"mean": [0.5, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}),
    ],
)
def test_published_weights_read_the_images_of_the_config(frozen, size, mean, read):
    """Theirs resizes nothing for a teacher, and normalises all alike; ours would read what weights were made for."""
    data = {"image_size": size, "normalize": {"mean": [mean, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
    peers = [{"model": name, "weights": "pretrained", **({"frozen": True} if frozen else {})} for name in ("pplcnet_x1_0", "timm/dpn68")]
    for peer in peers:
        _read_as_theirs(peer, data)
    assert [peer.get("input") for peer in peers] == [read, None]
    peer = {"model": "pplcnet_x1_0", "weights": "own.pdparams", "frozen": True}
    _read_as_theirs(peer, data)
    assert "input" not in peer


def test_weights_of_theirs_do_not_fit_a_model_of_timms():
    models, notes = converted({"name": "DPN68", "pretrained": "output/best"})
    assert "weights" not in models["model"].document
    assert notes.left_out == [
        "Arch.pretrained: 'output/best.pdparams': weights of PaddleClas do not fit timm/dpn68; it begins with initial weights"
    ]
    models, notes = converted({"name": "DPN68", "pretrained": "mine.pth"})
    assert (models["model"].document["weights"], notes.left_out) == ({"file": "mine.pth", "head": "auto"}, [])


def test_an_architecture_that_arguments_make_has_no_weights():
    models, notes = converted({"name": "DenseNet264", "pretrained": True})
    assert models["model"].document == {"model": "timm/densenet121", "args": {"block_config": [6, 12, 64, 48]}}
    assert notes.left_out == ["Arch.pretrained: true: there are no weights that fit timm/densenet121; it begins with initial weights"]


@pytest.mark.parametrize(
    ("teacher", "why"),
    [
        ({"name": "Res2Net200_vd_26w_4s", "pretrained": True, "use_ssld": True}, "there are no weights that fit timm/res2net101d"),
        ({"name": "DPN68", "pretrained": "output/best"}, "weights of PaddleClas do not fit timm/dpn68"),
    ],
)
def test_a_teacher_without_its_weights_is_one_line(teacher, why):
    arch = {"name": "DistillationModel", "models": [{"A": teacher}, {"B": PLAIN}], "freeze_params_list": [True, False]}
    assert fault_of(arch).startswith(f"Arch.models.0.A.pretrained: {why}, and a frozen model has nothing to teach without; give a file")
    arch["models"][0]["A"]["pretrained"] = "mine.pth"
    models, _ = converted(arch)
    assert models["A"].document["weights"] == "mine.pth"


def test_a_teacher_that_names_no_weights_is_as_there():
    models, notes = distilled(PLAIN, PLAIN, freeze_params_list=[True, False])
    assert models["A"].document == {"model": "pplcnet_x0_25", "frozen": True}
    assert "name a file here" in said(notes.remarks, "Arch.models.0.A.pretrained")[0]
