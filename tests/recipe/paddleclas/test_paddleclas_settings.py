"""The sections Global, AMP, EMA, Metric and Infer: what each key becomes, what is named, and what is an error."""

import copy

import pytest

from mutual.recipe import CheckpointSpec, RecipeError, Train, check_section
from mutual.recipe.paddleclas.section import Notes, Section
from mutual.recipe.paddleclas.settings import convert_settings

DEFAULT_TRAIN = {"epochs": 4, "log_every": 10, "precision": "no"}


def convert(settings=None, *, peers=("Student",), document=None, **sections):
    """The document with what the sections say, and the notes."""
    notes = Notes()
    root = Section({"Global": {"epochs": 4, "seed": 0, **(settings or {})}, **sections}, "", notes)
    named = {name: {"model": "m"} for name in peers}
    document = {"name": "theirs", "data": {}, "peers": named, "objectives": [], **(document or {})}
    convert_settings(document, root, root.section("Global"))
    root.name_untaken()
    check_section(Train, document["train"])
    check_section(CheckpointSpec, document.get("checkpoint", {}))
    return document, notes


def train_of(settings=None, **sections):
    document, notes = convert(settings, **sections)
    assert notes.left_out == []
    return document["train"]


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({}, {}),
        ({"epochs": 120}, {"epochs": 120}),
        ({"print_batch_step": 20}, {"log_every": 20}),
        ({"eval_interval": 3}, {"eval_every": 3}),
        ({"eval_interval": 3, "eval_during_train": False}, {"eval_every": 4}),
        ({"update_freq": 8}, {"accumulate": 8}),
        ({"update_freq": 1, "train_mode": None, "eval_mode": "classification", "checkpoints": None}, {}),
        (
            {
                "device": "gpu",
                "to_static": True,
                "use_visualdl": True,
                "image_shape": [3, 64, 64],
                "save_inference_dir": "x",
            },
            {},
        ),
    ],
)
def test_a_key_of_global_becomes_a_field_of_train(settings, fields):
    assert train_of(settings) == DEFAULT_TRAIN | fields


@pytest.mark.parametrize(("interval", "checkpoint"), [(None, None), (1, None), (5, {"every_epochs": 5}), (0, None), (-1, None)])
def test_a_checkpoint_is_written_at_their_interval_and_where_there_is_none_after_each_epoch(interval, checkpoint):
    """Theirs keeps its latest state of each epoch in any case."""
    assert convert({"save_interval": interval})[0].get("checkpoint") == checkpoint


@pytest.mark.parametrize(("path", "output"), [(None, "output"), ("./output/", "output"), ("/data/runs/", "/data/runs")])
def test_runs_are_written_to_their_folder(path, output):
    assert convert({"output_dir": path})[0]["output"] == output


def test_a_seed_is_taken_and_the_lack_of_one_said():
    assert convert({"seed": 42})[0]["seed"] == 42
    document, notes = convert({"seed": None})
    assert (document["seed"], notes.remarks) == (0, ["Global.seed: theirs is another in each run without one; here it is 0"])


@pytest.mark.parametrize(
    ("amp", "precision"),
    [
        (None, "no"),
        ({}, "no"),
        ({"use_amp": False, "scale_loss": 128.0, "level": "O2", "whatever": 3}, "no"),
        ({"scale_loss": 128.0, "use_dynamic_loss_scaling": True}, "fp16"),
        ({"use_amp": True, "level": "O1", "use_fp16_test": True, "use_promote": False}, "fp16"),
        ({"level": "O2"}, "fp16"),
        ({"dtype": "bfloat16", "scale_loss": 1.0}, "bf16"),
        ({"dtype": "float16"}, "fp16"),
    ],
)
def test_mixed_precision_is_float16_where_there_is_a_section(amp, precision):
    document, notes = convert(AMP=amp)
    assert (document["train"]["precision"], notes.left_out) == (precision, [])
    assert any(line.startswith("AMP.scale_loss: each peer has a loss scale of its own") for line in notes.remarks) == (precision == "fp16")
    assert any(line.startswith("AMP.level: weights stay in float32") for line in notes.remarks) == (amp == {"level": "O2"})


@pytest.mark.parametrize(("section", "decay"), [({"decay": 0.99}, 0.99), ({}, 0.9999)])
def test_an_average_has_their_decay(section, decay):
    assert train_of(EMA=section)["ema"] == decay
    assert train_of({"ema": {"enable": True, **section}})["ema"] == decay
    assert "ema" not in train_of({"ema": {"enable": False, "decay": 0.99}})
    assert "ema" not in train_of(EMA=None)


