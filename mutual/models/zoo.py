"""create_model: a classifier by its name, ours, torchvision's, timm's or the user's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from mutual.models.classifier import STAND_IN_CLASSES, remove_classifier
from mutual.models.factories import Factory, build
from mutual.models.loading import load_weights
from mutual.models.one import One
from mutual.models.paddleclas.mobilenet_v3 import MOBILENETS_V3
from mutual.models.paddleclas.published import NUM_CLASSES, fetch, imagenet_classes, published_name
from mutual.models.paddleclas.resnet import RESNETS
from mutual.models.pplcnet import PPLCNETS
from mutual.models.small_cnn import SmallCNN
from mutual.models.tutorials import TUTORIAL_MODELS
from mutual.recipe import PRETRAINED, did_you_mean, first_line, import_users, names_parameter, program_file

_TABLES: tuple[Mapping[str, Factory], ...] = (
    PPLCNETS,
    {"small_cnn": SmallCNN, "one": One},
    TUTORIAL_MODELS,
    RESNETS,
    MOBILENETS_V3,
)
MODELS: dict[str, Factory] = {name: factory for table in _TABLES for name, factory in table.items()}
assert len(MODELS) == sum(map(len, _TABLES)), "two models have one name"
_AUXILIARY_HEADS = ("googlenet", "inception_v3")  # in training mode they would answer with a tuple


def create_model(name: str, /, *, num_classes: int | None, in_channels: int = 3, weights: str | None = None, **args: Any) -> nn.Module:
    """Returns the model called `name`: images `[B, in_channels, H, W]` to logits `[B, num_classes]`, or to its embedding `[B, D]`.

    Args:
        name: `pplcnet_x1_0` (ours), `paddleclas/ResNet50_vd`, `torchvision/resnet18`, `timm/convnext_tiny` or `package.module:factory`,
            which is called as `factory(num_classes=.., in_channels=.., **args)`. That runs its code: the name must be the user's own word,
            never a file's.
            Or `program:FILE.pt2`, which `torch.export.save` wrote; the other arguments say nothing then.
        num_classes: C; None keeps the classifier of the zoo's own weights. With 0 the model has no classifier: timm builds it so, of
            torchvision's and ours the classifier is replaced by the identity, and a factory of the user's is called with 0, or without
            `num_classes` if its signature does not name it.
        in_channels: 1 grey, 3 colour.
        weights: None for initial weights, `pretrained` for the zoo's own where it has some, or the path of a weights file.
        args: further arguments of the model's factory. With `use_ssld`, a model of PaddleClas' takes the weights that it has distilled
            where it takes pretrained ones.

    Raises:
        ValueError: no such model, an argument that it does not take, or weights that do not fit; one line says which.
    """
    pretrained = weights == PRETRAINED
    assert pretrained or num_classes is not None, "only weights of the zoo bring a classifier"
    family, _, rest = name.partition("/")
    if (program := program_file(name)) is not None:
        if weights is not None:
            raise ValueError(f"{name} holds its weights")
        from mutual.models.program import load_program  # torch.export takes long to import

        return load_program(program)
    if family in ("torchvision", "timm") and "pretrained" in args:
        raise ValueError(f"{name} takes no argument 'pretrained' here; write `weights: pretrained` beside the model, and not in its args")
    if family == "torchvision" and rest:
        model = _from_torchvision(rest, num_classes=num_classes, in_channels=in_channels, pretrained=pretrained, **args)
    elif family == "timm" and rest:
        model = _from_timm(rest, num_classes=num_classes, in_channels=in_channels, pretrained=pretrained, **args)
    elif name in MODELS and published_name(name) is not None:
        model = _from_paddleclas(name, num_classes=num_classes, in_channels=in_channels, pretrained=pretrained, **args)
    else:
        factory = import_users(name, kind="factory") if ":" in name else _ours(name)
        if pretrained:
            raise ValueError(f"{name} has no pretrained weights; give the path of a weights file")
        model = _from_factory(name, factory, num_classes=num_classes, in_channels=in_channels, **args)
    if weights is not None and not pretrained:
        load_weights(model, weights, dropped=partial(classifier_tensors, name, model, num_classes, in_channels=in_channels, **args))
    return _without_inplace(model)


def pretrained_classes(name: str) -> list[tuple[str, ...]] | None:
    """Returns for each output of the zoo's own weights of a model the names of its class, which mean the same; None: not recorded."""
    if published_name(name) is not None:
        return [(category,) for category in imagenet_classes()]
    family, _, rest = name.partition("/")
    if family == "torchvision":
        import torchvision.models

        categories = torchvision.models.get_model_weights(rest).DEFAULT.meta["categories"]
        return [(category,) for category in categories]
    import timm
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config = timm.get_pretrained_cfg(rest)
    subset = None if config is None else infer_imagenet_subset(config.to_dict())
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return [(synset, *info.label_name_to_description(synset).split(", ")) for synset in info.label_names()]


