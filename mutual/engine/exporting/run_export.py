"""export_run: a peer of a run as files to ship, with what they cost and lose, and a model card that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mutual.engine.costs import count_forward_flops
from mutual.engine.exporting.card_facts import CardFacts, ExportedFile, Temperature, find_comparison, read_scores
from mutual.engine.exporting.card_page import card_page, title_of
from mutual.engine.exporting.formats import WithInput, export_model, file_name, onnx_program, random_images
from mutual.engine.exporting.latency import Benchmark, measure_latency
from mutual.engine.exporting.options import FIT, ExportOptions
from mutual.engine.exporting.quantization import Int8Export, quantize
from mutual.engine.exporting.temperature import Divided, divide_logits
from mutual.engine.exporting.timm_folder import FAMILY, timm_config
from mutual.engine.storage import (
    EXPORTED_RECIPE,
    MODEL_CARD,
    TIMM_CONFIG,
    TIMM_FOLDER,
    TIMM_WEIGHTS,
    RunFolder,
    check_replaceable,
    json_text,
    peer_of_file,
    unfinished,
    write_exported,
)
from mutual.models import ModelCard, read_model
from mutual.recipe import InputError, Recipe, printable

if TYPE_CHECKING:  # it imports what evaluation needs, which a plain export does not
    from mutual.engine.exporting.run_images import RunImages

_INT8 = ".int8.onnx"


@dataclass(frozen=True)
class RunExport:
    """What an export has written and measured.

    Attributes:
        files: by format, in the order in which they were asked for.
        temperature: by what the logits are divided; None: by nothing.
        int8: the int8 program; None where none was asked for, or it was not kept.
        benchmark: latencies; None where none were asked for.
        card: the model card; None where none was asked for.
        timm_folder: what timm loads; None where the peer is not timm's or no weights were asked for.
        notes: lines for the user.
        refusal: why the int8 program was not kept; empty where it was, or none was asked for.
    """

    files: Sequence[ExportedFile]
    temperature: Temperature | None
    int8: Int8Export | None
    benchmark: Benchmark | None
    card: Path | None
    timm_folder: Path | None
    notes: Sequence[str]
    refusal: str


def export_run(
    folder: RunFolder, recipe: Recipe, weights: Path, output: Path, options: ExportOptions, *, epoch: int | None = None
) -> RunExport:
    """Writes a peer of a run in each of the formats, and beside them what the options ask for.

    Args:
        folder: the run folder.
        recipe: the run's, with other values where the user gave some, such as where its data are now.
        weights: the peer's file in the run folder, as `peer_file` finds it.
        output: the folder that is written to.
        options: what is exported and measured.
        epoch: of the weights, where they are not the best ones.

    Raises:
        InputError: a package or the run's images are missing where they are needed, the model cannot be exported or quantised, or a file
            that no export wrote is in the way; of the last nothing has been written.
    """
    model, card = read_model(weights, factories=options.factories)
    facts = _facts(folder, recipe, weights, model, card, options, epoch)
    check_replaceable(output, _names(facts, weights.stem, options))
    images, notes = _images(recipe, facts.peer, card, options)
    temperature = None
    if options.temperature is not None:
        model, temperature = _with_temperature(model, card, images, options)
    written = export_model(model, card, output, weights.stem, formats=options.formats, with_input=options.with_input)
    files = [ExportedFile(path, name, path.stat().st_size, difference) for name, (path, difference) in written.items()]
    int8, refusal = None, ""
    if options.int8:
        assert images is not None, "the options need them"
        try:
            int8 = _int8(written["onnx"][0], images, options)
            files.append(ExportedFile(int8.path, "onnx int8", int8.num_bytes, 0.0))
        except InputError as error:  # what else was asked for is written nevertheless
            refusal = str(error)
    benchmark = _benchmark(model, card, files, options) if options.benchmark else None
    facts = replace(facts, files=files, temperature=temperature, int8=int8, benchmark=benchmark)
    card_file = None
    if options.card:
        page = card_page(facts)
        notes += _replaced_card(page, output)
        write_exported(output, EXPORTED_RECIPE, folder.recipe_file.read_bytes())
        card_file = write_exported(output, MODEL_CARD, page)
    timm_folder = _write_timm_folder(facts, folder, output, options)
    return RunExport(files, temperature, int8, benchmark, card_file, timm_folder, notes, refusal)


def _facts(
    folder: RunFolder, recipe: Recipe, weights: Path, model: nn.Module, card: ModelCard, options: ExportOptions, epoch: int | None
) -> CardFacts:
    peer = peer_of_file(weights)
    preprocess: list[Any] | None = card.preprocess
    if preprocess is None:  # a card of before
        from mutual.data import resolved_preprocess

        preprocess = resolved_preprocess(recipe.data, card.image_size)
    return CardFacts(
        run=folder.path.resolve().name,
        peer=peer,
        card=card,
        preprocess=preprocess,
        recipe=recipe,
        scores=read_scores(folder, peer, epoch),
        summary=folder.read_summary(),
        comparison=find_comparison(folder) if epoch is None else None,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=int(count_forward_flops(model, card.input.shape)) or None,
        license=None if options.license is None else options.license.lower(),
        takes_pixels=options.with_input,
        timm=timm_config(model, card, preprocess) if card.model.startswith(FAMILY) else None,
        factories=tuple(options.factories),
    )


def _names(facts: CardFacts, stem: str, options: ExportOptions) -> list[str]:
    """Returns the names of all files that are going to be written."""
    names = [file_name(stem, format_name, with_input=options.with_input) for format_name in options.formats]
    if options.int8:
        names.append(_int8_name(names[list(options.formats).index("onnx")]))
    beside = [MODEL_CARD, EXPORTED_RECIPE] if options.card else []
    if facts.timm is not None and "safetensors" in options.formats:
        names += [f"{TIMM_FOLDER.format(name=stem)}/{name}" for name in (TIMM_CONFIG, TIMM_WEIGHTS, *beside)]
    return names + beside


def _int8_name(name: str) -> str:
    return f"{name.removesuffix('.onnx')}{_INT8}"


def _images(recipe: Recipe, peer: str, card: ModelCard, options: ExportOptions) -> tuple[RunImages | None, list[str]]:
    """Returns the run's images where something is to be measured on them, and lines for the user."""
    if not options.needs_images and options.temperature is None:
        return None, []
    from mutual.engine.exporting.run_images import RunImages

    try:
        return RunImages(recipe, peer, card, datasets=options.datasets, takes_pixels=options.with_input), []
    except InputError as error:
        if options.needs_images:
            what = "--int8" if options.int8 else "--temperature fit"
            raise InputError(f"{what} needs the run's images: {error}") from error
        return None, [f"the temperature is not measured, as that needs the run's images: {error}"]