def test_a_warmup_is_no_longer_than_the_training():
    schedules = {"schedule": {"name": "cosine", "warmup_epochs": 5}}
    document, notes = convert(document=schedules)
    assert document["schedule"]["warmup_epochs"] == 4
    assert notes.remarks == ["Global.epochs: the warm-up lasts 4 epochs, as the training does"]
    peers = {"Student": {"model": "m", "schedule": {"name": "cosine", "warmup_epochs": 4.5}}}
    assert convert(document={"peers": peers})[0]["peers"]["Student"]["schedule"]["warmup_epochs"] == 4


@pytest.mark.parametrize(
    ("settings", "sections", "line"),
    [
        ({"train_mode": "efficientnetv2"}, {}, "Global.train_mode: 'efficientnetv2': every epoch is trained alike"),
        ({"checkpoints": "output/latest"}, {}, "Global.checkpoints: 'output/latest': a run of theirs cannot be resumed"),
        ({"use_magic": True}, {}, "Global.use_magic: true: has no counterpart"),
        ({"ecpochs": 3}, {}, "Global.ecpochs: 3: has no counterpart; did you mean 'epochs'?"),
        ({}, {"Slim": {"quant": {"name": "pact"}}}, "Slim: "),
        ({}, {"SWA": {"start": 3}}, "SWA: "),
        ({}, {"Metric": {"Eval": [{"HammingDistance": None}]}}, "Metric.Eval.0.HammingDistance: is not measured, by which the best"),
        ({}, {"AMP": {"custom_white_list": ["conv"]}}, "AMP.custom_white_list: "),
        ({}, {"Infer": {"transforms": [{"ResizeImage": {"size": 64}}]}}, "Infer.transforms: "),
    ],
)
def test_what_has_no_counterpart_is_named(settings, sections, line):
    _, notes = convert(settings, **sections)
    assert notes.left_out[0].startswith(line)


