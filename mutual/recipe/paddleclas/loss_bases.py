"""BASES: what the losses of theirs between two outputs compute, and by which loss of ours with which arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mutual.recipe.paddleclas.loss_peers import LossPeers
from mutual.recipe.paddleclas.section import Section


@dataclass(frozen=True)
class Base:
    """A loss of theirs between two outputs, its arguments taken.

    Attributes:
        loss: ours.
        value: what theirs calls its value; empty where it gives it without a name.
        arguments: of ours.
        factor: what ours is multiplied by to be theirs.
        is_symmetric: exchanging the outputs changes nothing, and the gradient flows into both.
        has_leak: the gradient flows into both, and that for the second output is of no loss here; else it flows into the first alone.
        takes_lists: it takes lists of outputs, over which it is summed.
    """

    loss: str
    value: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    factor: float = 1.0
    is_symmetric: bool = False
    has_leak: bool = False
    takes_lists: bool = False


def _soft_cross_entropy(section: Section, peers: LossPeers) -> Base | None:
    """CELoss with the second model's logits as labels: its softmax, detached as labels are."""
    if 0 < section.number("epsilon", 0.0) < 1:
        section.leave_out_all("with epsilon their code takes the teacher's logits, without a softmax, for its probabilities")
        return None
    return Base("soft_label", "CELoss", {"temperature": 1.0})


def _mutual(section: Section, peers: LossPeers) -> Base | None:
    """DMLLoss: half the Jeffreys divergence, the mean over the images; with `sum_across_class_dim` once more times the classes."""
    act = section.text("act", "softmax")
    if act not in ("softmax", "sigmoid"):
        raise section.error("act", f"{act!r} is neither softmax nor sigmoid")
    factor = float(peers.num_classes) if section.flag("sum_across_class_dim") else 1.0
    if factor > 1:
        section.remark(f"their sum over the classes is {factor:.0f} times the divergence", "sum_across_class_dim")
    if section.flag("weight_ratio"):
        section.warn("true: the divergence of a class is not weighted by how many images have it", "weight_ratio")
    form = "sigmoid_present" if act == "sigmoid" else "softmax" if peers.has_several_labels else "js"
    return Base("dml", "DMLLoss", {"form": form}, factor, is_symmetric=True)


def _distance(section: Section, peers: LossPeers) -> Base | None:
    mode = section.text("mode", "l2")
    if mode not in ("l1", "l2", "smooth_l1"):
        raise section.error("mode", f"{mode!r} is none of l1, l2 and smooth_l1")
    if "act" in section:
        section.leave_out_all("outputs are compared as they are here, without a softmax or a sigmoid before")
        return None
    if section.text("reduction", "mean") != "mean":
        section.leave_out_all("distances are means over all elements here; there is no other reduction")
        return None
    # Huber's distance, as Paddle's smooth L1 is, is delta times ours
    delta = float(section.number("delta", 1.0)) if mode == "smooth_l1" else 1.0
    return Base(mode, f"loss_{mode}", {"beta": delta} if mode == "smooth_l1" else {}, delta, is_symmetric=True)


def _kl_divergence(section: Section, peers: LossPeers) -> Base | None:
    return Base("kd", "loss_kldiv", {"temperature": float(section.number("temperature", 4.0))})


def _decoupled(section: Section, peers: LossPeers) -> Base | None:
    _name_target_as_label(section)
    return Base("dkd", arguments=_numbers(section, temperature=1.0, alpha=1.0, beta=1.0))


def _weighted(section: Section, peers: LossPeers) -> Base | None:
    _name_target_as_label(section)
    return Base("wsl", arguments=_numbers(section, temperature=2.0), has_leak=True)


def _spherical(section: Section, peers: LossPeers) -> Base | None:
    _name_target_as_label(section)
    return Base("skd", arguments=_numbers(section, temperature=1.0, multiplier=2.0, alpha=0.9), has_leak=True)


def _correlated(section: Section, peers: LossPeers) -> Base | None:
    return Base("dist", arguments=_numbers(section, beta=1.0, gamma=1.0), is_symmetric=True)


def _generated(section: Section, peers: LossPeers) -> Base | None:
    """MGDLoss: the widths are found when the group is built."""
    section.pass_over("student_channels", "teacher_channels")
    return Base("mgd", arguments=_numbers(section, alpha_mgd=1.756, lambda_mgd=0.15), has_leak=True)


def _projected(section: Section, peers: LossPeers) -> Base | None:
    """PEFDLoss; ours averages feature maps over their positions, which an average pool has done already."""
    section.pass_over("student_channel", "teacher_channel")
    section.remark("projectors read the mean over a feature map's positions, which that of an avg_pool is already")
    return Base("pefd", arguments={"num_projectors": int(section.number("num_projectors", 3))}, has_leak=True)


def _attention_maps(section: Section, peers: LossPeers) -> Base | None:
    return Base("at", "loss_at", {"power": float(section.number("p", 2.0))}, takes_lists=True)


def _angles(section: Section, peers: LossPeers) -> Base | None:
    take_target_size(section)
    return Base("rkd_angle", is_symmetric=True)


def _distances(section: Section, peers: LossPeers) -> Base | None:
    section.take("eps")
    take_target_size(section, 1)
    return Base("rkd_distance", is_symmetric=True)


BASES: dict[str, Callable[[Section, LossPeers], Base | None]] = {
    "CELoss": _soft_cross_entropy,
    "DMLLoss": _mutual,
    "DistanceLoss": _distance,
    "KLDivLoss": _kl_divergence,
    "DKDLoss": _decoupled,
    "WSLLoss": _weighted,
    "SKDLoss": _spherical,
    "DISTLoss": _correlated,
    "MGDLoss": _generated,
    "PEFDLoss": _projected,
    "ATLoss": _attention_maps,
    "RKdAngle": _angles,
    "RkdDistance": _distances,
}
"""By the name of a loss of theirs what takes its arguments, and is told the models; None where it has been left out."""


def take_target_size(section: Section, default: int | None = None) -> None:
    """Takes the size to which losses of relations of theirs average feature maps, and names it where there is one."""
    if (size := section.take("target_size", default)) is not None:
        section.warn(f"{size}: feature maps are compared as they are; their code averages them to this size first", "target_size")


def _numbers(section: Section, **defaults: float) -> dict[str, Any]:
    return {name: float(section.number(name, default)) for name, default in defaults.items()}


def _name_target_as_label(section: Section) -> None:
    if section.flag("use_target_as_gt"):
        section.warn("true: the labels are taken; their code takes the class that the teacher predicts for the label", "use_target_as_gt")
