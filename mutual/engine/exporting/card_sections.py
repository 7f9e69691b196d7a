"""The sections of a model card, each a function of what is known of the exported peer."""

from __future__ import annotations

from mutual.engine.comparison import BEST_PEER, MEAN, ArmSummary, Comparison, format_metric, is_accuracy
from mutual.engine.exporting.card_facts import CardFacts, lessons, metrics_of, origin
from mutual.engine.exporting.latency import Benchmark
from mutual.engine.exporting.markdown import code_block, escape, table
from mutual.engine.exporting.quantization import Int8Export
from mutual.engine.exporting.snippets import loading, older_timm_loading, preparation, timm_loading
from mutual.engine.exporting.timm_folder import LOWEST_VERSION
from mutual.engine.storage import EXPORTED_RECIPE, TIMM_FOLDER
from mutual.recipe import ENSEMBLE, SPLIT_NAMES, format_value

MAX_CLASSES = 200
"""No more names of classes than these stand in a card."""
METRICS = {
    "top1": ("accuracy", "top-1"),
    "macro_top1": ("accuracy", "top-1, mean over the classes"),
    "top5": ("accuracy", "top-5"),
    "map": ("mean_average_precision", "mAP"),
    "nll": ("nll", "NLL (nats)"),
    "ece": ("ece", "ECE (15 bins)"),
}
"""By metric what model hubs call its kind, and what it is called here."""
_FORMATS = {
    "safetensors": "weights, with a card in the metadata",
    "torch": "program of `torch.export`",
    "onnx": "ONNX program",
    "onnx int8": "ONNX program in int8",
}


def introduction(facts: CardFacts) -> str:
    """Returns the title and a sentence."""
    card, run = facts.card, escape(facts.run)
    kind = "several labels an image" if card.multi_label else "one class an image"
    return (
        f"# {run}: {escape(facts.stem)}\n\n"
        f"An image classifier, {escape(card.model)}, for {card.num_classes:,} classes ({kind}): peer {escape(facts.peer)} of the run "
        f"{run}, trained with mutual on {escape(facts.recipe.data.title)}."
    )


def model_section(facts: CardFacts) -> str:
    """Returns what the model is."""
    card = facts.card
    height, width = card.image_size
    channels = "grey" if card.in_channels == 1 else card.channel_order
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (card.mean, card.std))
    operations = "not counted" if facts.flops is None else f"{facts.flops / 1e6:,.1f} MFLOP (a multiply-add is two)"
    rows = [
        ("architecture", escape(card.model)),
        *([("arguments", escape(format_value(card.args, max_length=300)))] if card.args else []),
        ("parameters", f"{facts.num_parameters:,}"),
        ("forward of one image", operations),
        ("input", f"{channels}, {height} x {width} pixels, values in 0 .. 1, minus mean ({mean}), divided by standard deviation ({std})"),
        ("output", f"logits of {card.num_classes:,} classes, {'each for a sigmoid' if card.multi_label else 'for a softmax'}"),
    ]
    return table(("", ""), rows)


def files_section(facts: CardFacts) -> str:
    """Returns what was written, and how far its logits are from the model's."""
    rows = []
    for each in facts.files:
        measured = f"{each.difference:.0e} of the largest logit" if each.difference else "nothing"
        difference = "see int8 below" if each.format == "onnx int8" else measured
        rows.append((escape(each.path.name), _FORMATS[each.format], f"{each.num_bytes / 1e6:.2f} MB", difference))
    parts = [table(("file", "what it is", "size", "logits differ from the model's by"), rows)]
    if facts.has_timm_folder:
        parts.append(
            f"The folder {escape(TIMM_FOLDER.format(name=facts.stem))} holds the same weights for timm, and can be uploaded as a whole."
        )
    return "\n\n".join(parts)


def use_section(facts: CardFacts) -> str:
    """Returns programs that load the files and apply them to an image."""
    prepared = preparation(facts.card, facts.preprocess, as_pixels=facts.takes_pixels)
    parts = ["From an image file to what the model reads:", code_block(prepared)]
    for each in facts.files:
        what = _FORMATS[each.format].partition(",")[0]
        parts += [f"{what[0].upper()}{what[1:]}:", code_block(loading(facts, each.format, each.path.name))]
    if facts.has_timm_folder:
        parts.append(timm_section(facts, TIMM_FOLDER.format(name=facts.stem)))
    return "\n\n".join(parts)


