"""values_of: each loss of theirs as edges of losses of ours.

What a loss of theirs computes is in a table of base losses; the table of distillation losses says which of them it applies to pairs of
models, and what it calls the values. Where our loss cannot say an argument, this is named, or the loss is left out as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mutual.recipe.errors import did_you_mean
from mutual.recipe.paddleclas.loss_bases import BASES, Base, take_target_size
from mutual.recipe.paddleclas.loss_edges import Edge, LossValue
from mutual.recipe.paddleclas.loss_peers import LossPeers
from mutual.recipe.paddleclas.section import Section

Values = list[LossValue] | None
"""None: the loss has no counterpart, which has been named."""


def values_of(name: str, section: Section, peers: LossPeers) -> Values:
    """Returns the values that a loss of theirs gives, as edges; None where it has no counterpart, which is named.

    Raises:
        RecipeError: it names what is not there, or an argument is of another type than theirs.
    """
    if name in _PAIR_LOSSES:
        return _pair_values(_PAIR_LOSSES[name], section, peers)
    if name in _LOSSES:
        return _LOSSES[name](section, peers)
    if name in _FOR_RETRIEVAL:
        section.leave_out_all("a loss of metric learning, for retrieval; recipes train classifiers")
    elif name in _WITHOUT_COUNTERPART:
        section.leave_out_all(_WITHOUT_COUNTERPART[name])
    else:
        section.leave_out_all(f"no loss of PaddleClas' that is known here{did_you_mean(name, [*_PAIR_LOSSES, *_LOSSES])}")
    return None


@dataclass(frozen=True)
class _PairLoss:
    """A loss between pairs of models.

    Attributes:
        base: what it computes.
        value_name: what it calls a value, of its `name`, the base's `value`, the pair's names and its index.
        name: the default of its `name`.
    """

    base: str
    value_name: str
    name: str = ""


_PAIR_LOSSES = {
    "DistillationCELoss": _PairLoss("CELoss", "{value}_{first}_{second}"),
    "DistillationDMLLoss": _PairLoss("DMLLoss", "{value}_{first}_{second}_{index}"),
    "DistillationDistanceLoss": _PairLoss("DistanceLoss", "{name}{loss}_{value}_{index}", "loss_"),
    "DistillationKLDivLoss": _PairLoss("KLDivLoss", "{value}_{first}_{second}"),
    "DistillationDKDLoss": _PairLoss("DKDLoss", "{name}_{first}_{second}", "loss_dkd"),
    "DistillationWSLLoss": _PairLoss("WSLLoss", "{name}_{first}_{second}", "wsl_loss"),
    "DistillationSKDLoss": _PairLoss("SKDLoss", "{name}_{first}_{second}", "skd_loss"),
    "DistillationDISTLoss": _PairLoss("DISTLoss", "{name}_{first}_{second}", "loss_dist"),
}


def _pair_values(loss: _PairLoss, section: Section, peers: LossPeers) -> Values:
    pairs = peers.pairs(section)
    base = BASES[loss.base](section, peers)
    if base is None:
        return None
    key, name = section.text("key"), section.text("name", loss.name)
    values = []
    for index, pair in enumerate(pairs):
        at = peers.output(pair[0], key, section, "key"), peers.output(pair[1], key, section, "key")
        value_name = loss.value_name.format(name=name, loss=base.loss, value=base.value, first=pair[0], second=pair[1], index=index)
        values.append(_value(base, value_name, _edges(base, pair, at, section, peers)))
    return values


def _chosen(section: Section, peers: LossPeers) -> Values:
    """DistillationPairLoss: the base loss that `base_loss_name` names, between outputs that each end names for itself."""
    base_name = section.text("base_loss_name")
    if base_name is None:
        raise section.error("base_loss_name", "is missing")
    pairs = peers.pairs(section)
    if base_name in _NEED_LABELS:
        section.leave_out_all(f"{base_name} takes the teacher's prediction as the label there, which nothing does here")
        return None
    if base_name not in BASES:
        section.leave_out_all(f"{base_name} has no counterpart{did_you_mean(base_name, BASES)}")
        return None
    keys = _output_keys(section)
    base = BASES[base_name](section, peers)
    if base is None:
        return None
    if len(keys) > 1 and not base.takes_lists:
        raise section.error("s_key", f"{base_name} compares one output of each end")
    name = section.text("name", "loss")
    values = []
    for index, (first, second) in enumerate(pairs):
        layers = [(peers.output(first, a, section, "s_key"), peers.output(second, b, section, "t_key")) for a, b in keys]
        value_name = "_".join(part for part in (name, str(index), first, second, base.value) if part)
        edges = [edge for layer in layers for edge in _edges(base, (first, second), layer, section, peers)]
        values.append(_value(base, value_name, edges))
    return values


def _output_keys(section: Section) -> list[tuple[str | None, str | None]]:
    """Returns the pairs of a student's and a teacher's outputs that `s_key` and `t_key` name; `s_keys` and `t_keys` before 2.5."""
    student, teacher = (section.take(f"{end}_keys", section.take(f"{end}_key")) for end in ("s", "t"))
    ours, theirs = ([keys] if keys is None or isinstance(keys, str) else keys for keys in (student, teacher))
    if not all(isinstance(keys, list) and all(key is None or isinstance(key, str) for key in keys) for keys in (ours, theirs)):
        raise section.error("s_key", "is neither a name of an output nor a list of them, or t_key is not")
    if not ours or len(ours) != len(theirs):
        raise section.error("s_key", f"names {len(ours)} outputs, and t_key {len(theirs)}, which form pairs")
    return list(zip(ours, theirs, strict=True))


def _edges(base: Base, pair: tuple[str, str], at: tuple[str, str], section: Section, peers: LossPeers) -> list[Edge]:
    return peers.edges(pair, at, section, is_symmetric=base.is_symmetric, has_leak=base.has_leak)


def _value(base: Base, name: str, edges: list[Edge]) -> LossValue:
    return LossValue(name, base.loss, tuple(edges), base.arguments, base.factor)


def _relations(section: Section, peers: LossPeers) -> Values:
    """DistillationRKDLoss: angles and distances, both with its weight, for each pair of outputs."""
    pairs = peers.pairs(section) if "model_name_pairs" in section else [peers.pair(section, "model_name_pairs", ("Student", "Teacher"))]
    student, teacher = section.entries("student_keepkeys"), section.entries("teacher_keepkeys")
    if not student or len(student) != len(teacher):
        raise section.error("student_keepkeys", f"names {len(student)} outputs, and teacher_keepkeys {len(teacher)}, which form pairs")
    if "avgpool" in section and not section.flag("avgpool"):
        section.pass_over("target_size")  # of configs of 2.1
    take_target_size(section)
    values = []
    for first, second in pairs:
        for index, keys in enumerate(zip(student, teacher, strict=True)):
            at = peers.output(first, keys[0], section, "student_keepkeys"), peers.output(second, keys[1], section, "teacher_keepkeys")
            edges = peers.edges((first, second), at, section, is_symmetric=True, has_leak=False)
            for loss, word in (("rkd_angle", "angle"), ("rkd_distance", "dist")):
                values.append(LossValue(f"loss_{word}_{index}_{first}_{second}", loss, tuple(edges)))
    return values


def _attention(section: Section, peers: LossPeers) -> Values:
    """AFDLoss: the layers are those of the models' LinearTransforms."""
    pair = peers.pair(section, "model_name_pair", ("Student", "Teacher"))
    for key, expected in (("student_keys", ["bilinear_key", "value"]), ("teacher_keys", ["query", "value"])):
        if (found := section.entries(key)) not in ([], expected):
            raise section.error(key, f"{found} is not {expected}, what the transforms return")
    section.pass_over("s_shapes", "t_shapes")
    section.take("qk_dim")
    (student, width), (teacher, _) = (peers.attention(name, section) for name in pair)
    edges = peers.edges(pair, (student, teacher), section, is_symmetric=False, has_leak=True)
    return [LossValue(section.text("name", "loss_afd"), "afd", tuple(edges), {"qk_dim": width})]