def classifier_tensors(name: str, model: nn.Module, num_classes: int | None, /, **args: Any) -> frozenset[str]:
    """Returns the names of the tensors of the classifier that `model` was built without; none where it has one.

    They are those that the same model of two classes has beyond it.
    """
    if num_classes != 0:
        return frozenset()
    try:
        with_classifier = create_model(name, **{**args, "num_classes": 2})
    except ValueError:  # a factory of a user's that knows no classes
        return frozenset()
    return frozenset(with_classifier.state_dict().keys() - model.state_dict().keys())


def is_in_zoo(name: str) -> bool:
    """Returns True where `name` is a model of ours, of torchvision's or of timm's own: code that is installed, whoever names it."""
    family, _, rest = name.partition("/")
    return name in MODELS or (family == "torchvision" and rest in _torchvision_names()) or (family == "timm" and _is_timm(rest))


def _is_timm(name: str) -> bool:
    """Returns True for a name of timm's registry; `hf-hub:...` and `local-dir:...` load what stands elsewhere."""
    import timm

    return all(character.isalnum() or character in "_.-" for character in name) and timm.is_model(name)


def _ours(name: str) -> Factory:
    if name in MODELS:
        return MODELS[name]
    known = [*MODELS, *(f"torchvision/{each}" for each in _torchvision_names()), *(f"timm/{each}" for each in _timm_names())]
    raise ValueError(f"{name!r} is no model{did_you_mean(name, MODELS if name.startswith('pplc') else known)}")


def _from_factory(name: str, factory: Factory, /, *, num_classes: int | None, **arguments: Any) -> nn.Module:
    if num_classes or (":" in name and names_parameter(factory, "num_classes")):
        return build(name, factory, num_classes=num_classes, **arguments)
    if ":" in name:
        return build(name, factory, **arguments)
    return remove_classifier(name, build(name, factory, num_classes=STAND_IN_CLASSES, **arguments))


def _from_timm(name: str, /, *, num_classes: int | None, in_channels: int, pretrained: bool, **args: Any) -> nn.Module:
    if not _is_timm(name):
        near = did_you_mean(name, _timm_names())
        raise ValueError(f"'timm/{name}' is no model of timm{near}")

    classifier = {} if num_classes is None else {"num_classes": num_classes}
    arguments = {**classifier, "in_chans": in_channels, **args}
    initial = partial(_timm_model, name, False)
    if not pretrained:
        return build(f"timm/{name}", initial, **arguments)
    try:
        return build(f"timm/{name}", partial(_timm_model, name, True), **arguments)
    except ValueError as error:
        build(f"timm/{name}", initial, **arguments)  # raises where the arguments are wrong, and not the network
        raise _unfetched(f"timm/{name}", error.__cause__ or error) from error


def _timm_model(name: str, pretrained: bool, /, **arguments: Any) -> nn.Module:
    import timm

    with _socket_timeout():
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    return model