@pytest.mark.parametrize(
    ("settings", "sections", "path", "message"),
    [
        ({"epochs": None}, {}, "Global.epochs", "is missing; give the number of epochs"),
        ({"eval_mode": "retrieval"}, {}, "Global.eval_mode", "'retrieval' is no classification"),
        ({"epochs": "many"}, {}, "Global.epochs", "'many' is no number"),
        ({"eval_during_train": 1}, {}, "Global.eval_during_train", "1 is neither true nor false"),
        ({}, {"AMP": {"dtype": "int8"}}, "AMP.dtype", "'int8' is neither float16 nor bfloat16"),
        ({}, {"Metric": {"Eval": {"TopkAcc": 1}}}, "Metric.Eval", "is no list"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(settings, sections, path, message):
    with pytest.raises(RecipeError, match=message) as caught:
        convert(settings, **sections)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_the_best_peer_is_one_of_all_that_are_trained():
    metric = {"Train": [{"TopkAcc": {"topk": [1]}}], "Eval": [{"DistillationTopkAcc": {"model_key": "A", "topk": [1, 3]}}]}
    _, notes = convert(peers=("A", "B"), Metric=metric)
    assert notes.left_out == []
    assert notes.remarks == [
        "Metric.Eval.0.DistillationTopkAcc.model_key: each trained peer keeps its best weights, and the best peer is one of A, B",
        "Metric.Eval.0.DistillationTopkAcc.topk: top1 and top5 are measured",
    ]
    assert convert(peers=("A",), Metric={"Eval": [{"DistillationTopkAcc": {"model_key": "A", "topk": 5}}]})[1].remarks == []


def test_several_labels_are_scored_by_their_average_precision():
    document = {"data": {"multi_label": True}}
    metric = {"Eval": [{"MultiLabelMAP": None}, {"AccuracyScore": {"base": "sample"}}]}
    _, notes = convert(document=document, Metric=metric)
    assert (notes.left_out, notes.remarks) == ([], ["Metric.Eval.1.AccuracyScore: is not measured; map and nll are"])
    metric["Eval"].reverse()
    _, notes = convert(document=document, Metric=metric)
    (line,) = notes.left_out
    why = "is not measured, by which the best weights are chosen there; map and nll are, and train.best_metric is one of them"
    assert line == f"Metric.Eval.0.AccuracyScore: {why}"
    _, notes = convert({"eval_during_train": False}, document=document, Metric=metric)
    assert notes.left_out == []


NORMALIZE = {"scale": "1.0/255.0", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
EVAL = [{"DecodeImage": {"to_rgb": True}}, {"ResizeImage": {"size": 64}}, {"NormalizeImage": {**NORMALIZE, "order": ""}}]


def test_images_are_predicted_as_they_are_evaluated():
    infer = {
        "infer_imgs": "docs/images",
        "batch_size": 10,
        "transforms": [EVAL[0], EVAL[1], {"NormalizeImage": NORMALIZE}, {"ToCHWImage": None}],
        "PostProcess": {"name": "Topk", "topk": 3, "class_id_map_file": "classes.txt"},
    }
    _, notes = convert(Infer=infer, DataLoader={"Eval": {"dataset": {"transform_ops": EVAL}}})
    assert [line for line in notes.left_out if not line.startswith("DataLoader")] == []
    assert notes.remarks == [
        "Infer.PostProcess.class_id_map_file: classes.txt is not read; where it is there, data.class_names of an image_list takes it",
        "Infer: python -m mutual.predict output/theirs docs/images --topk 3 predicts",
    ]


def test_a_post_process_of_a_distilled_model_names_the_peer():
    process = {"name": "DistillationPostProcess", "func": "Topk", "topk": 5, "model_name": "A", "key": None}
    _, notes = convert(peers=("A", "B"), Infer={"infer_imgs": "x.jpg", "PostProcess": process})
    assert (notes.left_out, notes.remarks) == ([], ["Infer: python -m mutual.predict output/theirs x.jpg --peer A --topk 5 predicts"])
    _, notes = convert(Infer={"infer_imgs": "x.jpg", "PostProcess": {"ThreshOutput": {"threshold": 0.5}}})
    assert (notes.left_out, notes.remarks) == (
        [],
        [
            "Infer.PostProcess: is not applied: the command prints probabilities, and the classes of the largest",
            "Infer: python -m mutual.predict output/theirs x.jpg predicts",
        ],
    )


def test_images_are_predicted_by_the_student():
    """Theirs takes the outputs of the model of this name, where there is one."""
    infer = {"infer_imgs": "x.jpg", "PostProcess": {"name": "Topk", "topk": 2}}
    command = "Infer: python -m mutual.predict output/theirs x.jpg{} --topk 2 predicts"
    assert convert(peers=("Teacher", "Student"), Infer=infer)[1].remarks == [command.format(" --peer Student")]
    assert convert(peers=("Student",), Infer=infer)[1].remarks == [command.format("")]


@pytest.mark.parametrize(
    ("change", "left_out", "remarks"),
    [
        (lambda steps: steps.pop(0), 0, 0),  # DecodeImage says nothing
        (lambda steps: steps[2]["NormalizeImage"].update(scale=0.00392157), 0, 0),
        (lambda steps: steps[1]["ResizeImage"].update(interpolation="bicubic", backend="pil"), 0, 1),
        (lambda steps: steps[2]["NormalizeImage"].update(mean=[0.4, 0.5, 0.5]), 1, 0),
        (lambda steps: steps[1]["ResizeImage"].update(size=60), 1, 0),
        (lambda steps: steps.insert(2, {"PadImage": {"size": 60}}), 1, 0),
    ],
)
def test_images_that_are_predicted_otherwise_are_named(change, left_out, remarks):
    steps = copy.deepcopy(EVAL)
    change(steps)
    _, notes = convert(Infer={"transforms": steps}, DataLoader={"Eval": {"dataset": {"transform_ops": EVAL}}})
    lines = [[line for line in kind if line.startswith("Infer.transforms: ")] for kind in (notes.left_out, notes.remarks)]
    assert [len(found) for found in lines] == [left_out, remarks]


def test_a_file_of_names_is_taken_where_it_is_there(tmp_path):
    names = tmp_path / "classes.txt"
    names.write_text("0 cat\n1 dog\n")
    infer = {"PostProcess": {"name": "Topk", "class_id_map_file": str(names)}}
    assert convert(document={"data": {"dataset": "image_list"}}, Infer=infer)[0]["data"]["class_names"] == str(names)
    assert "class_names" not in convert(document={"data": {"dataset": "fake"}}, Infer=infer)[0]["data"]


@pytest.mark.parametrize(
    ("index", "transform", "is_the_same"),
    [
        (1, {"ResizeImage": {"resize_short": 256, "size": None, "backend": "cv2"}}, True),
        (2, {"CropImage": {"size": [224, 224]}}, True),
        (2, {"CropImage": {"size": 192}}, False),
        (2, {"CropImage": {"size": "large"}}, False),
        (2, {"Sharpen": {"by": 2}}, False),
    ],
)
def test_transforms_of_infer_are_those_of_eval_in_whatever_words(index, transform, is_the_same):
    evaluated = ["DecodeImage", {"ResizeImage": {"resize_short": 256}}, {"CropImage": {"size": 224}}, {"NormalizeImage": {"order": ""}}]
    inferred = [*evaluated[:index], transform, *evaluated[index + 1 :], "ToCHWImage"]
    _, notes = convert(Infer={"transforms": inferred}, DataLoader={"Eval": {"dataset": {"transform_ops": evaluated}}})
    assert [line.split(": ")[0] for line in notes.left_out if "Infer" in line] == ([] if is_the_same else ["Infer.transforms"])