def _labels(
    value: str, section: Section, peers: LossPeers, *, is_named: bool, loss: str, arguments: dict[str, Any], factor: float
) -> Values:
    """Returns the values of a loss against labels, of the models that it names or of the only one."""
    names = peers.named(section, "model_names") if is_named else [peers.only(section)]
    key = section.text("key") if is_named else None
    section.take("name")
    values = []
    for name in names:
        at = peers.output(name, key, section, "key")
        if not peers.is_trained(name):
            section.remark(f"{name} is frozen, so that the loss trains nothing of it, there as here", "model_names")
        edges = (Edge(name, at=at),) if peers.is_trained(name) else ()
        values.append(LossValue(f"{value}_{name}" if is_named else value, loss, edges, arguments, factor))
    return values


def _smoothing(section: Section) -> dict[str, Any]:
    """Returns the label smoothing that `epsilon` says; outside of 0 .. 1 it says none."""
    epsilon = section.number("epsilon", 0.0)
    return {"label_smoothing": float(epsilon)} if 0 < epsilon < 1 else {}


def _cross_entropy(section: Section, peers: LossPeers, *, is_named: bool = False) -> Values:
    arguments = _smoothing(section)
    _take_mean(section)
    if peers.mixes_labels and not arguments:
        section.warn("mixed labels are taken as they are; their code without epsilon takes the softmax of them, which is almost uniform")
    return _labels("CELoss", section, peers, is_named=is_named, loss="cross_entropy", arguments=arguments, factor=1.0)


