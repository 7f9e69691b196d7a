"""What a list of PaddleClas' losses adds up to, in plain torch from its documentation and the papers, for tests to compare with.

Outputs are by model and by the name that a config gives them. What their operators give no gradient (labels, the target of a KL
divergence) is detached. Trained parts are handed in: they are initialised anew in each training.
"""

import torch
import torch.nn.functional as F


def total(losses, outputs, labels, adapters=()):
    """The value whose gradient their training follows: values by name, and of the list's only loss the first value, without its weight."""
    values = {}
    for entry in losses:
        ((name, arguments),) = entry.items()
        arguments = dict(arguments)
        weight = arguments.pop("weight")
        given = LOSSES[name](outputs, labels, adapters, **arguments)
        if len(losses) == 1:
            return next(iter(given.values()))
        values.update({key: weight * value for key, value in given.items()})
    return sum(values.values())


def out(outputs, model, key):
    return outputs[model]["logits" if key is None else key]


def per_pair(base, label):
    """A loss of two outputs, applied to pairs of models; `label` names a value, by which two may be one."""

    def loss(outputs, labels, adapters, *, model_name_pairs, key=None, name=None, **arguments):
        values = {}
        for index, (a, b) in enumerate(model_name_pairs):
            value = base(out(outputs, a, key), out(outputs, b, key), labels, **arguments)
            values[label.format(a=a, b=b, index=index, name=name, mode=arguments.get("mode", "l2"))] = value
        return values

    return loss


def smoothed(labels, num_classes, epsilon):
    """Of class indices, or of the probabilities of mixed images."""
    probs = labels if labels.is_floating_point() else F.one_hot(labels, num_classes)
    return probs * (1 - epsilon) + epsilon / num_classes


def ground_truth(logits, labels, *, epsilon=None):
    if epsilon is None or not 0 < epsilon < 1:
        return F.cross_entropy(logits, labels)
    return -(smoothed(labels, logits.shape[-1], epsilon) * logits.log_softmax(-1)).sum(-1).mean()


def several_labels(logits, flags, *, size_sum=False, weight_ratio=None):
    """`weight_ratio` is what theirs reads beside the flags: the fraction of the images that have each class."""
    losses = F.binary_cross_entropy_with_logits(logits, flags, reduction="none")
    if weight_ratio is not None:
        losses = losses * (flags * (1 - weight_ratio) + (1 - flags) * weight_ratio).exp()
    return losses.sum(1).mean() if size_sum else losses.mean()


def jeffreys(x, y, labels, *, act="softmax", sum_across_class_dim=False):
    p, q = (each.softmax(-1) if act == "softmax" else each.sigmoid() for each in (x, y))
    elements = x.shape[-1] * (p * (p / q).log() + q * (q / p).log()) / 2
    return elements.sum(1).mean() if sum_across_class_dim else elements.mean()


def distance(x, y, labels, *, mode="l2", delta=1.0):
    if mode == "smooth_l1":
        return F.huber_loss(x, y, delta=delta)
    return (x - y).abs().mean() if mode == "l1" else (x - y).square().mean()


def soft_cross_entropy(x, y, labels):
    return -(y.detach().softmax(-1) * x.log_softmax(-1)).sum(-1).mean()


def kl(x, y, labels, *, temperature=4):
    return F.kl_div((x / temperature).log_softmax(1), (y.detach() / temperature).softmax(1), reduction="sum") * temperature**2 / len(x)


def decoupled(x, y, labels, *, temperature=1.0, alpha=1.0, beta=1.0):
    is_label = F.one_hot(labels, x.shape[1]).bool()
    probs, target = ((each / temperature).softmax(1) for each in (x, y.detach()))
    p, q = (torch.stack([each[is_label], 1 - each[is_label]], dim=1) for each in (probs, target))
    others, target_others = (each[~is_label].view(len(x), -1) / temperature for each in (x, y.detach()))
    within = (target_others.softmax(1) * (target_others.log_softmax(1) - others.log_softmax(1))).sum(1)
    return temperature**2 * (alpha * (q * (q / p).log()).sum(1) + beta * within).mean()


def weighted(x, y, labels, *, temperature=2.0):
    ours, theirs = (F.cross_entropy(each.detach(), labels, reduction="none") for each in (x, y))
    soft = -((y / temperature).softmax(1) * (x / temperature).log_softmax(1)).sum(1)
    return temperature**2 * ((1 - (-ours / (theirs + 1e-7)).exp()) * soft).mean()


def spherical(x, y, labels, *, temperature=1.0, multiplier=2.0, alpha=0.9):
    x, y = (F.layer_norm(each, each.shape[1:], eps=1e-7) * multiplier for each in (x, y))
    soft = -((y / temperature).softmax(1) * (x / temperature).log_softmax(1)).sum(1).mean() * temperature**2
    return alpha * soft + (1 - alpha) * F.cross_entropy(x, labels)