def timm_section(facts: CardFacts, folder: str) -> str:
    """Returns programs that load the weights by timm from `folder`."""
    assert facts.timm is not None, "the peer is timm's"
    how = "Its transforms are those of the validation images."
    if facts.timm.note:
        how = f"Its transforms are not those of the validation images: {escape(facts.timm.note)}."
    return (
        f"By timm, from {LOWEST_VERSION} on. {how}\n\n{code_block(timm_loading(facts, folder))}\n\n"
        f"An earlier timm reads no safetensors behind `local-dir:`, but takes the file:\n\n{code_block(older_timm_loading(facts, folder))}"
    )


def classes_section(facts: CardFacts) -> str:
    """Returns the names of the classes."""
    names = facts.card.class_names
    shown = ", ".join(f"{index} {escape(format_value(name))}" for index, name in enumerate(names[:MAX_CLASSES]))
    more = f", and {len(names) - MAX_CLASSES:,} more, which the card in each file's metadata names" if len(names) > MAX_CLASSES else ""
    return f"In the order of the outputs: {shown}{more}."


def scores_section(facts: CardFacts) -> str:
    """Returns the peer's scores in its run, and of which images they are."""
    scores = facts.scores
    if scores is None:
        return "The run has not scored these weights."
    number = "" if scores.images is None else f"{scores.images:,} "
    if scores.split == "test":
        images = f"{number}test images, scored once, by the weights that were best on the validation images"
    else:
        images = f"{number}validation images; the best epoch was chosen on them, which makes this optimistic"
    of_epoch = "" if scores.epoch is None else f"; weights of epoch {scores.epoch}"
    note = " This is without the temperature, which changes NLL and ECE." if facts.temperature else ""
    rows = [(METRICS[key][1], _shown(key, value)) for key, value in metrics_of(scores.row).items()]
    return f"On {images}{of_epoch}.{note}\n\n{table(('metric', 'value'), rows)}"


def comparison_section(comparison: Comparison, arm: ArmSummary) -> str:
    """Returns what the comparison found that the run belongs to: means over seeds, and differences to baselines."""
    members = {MEAN: "the mean over the trained peers", BEST_PEER: "the best peer", ENSEMBLE: "the ensemble"}
    hint = "; the epoch was chosen on them, which makes this optimistic" if comparison.is_optimistic else ""
    parts = [
        f"The run is one of the arm {escape(arm.name)} of the comparison {escape(comparison.name)}, whose {len(arm.runs)} runs differ in "
        f"their seed. Scores of {escape(members.get(arm.member, f'peer {arm.member}'))}, {comparison.epoch} weights, on "
        f"{SPLIT_NAMES[comparison.split]} images{hint}."
    ]
    rows = []
    for name, metric in arm.metrics.items():
        num_finite = sum(value is not None for value in metric.values.values())
        rows.append((_metric_name(name), _with_deviation(name, metric.mean, metric.std), str(num_finite)))
    parts.append(table(("metric", "mean ± standard deviation", "seeds"), rows))
    differences = [each for each in comparison.differences if each.arm == arm.name]
    if differences:
        compared = []
        for each in differences:
            interval = "" if each.interval is None else " to ".join(_signed(each.metric, bound) for bound in each.interval)
            compared.append((escape(each.baseline), _metric_name(each.metric), _signed(each.metric, each.mean), interval, each.verdict))
        parts.append("Differences, paired by seed, with the 95 % interval of their mean:")
        parts.append(table(("against", "metric", "difference", "95 % interval", "verdict"), compared))
    elif arm.name == comparison.baseline:
        parts.append("It is the baseline of the comparison.")
    if comparison.notes:
        parts.append("\n".join(f"- {escape(note)}" for note in comparison.notes))
    return "\n\n".join(parts)


def temperature_section(facts: CardFacts) -> str:
    """Returns by what the logits are divided, and what that changes."""
    temperature = facts.temperature
    assert temperature is not None, "there is one"
    how = "fitted to the validation images" if temperature.is_fitted else "as it was given to the export"
    where = "the weights of the classifier hold it, in every file" if temperature.is_in_weights else "the programs divide by it"
    text = f"The logits are divided by {temperature.value:.4g} ({how}): {where}. The order of the classes stays."
    if temperature.nll is None:
        return f"{text} What it changes was not measured."
    before, after = temperature.nll
    return f"{text} NLL on {temperature.images:,} validation images: {before:.4f} before, {after:.4f} after."


