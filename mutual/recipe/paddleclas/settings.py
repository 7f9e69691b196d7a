"""convert_settings: the sections Global, AMP, EMA, Metric and Infer as the rest of a recipe."""

from __future__ import annotations

import os
from typing import Any

from mutual.recipe.paddleclas.outputs import convert_infer, convert_metrics
from mutual.recipe.paddleclas.section import Section
from mutual.recipe.text import format_value

_UNNEEDED = (
    "device",
    "use_visualdl",
    "image_shape",
    "image_channel",
    "loss_parameters",
    "save_inference_dir",
    "to_static",
    "use_dali",
    "use_multilabel",
    "print_model",
    "distributed",
    "rank",
    "infer_config_path",
    "export_for_fd",
    "export_batch_size",
    "export_dynamic_batch",
    "max_num_latest_checkpoint",
    "log_ranks",
    "cal_metric_during_train",
)
"""Of Global: what the launcher, the tracker and `mutual.export` do without being told, or what other sections say as well."""
_OTHER_SECTIONS = ("Export", "DALI", "profiler_options", "profiler")

Document = dict[str, Any]


def convert_settings(document: Document, root: Section, settings: Section) -> None:
    """Adds to a recipe's document what these sections say.

    Args:
        document: with its data, peers, objectives and optimizers.
        root: the whole config; AMP, EMA, Metric and Infer are there to be taken.
        settings: its section Global.

    Raises:
        RecipeError: a value of another type than theirs.
    """
    train = document.setdefault("train", {})
    _convert_run(document, train, settings)
    _convert_evaluation(train, settings)
    _convert_updates(document, train, settings)
    _convert_precision(train, root)
    _convert_average(train, root, settings)
    convert_metrics(document, root)
    convert_infer(document, root)
    for key, why in (("Slim", "models are neither pruned nor quantized in training"), ("SWA", "weights are averaged by train.ema alone")):
        if key in root:
            root.leave_out(key, why)
    settings.pass_over(*_UNNEEDED)
    root.pass_over(*_OTHER_SECTIONS)


def _convert_run(document: Document, train: Document, settings: Section) -> None:
    seed = settings.number("seed")
    if seed is None:
        settings.remark("theirs is another in each run without one; here it is 0", "seed")
    document["seed"] = 0 if seed is None else seed
    document["output"] = os.path.normpath(settings.text("output_dir", "./output/"))
    epochs = settings.number("epochs")
    if epochs is None:
        raise settings.error("epochs", "is missing; give the number of epochs")
    train["epochs"] = epochs
    mode = settings.text("train_mode", "")
    if mode:
        settings.leave_out("train_mode", "every epoch is trained alike, as in their default mode", value=mode)
    kind = settings.text("eval_mode", "classification")
    if kind != "classification":
        raise settings.error("eval_mode", f"{format_value(kind)} is no classification, which alone can be converted")
    train["log_every"] = settings.number("print_batch_step", 10)
    if "checkpoints" in settings:
        why = "a run of theirs cannot be resumed; Global.pretrained_model begins with its weights, and --resume goes on with a run of ours"
        settings.leave_out("checkpoints", why)
    interval = settings.number("save_interval", 1)
    if interval > 1:
        document["checkpoint"] = {"every_epochs": interval}
        settings.remark("a run goes on from these checkpoints alone; theirs keeps its latest state of each epoch, too", "save_interval")


def _convert_evaluation(train: Document, settings: Section) -> None:
    if settings.flag("eval_during_train", True):
        interval = settings.number("eval_interval", 1)
        train |= {} if interval == 1 else {"eval_every": interval}
    else:
        settings.remark("the last epoch is evaluated all the same, and its weights are the best", "eval_during_train")
        settings.pass_over("eval_interval")
        train["eval_every"] = train["epochs"]
    if settings.number("start_eval_epoch", 0) > 1:
        settings.remark("evaluations begin with the first epoch that eval_interval names", "start_eval_epoch")


def _convert_updates(document: Document, train: Document, settings: Section) -> None:
    accumulate = settings.number("update_freq", 1)
    if accumulate > 1:
        train["accumulate"] = accumulate
        settings.remark(
            "an epoch's last update may have fewer batches, and weighs them by their images; theirs leaves these batches to the next epoch",
            "update_freq",
        )
    schedules = [document.get("schedule", {}), *(peer["schedule"] for peer in document["peers"].values() if "schedule" in peer)]
    for schedule in schedules:
        if schedule.get("warmup_epochs", 0) > train["epochs"]:
            settings.remark(f"the warm-up lasts {train['epochs']} epochs, as the training does", "epochs")
            schedule["warmup_epochs"] = train["epochs"]


def _convert_precision(train: Document, root: Section) -> None:
    train["precision"] = "no"
    amp = root.section("AMP")
    if not list(amp) or not amp.flag("use_amp", True):
        amp.pass_over(*amp)
        return
    dtype = amp.text("dtype", "float16")
    if dtype not in ("float16", "bfloat16"):
        raise amp.error("dtype", f"{format_value(dtype)} is neither float16 nor bfloat16")
    train["precision"] = "fp16" if dtype == "float16" else "bf16"
    level = amp.text("level", "O1")
    if level.upper() == "O2":
        amp.remark("weights stay in float32, and operators that need it compute in it, as with O1", "level")
    if dtype == "float16":
        amp.remark("each peer has a loss scale of its own, which begins at 65,536 and is dynamic", "scale_loss")
    amp.pass_over("scale_loss", "use_dynamic_loss_scaling", "use_fp16_test", "use_promote")


def _convert_average(train: Document, root: Section, settings: Section) -> None:
    holder, key = (root, "EMA") if "EMA" in root else (settings, "ema")  # the latter before 2.3
    if key not in holder:
        return
    average = holder.section(key)
    if not average.flag("enable", True):
        average.pass_over(*average)
        return
    train["ema"] = average.number("decay", 0.9999)
    remedy = "train.evaluate_ema: false takes the trained weights"
    average.remark(f"evaluated and saved are the averages; {remedy}; theirs keeps the best of both")