def correlated(x, y, labels, *, beta=1.0, gamma=1.0):
    def correlation(a, b):
        a, b = (each - each.mean(1, keepdim=True) for each in (a, b))
        return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()

    p, q = x.softmax(-1), y.softmax(-1)
    return beta * (1 - correlation(p, q)) + gamma * (1 - correlation(p.T, q.T))


def angles(x, y):
    def cosines(rows):
        directions = F.normalize(rows.flatten(1)[None] - rows.flatten(1)[:, None], dim=2)
        return directions @ directions.transpose(1, 2)

    return F.smooth_l1_loss(cosines(x), cosines(y))


def distances(x, y):
    def relative(rows):
        rows = rows.flatten(1)
        squares = rows.square().sum(1)
        lengths = (squares[:, None] + squares[None] - 2 * rows @ rows.T).clamp(min=1e-12).sqrt()
        return lengths / lengths.mean()

    return F.smooth_l1_loss(relative(x), relative(y))


def relations(outputs, labels, adapters, *, model_name_pairs, student_keepkeys, teacher_keepkeys):
    values = {}
    for a, b in model_name_pairs:
        for index, keys in enumerate(zip(student_keepkeys, teacher_keepkeys, strict=True)):
            ends = outputs[a][keys[0]], outputs[b][keys[1]]
            values |= {f"angle_{index}_{a}_{b}": angles(*ends), f"dist_{index}_{a}_{b}": distances(*ends)}
    return values


def generated(student, teacher, adapter, *, alpha_mgd=1.756, lambda_mgd=0.15, **_):
    kept = (torch.rand(*teacher.shape[:2], 1, 1) >= lambda_mgd).to(student.dtype)
    return alpha_mgd * F.mse_loss(adapter.generation(adapter.align(student) * kept), teacher)


def projected(student, teacher, adapter, **_):
    vector = student.flatten(1)
    projection = sum(F.relu(layer(vector)) for layer in adapter.projectors) / len(adapter.projectors)
    return (1 - F.cosine_similarity(projection, teacher.flatten(1))).mean()


def attention_maps(student, teacher, adapter, *, p=2):
    pairs = [[F.normalize(maps.pow(p).mean(1).flatten(1)) for maps in pair] for pair in zip(student, teacher, strict=True)]
    return sum((a - b.detach()).square().mean() for a, b in pairs)


def chosen(outputs, labels, adapters, *, base_loss_name, model_name_pairs, s_key, t_key, name="loss", **arguments):
    bases = {"MGDLoss": generated, "PEFDLoss": projected, "ATLoss": attention_maps}
    adapter = next(iter(adapters), None)

    def read(model, keys):
        return outputs[model][keys] if isinstance(keys, str) else [outputs[model][key] for key in keys]

    return {
        f"{name}_{index}_{a}_{b}": bases[base_loss_name](read(a, s_key), read(b, t_key), adapter, **arguments)
        for index, (a, b) in enumerate(model_name_pairs)
    }


def labelled(base, label):
    def loss(outputs, labels, adapters, *, model_names=None, key=None, name=None, **arguments):
        names = model_names or list(outputs)
        return {f"{label}_{each}" if model_names else label: base(out(outputs, each, key), labels, **arguments) for each in names}

    return loss


LOSSES = {
    "CELoss": labelled(ground_truth, "CELoss"),
    "MixCELoss": labelled(ground_truth, "CELoss"),
    "SoftTargetCrossEntropy": labelled(ground_truth, "SoftTargetCELoss"),
    "DistillationGTCELoss": labelled(ground_truth, "CELoss"),
    "MultiLabelLoss": labelled(several_labels, "MultiLabelLoss"),
    "DistillationMultiLabelLoss": labelled(several_labels, "MultiLabelLoss"),
    "DistillationCELoss": per_pair(soft_cross_entropy, "CELoss_{a}_{b}"),
    "DistillationDMLLoss": per_pair(jeffreys, "DMLLoss_{a}_{b}_{index}"),
    "DistillationDistanceLoss": per_pair(distance, "{name}{mode}_{index}"),
    "DistillationKLDivLoss": per_pair(kl, "loss_kldiv_{a}_{b}"),
    "DistillationDKDLoss": per_pair(decoupled, "{name}dkd_{a}_{b}"),
    "DistillationWSLLoss": per_pair(weighted, "{name}wsl_{a}_{b}"),
    "DistillationSKDLoss": per_pair(spherical, "{name}skd_{a}_{b}"),
    "DistillationDISTLoss": per_pair(correlated, "{name}dist_{a}_{b}"),
    "DistillationRKDLoss": relations,
    "DistillationPairLoss": chosen,
}