def int8_section(int8: Int8Export) -> str:
    """Returns what the int8 program loses and saves."""
    before, after = int8.scores["float"], int8.scores["int8"]
    rows = [(METRICS[name][1], _shown(name, value), _shown(name, after[name])) for name, value in metrics_of(before).items()]
    rows.append(("size", f"{int8.float_bytes / 1e6:.2f} MB", f"{int8.num_bytes / 1e6:.2f} MB"))
    return (
        f"Static quantisation (QDQ, weights by channel), calibrated with {int8.calibration_images:,} training images. "
        f"On {int8.images:,} validation images:\n\n{table(('', 'float', 'int8'), rows)}"
    )


def latency_section(benchmark: Benchmark) -> str:
    """Returns how long the programs take."""
    rows = []
    for row in benchmark.rows:
        measured = (f"left out: {escape(row.note)}", "")
        if row.milliseconds is not None and row.ratio is not None:
            measured = (f"{row.milliseconds:.3f}", f"{row.ratio:.2f}")
        rows.append((row.variant, str(row.batch), *measured))
    threads = "one thread" if benchmark.threads == 1 else f"{benchmark.threads} threads"
    machine = f"{escape(benchmark.processor)}, {threads} of torch and of ONNX Runtime alike"
    how = f"On the CPU of the machine that exported it ({machine}); medians over rounds, in each of which every one ran once."
    return f"{how}\n\n{table(('', 'images', 'milliseconds', 'of eager'), rows)}"


def training_section(facts: CardFacts) -> str:
    """Returns how the peer was trained: the data, the methods, and who taught it."""
    document, summary = facts.recipe, facts.summary
    sizes, took = "numbers of images not recorded", ""
    if summary is not None:
        sizes = ", ".join(f"{number:,} {SPLIT_NAMES.get(split, split)} images" for split, number in summary.images.items()) or sizes
        processes = "one process" if summary.processes == 1 else f"{summary.processes} processes"
        took = f" {summary.epoch} epochs, {summary.update:,} updates, {processes}, {escape(summary.device)}."
    parts = [
        f"Data: {escape(document.data.title)} ({escape(sizes)}).{took} The whole recipe is [{EXPORTED_RECIPE}]({EXPORTED_RECIPE}).",
        f"The peer began with {escape(origin(document, facts.peer))}, and learned from:",
        table(("loss", "from", "as the recipe says"), [tuple(map(escape, row)) for row in lessons(document, facts.peer)]),
    ]
    others = [
        (escape(name), escape(spec.model), escape(origin(document, name)), "taught only" if spec.frozen else "was trained with it")
        for name, spec in document.peers.items()
        if name != facts.peer
    ]
    if others:
        parts += ["The other peers:", table(("peer", "architecture", "began with", ""), others)]
    return "\n\n".join(parts)


def license_section(facts: CardFacts) -> str:
    """Returns the licence as its user gave it, or that nobody did."""
    stated = "Not stated." if facts.license is None else f"{escape(facts.license)}, as stated by who exported it."
    if facts.recipe.peers[facts.peer].weights is None:
        return f"{stated} The licence of the data may bind it."
    return f"{stated} The licences of the data and of what it began with ({escape(origin(facts.recipe, facts.peer))}) may bind it."


def limits_section(facts: CardFacts) -> str:
    """Returns what the card does not promise."""
    kind = "no others" if facts.card.multi_label else "gives one of them to any image, whatever is in it"
    limits = [
        f"It knows the classes above and {kind}.",
        f"Scores hold for images like those of {escape(facts.recipe.data.title)}; on others they may be far lower.",
    ]
    if facts.comparison is None:
        limits.append("The scores are those of one run; another seed gives others. `python -m mutual.compare` says how far they spread.")
    if facts.temperature is None:
        limits.append("Its probabilities were not calibrated (`--temperature fit`).")
    return "\n".join(f"- {limit}" for limit in limits)


def _metric_name(name: str) -> str:
    return METRICS[name][1] if name in METRICS else escape(name)


def _shown(metric: str, value: float) -> str:
    return f"{value:.2%}" if is_accuracy(metric) else f"{value:.4f}"


def _with_deviation(metric: str, mean: float | None, std: float | None) -> str:
    if mean is None:
        return "not finite"
    spread = "" if std is None else f" ± {format_metric(metric, std)}"
    return f"{format_metric(metric, mean)}{spread}{' %' if is_accuracy(metric) else ''}"


def _signed(metric: str, value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{format_metric(metric, value, signed=True)}{' points' if is_accuracy(metric) else ''}"