def _take_mean(section: Section) -> None:
    """Takes `reduction`, where it is the one of all losses here."""
    if (reduction := section.text("reduction", "mean")) != "mean":
        section.warn(f"{reduction!r}: losses are means over the images here", "reduction")


def _mixed_cross_entropy(section: Section, peers: LossPeers) -> Values:
    """MixCELoss of 2.1: mixes the losses of both labels, which is the cross-entropy with the mixed label."""
    return _labels("CELoss", section, peers, is_named=False, loss="cross_entropy", arguments=_smoothing(section), factor=1.0)


def _soft_targets(section: Section, peers: LossPeers) -> Values:
    return _labels("SoftTargetCELoss", section, peers, is_named=False, loss="cross_entropy", arguments={}, factor=1.0)


def _multi_label(section: Section, peers: LossPeers, *, is_named: bool = False) -> Values:
    """MultiLabelLoss: the mean over the classes or, with `size_sum`, the sum."""
    epsilon = section.number("epsilon", 0.0)
    if 0 < epsilon < 1:
        section.warn(f"{epsilon}: labels are not smoothed here where an image has several", "epsilon")
    arguments = {"class_fraction": "data"} if section.flag("weight_ratio") else {}
    factor = 1.0
    if section.flag("size_sum"):
        factor = float(peers.num_classes)
        section.remark(f"the sum over the classes is {factor:.0f} times their mean, which bce is", "size_sum")
    return _labels("MultiLabelLoss", section, peers, is_named=is_named, loss="bce", arguments=arguments, factor=factor)


_LOSSES: dict[str, Callable[[Section, LossPeers], Values]] = {
    "CELoss": _cross_entropy,
    "MixCELoss": _mixed_cross_entropy,
    "SoftTargetCrossEntropy": _soft_targets,
    "MultiLabelLoss": _multi_label,
    "DistillationGTCELoss": partial(_cross_entropy, is_named=True),
    "DistillationMultiLabelLoss": partial(_multi_label, is_named=True),
    "DistillationPairLoss": _chosen,
    "DistillationRKDLoss": _relations,
    "AFDLoss": _attention,
}
_NEED_LABELS = ("DKDLoss", "WSLLoss", "SKDLoss")
"""Base losses that read labels, which DistillationPairLoss does not give."""
_WITHOUT_COUNTERPART = {
    "GoogLeNetLoss": "models here have one classifier, and no auxiliary ones",
    "BCELoss": "its labels are one-hot and mixed ones above a threshold, which nothing here makes",
    "MultiLabelAsymmetricLoss": "there is no asymmetric loss here; the nearest is {loss: focal, form: sigmoid}",
    "DistillationGuidedKLDivLoss": "there is no loss that guides a KL divergence by the labels here",
    "DistillationATLoss": "it compares outputs of a feature pyramid, which no model here has",
    "DMLLoss": "reads two outputs, which its arguments do not name; take DistillationDMLLoss",
    "DistanceLoss": "reads two outputs, which its arguments do not name; take DistillationDistanceLoss",
    "KLDivLoss": "reads two outputs, which its arguments do not name; take DistillationKLDivLoss",
    "CCSSLCELoss": "recipes do not train with two views of unlabelled images",
    "SoftSupConLoss": "recipes do not train with two views of unlabelled images",
}
_FOR_RETRIEVAL = (
    *("CenterLoss", "ContrastiveLoss", "ContrastiveLoss_XBM", "EmlLoss", "MSMLoss", "NpairsLoss", "TriHardLoss", "TripletLoss"),
    *("TripletLossV2", "TripletAngularMarginLoss", "TripletAngularMarginLoss_XBM", "SupConLoss", "PairwiseCosface", "DSHSDLoss"),
    *("LCDSHLoss", "DCHLoss", "CELossForMetaBIN", "TripletLossForMetaBIN", "InterDomainShuffleLoss", "IntraDomainScatterLoss"),
)