def _from_torchvision(name: str, /, *, num_classes: int | None, in_channels: int, pretrained: bool, **args: Any) -> nn.Module:
    if name not in _torchvision_names():
        raise ValueError(f"'torchvision/{name}' is no classifier of torchvision{did_you_mean(name, _torchvision_names())}")
    if name in _AUXILIARY_HEADS:
        args = {"aux_logits": False, "init_weights": True, **args}
    import torchvision.models

    factory = torchvision.models.get_model_builder(name)
    if num_classes is not None:
        args = {"num_classes": num_classes or STAND_IN_CLASSES, **args}
    model = build(f"torchvision/{name}", factory, **args)
    if pretrained:
        state = _torchvision_weights(name)
        fitting = {key: value for key, value in state.items() if key in model.state_dict() and model.state_dict()[key].shape == value.shape}
        model.load_state_dict(fitting, strict=False)
    if in_channels != 3:
        _adapt_first_convolution(f"torchvision/{name}", model, in_channels)
    return model if num_classes else remove_classifier(f"torchvision/{name}", model)


def _from_paddleclas(
    name: str, /, *, num_classes: int | None, in_channels: int, pretrained: bool, use_ssld: bool = False, **args: Any
) -> nn.Module:
    if not isinstance(use_ssld, bool):
        raise ValueError(f"{name}: use_ssld {use_ssld!r} is neither true nor false")
    factory = MODELS[name]
    if not pretrained:
        return _from_factory(name, factory, num_classes=num_classes, in_channels=in_channels, **args)
    model = build(name, factory, num_classes=num_classes or NUM_CLASSES, **args)
    published = published_name(name)
    assert published is not None, name
    try:
        with _socket_timeout():
            path = fetch(published, ssld=use_ssld)
    except Exception as error:  # what a download may raise: of urllib, http, ssl, the disk
        raise _unfetched(name, error) from error
    load_weights(model, path, head="keep" if num_classes in (None, 0, NUM_CLASSES) else "new")
    if in_channels != 3:
        _adapt_first_convolution(name, model, in_channels)
    return remove_classifier(name, model) if num_classes == 0 else model


def _torchvision_weights(name: str) -> dict[str, torch.Tensor]:
    import torchvision.models

    try:
        with _socket_timeout():
            state: dict[str, torch.Tensor] = torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(
                progress=False, check_hash=True
            )
    except Exception as error:  # what a download may raise: of urllib, http, ssl, zip, hashes, the disk
        raise _unfetched(f"torchvision/{name}", error) from error
    return state


def _unfetched(name: str, error: BaseException) -> ValueError:
    return ValueError(
        f"the pretrained weights of {name} cannot be fetched ({type(error).__name__}: {first_line(error)}); run once where there is a "
        "network, or give a file: `weights: FILE`"
    )


@contextmanager
def _socket_timeout(seconds: float = 60.0) -> Iterator[None]:
    """Context in which a connection that sends nothing for `seconds` fails; by default torchvision waits for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before or seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _torchvision_names() -> list[str]:
    import torchvision.models  # like timm it takes seconds to import: only who names such a model waits for it

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _timm_names() -> list[str]:
    import timm

    names: list[str] = timm.list_models()
    return names


def _adapt_first_convolution(name: str, model: nn.Module, in_channels: int) -> None:
    """Gives the first convolution `in_channels` inputs; its weights are the mean over the old inputs, scaled to keep the output's size."""
    path, old = next(((path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d)), ("", None))
    if old is None or old.in_channels != 3:
        raise ValueError(f"{name} takes 3 channels only; set data.channels: 3")
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.sum(dim=1, keepdim=True).expand_as(new.weight) / in_channels)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def _without_inplace(model: nn.Module) -> nn.Module:
    """Turns in-place activations off: they would overwrite the outputs that taps keep."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return model
