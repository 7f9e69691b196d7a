"""Recipes of two tiny peers, one for each loss and for each switch of an update."""

from support import tiny_document

CE = {"loss": "cross_entropy"}
TEACHER = {"model": "support:tiny", "frozen": True, "args": {"norm": True, "width": 5}}
AT = {
    **dict.fromkeys(("at", "cosine", "crd", "hint", "l1", "l2", "mcl", "mgd", "pefd", "rkd_angle", "rkd_distance"), "body"),
    "similarity": "body",
    "smooth_l1": "body",
    "okddip": "body",
    "afd": ["stem", "body"],
    "ofd": ["norm"],
}
FP16 = {"train": {"precision": "fp16"}, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "args": {"fused": True}}}
CASES = {
    "fp16": FP16,
    "fp16 with Adam": {**FP16, "optimizer": {"name": "adam", "lr": 0.1, "args": {"fused": True}}},
    "fp16, clipped, averaged": {**FP16, "train": {"precision": "fp16", "clip_grad_norm": 0.1, "ema": 0.9, "ema_warmup": True}},
    "bf16": {"train": {"precision": "bf16"}},
    "pause": {"train": {"pause": {"peer": "a", "versus": "b"}}, "optimizer": FP16["optimizer"]},
    "mixed images": {"data": {"mixup": 0.4, "cutmix": 1.0}},
    "a view for each peer": {"data": {"views": "per_peer", "augment": [{"name": "random_crop", "padding": 2}]}},
    "averages that teach": {"train": {"ema": 0.9}, "objectives": [CE, {"loss": "ssld", "sources": "peers_ema"}]},
    "accumulation": {"train": {"accumulate": 2}},
    "one peer after another": {"train": {"update": "alternating", "accumulate": 2}},
    "a schedule of weights": {"objectives": [CE, {"loss": "dml", "schedule": {"name": "linear"}, "gate": "linear"}]},
    "clipped": {"train": {"clip_grad_norm": 0.1}},
    "clipped by parameters": {"train": {"clip_parameter_norm": 0.1}},
    "Paddle's RMSProp": {"optimizer": {"name": "paddle_rmsprop", "lr": 0.1, "momentum": 0.9}},
    "a teacher": {"peers": {"a": {"model": "support:tiny"}, "t": TEACHER}, "objectives": [CE, {"loss": "kd", "sources": ["t"]}]},
    "a teacher of other classes": {
        "peers": {"a": {"model": "support:tiny"}, "t": {**TEACHER, "classes": [3, 0, 1, 2]}},
        "objectives": [CE, {"loss": "kd", "sources": ["t"]}],
    },
    "another size": {"peers": {"a": {"model": "support:tiny"}, "b": {"model": "support:tiny", "input": {"size": [6, 6]}}}},
    **{
        f"the ensemble {weighting}": {"objectives": [CE, {"loss": "kd", "sources": "ensemble", "ensemble": {"weighting": weighting}}]}
        for weighting in ("mean", "naive", "linear", "min_logit")
    },
}
CASES |= {
    "weights of the classes": {"objectives": [{"loss": "cross_entropy", "class_weight": "balanced", "label_smoothing": 0.1}]},
    "weights of mixed classes": {"objectives": [{"loss": "focal", "alpha": [1, 2, 3, 4]}], "data": {"mixup": 0.4, "sampler": "balanced"}},
    "fractions of the images with each class": {"objectives": [{"loss": "bce", "class_fraction": "data"}], "data": {"multi_label": True}},
    "focal with a sigmoid": {"objectives": [{"loss": "focal", "form": "sigmoid", "alpha": 0.25}]},
}
MASKED = {
    "the gate of what is correct": {"objectives": [CE, {"loss": "dml", "gate": "correct"}]},
    "a teacher of some classes": {
        "peers": {"a": {"model": "support:tiny"}, "t": {**TEACHER, "classes": [0, None, 2, None]}},
        "objectives": [CE, {"loss": "wsl", "sources": ["t"]}],
    },
}


def tiny_peers(**sections):
    document = tiny_document()
    peers = {name: {"model": "support:tiny", "args": {"norm": True}} for name in "ab"}
    merged = {key: {**document[key], **sections[key]} for key in ("data", "train") if key in sections}
    return {**document, "peers": peers, **sections, **merged}


def loss_document(name):
    """The loss `name` beside cross-entropy, or alone where it is the ground truth's."""
    objective = {"loss": name, **({"at": AT[name]} if name in AT else {})}
    document = tiny_peers(objectives=[objective] if name in ("cross_entropy", "focal", "bce") else [CE, objective])
    if name == "bce":
        document["data"] |= {"multi_label": True}
    return document