def _with_temperature(model: nn.Module, card: ModelCard, images: RunImages | None, options: ExportOptions) -> tuple[nn.Module, Temperature]:
    """Returns a model whose logits are divided, and by what."""
    given, nll, num_images = options.temperature, None, 0
    assert given is not None, "a temperature is asked for"
    program = WithInput(model, card) if options.with_input else model
    logits, labels = ({}, None) if images is None else images.logits({"model": program})
    if given == FIT:
        from mutual.engine.evaluation import fit_temperature

        assert labels is not None, "the options need images"
        try:
            value = fit_temperature(logits["model"], labels)
        except ValueError as error:
            raise InputError(f"--temperature fit: {error}") from error
    else:
        value = float(given)
    if images is not None and labels is not None:
        scores = images.scores({"before": logits["model"], "after": logits["model"] / value}, labels)
        nll, num_images = (scores["before"]["nll"], scores["after"]["nll"]), len(labels)
    divided = divide_logits(model, value, random_images(model, card, 2))
    is_in_weights = not isinstance(divided, Divided)
    if not is_in_weights and "safetensors" in options.formats:
        raise InputError(
            f"the logits of {card.model} are not those of one linear layer, so that its weights cannot hold a temperature; "
            "export programs: --format torch,onnx"
        )
    return divided, Temperature(value, given == FIT, num_images, nll, is_in_weights)


def _int8(program: Path, images: RunImages, options: ExportOptions) -> Int8Export:
    """Writes the int8 program beside the float one, unless it loses more than the options allow."""
    path = program.with_name(_int8_name(program.name))
    temp_path = unfinished(path)
    try:
        num_calibrated = quantize(program, temp_path, images.calibration(options.calibration_images))
        logits, labels = images.logits({"float": onnx_program(program), "int8": onnx_program(temp_path)})
        scores = images.scores(logits, labels)
        metric = "map" if images.card.multi_label else "top1"
        sizes = temp_path.stat().st_size, program.stat().st_size
        export = Int8Export(path, *sizes, num_calibrated, len(labels), scores, metric)
        if not export.drop <= options.max_drop:
            raise InputError(
                f"{path} is not kept: in int8 {metric} is {scores['int8'][metric]:.2%} on {len(labels):,} validation images, in float "
                f"{scores['float'][metric]:.2%}; --max-drop {max(export.drop, 0) + 0.005:.2f} would accept that"
            )
        write_exported(path.parent, path.name, temp_path.read_bytes())
    finally:
        temp_path.unlink(missing_ok=True)
    return export


def _benchmark(model: nn.Module, card: ModelCard, files: Sequence[ExportedFile], options: ExportOptions) -> Benchmark:
    whole = WithInput(model, card) if options.with_input else model

    def images(batch: int) -> Tensor:
        return random_images(whole, card, batch)

    return measure_latency(whole, images, {each.format: each.path for each in files if each.format.startswith("onnx")})


def _replaced_card(page: bytes, output: Path) -> list[str]:
    """Returns a line where the model card of another peer or run gives way to `page`."""
    path = output / MODEL_CARD
    before = title_of(path.read_bytes()) if path.is_file() else None
    if before in (None, title_of(page)):
        return []
    return [f"{path} was the card of {printable(before)}, whose files it no longer describes; another --output keeps them apart"]


def _write_timm_folder(facts: CardFacts, folder: RunFolder, output: Path, options: ExportOptions) -> Path | None:
    """Writes what timm loads; the weights are the same bytes as in our file."""
    weights = next((each.path for each in facts.files if each.format == "safetensors"), None)
    if facts.timm is None or weights is None:
        return None
    name = TIMM_FOLDER.format(name=weights.stem)
    write_exported(output, f"{name}/{TIMM_WEIGHTS}", weights.read_bytes())
    write_exported(output, f"{name}/{TIMM_CONFIG}", json_text(facts.timm.document, indent=2).encode())
    if options.card:
        write_exported(output, f"{name}/{EXPORTED_RECIPE}", folder.recipe_file.read_bytes())
        write_exported(output, f"{name}/{MODEL_CARD}", card_page(facts, of_timm_folder=True))
    return output / name
