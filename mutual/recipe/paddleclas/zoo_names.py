"""find_counterpart: what we call the architecture that PaddleClas calls NAME: ours, or the same one in timm or torchvision.

The parameters of each were compared with those of PaddleClas 2.6: the same number with the same shapes, but for what `difference` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mutual.recipe.errors import did_you_mean
from mutual.recipe.text import format_value


@dataclass(frozen=True)
class Counterpart:
    """What stands for an architecture of theirs.

    Attributes:
        model: its name in a recipe.
        args: arguments of its factory that make it the same, such as the dropout that theirs has by default.
        has_weights: there are weights that `weights: pretrained` finds.
        difference: what of the architecture is not as theirs; empty where nothing is.
        undecayed: module patterns of the parameters that their code takes out of an L2 regularizer.
    """

    model: str
    args: Mapping[str, Any] = field(default_factory=dict)
    has_weights: bool = True
    difference: str = ""
    undecayed: tuple[str, ...] = ()

    @property
    def library(self) -> str:
        """The library that has it, timm or torchvision; empty for models of ours, which have their module paths."""
        family, slash, _ = self.model.partition("/")
        return family if slash and family != "paddleclas" else ""


_PPLCNETS = tuple(f"PPLCNet_x{scale}" for scale in ("0_25", "0_35", "0_5", "0_75", "1_0", "1_5", "2_0", "2_5"))
_RESNETS = (*(f"ResNet{depth}{form}" for depth in (18, 34, 50, 101, 152) for form in ("", "_vd")), "ResNet200_vd")
_MOBILENETS_V3 = tuple(f"MobileNetV3_{size}_x{scale}" for size in ("small", "large") for scale in ("0_35", "0_5", "0_75", "1_0", "1_25"))

_TORCHVISION = {
    "AlexNet": "alexnet",
    **{f"VGG{depth}": f"vgg{depth}" for depth in (11, 13, 16, 19)},
    **{f"SqueezeNet1_{minor}": f"squeezenet1_{minor}" for minor in (0, 1)},
    **{f"ShuffleNetV2_{scale}": f"shufflenet_v2_{scale}" for scale in ("x0_5", "x1_0", "x1_5", "x2_0")},
    **dict.fromkeys(("MobileNetV2", "MobileNetV2_x2_0"), "mobilenet_v2"),
}
_TIMM = {
    "MobileNetV1": "mobilenetv1_100",
    **{
        f"MobileNetV4_{form}": f"mobilenetv4_{form}"
        for form in ("conv_small", "conv_medium", "conv_large", "hybrid_medium", "hybrid_large")
    },
    **{f"FasterNet_{size}": f"fasternet_{size.lower()}" for size in ("T0", "T1", "T2", "S", "M", "L")},
    **{f"StarNet_S{size}": f"starnet_s{size}" for size in (1, 2, 3, 4)},
    "InceptionV3": "inception_v3",
    "InceptionV4": "inception_v4",
    "HRNet_W18_C": "hrnet_w18_ssld",
    "HRNet_W48_C": "hrnet_w48_ssld",
    **{f"HRNet_W{width}_C": f"hrnet_w{width}" for width in (30, 32, 40, 44, 64)},
    **{f"PPHGNet_{size}": f"hgnet_{size}" for size in ("tiny", "small", "base")},
    **{f"PPHGNetV2_B{size}": f"hgnetv2_b{size}" for size in range(7)},
    **{f"PPLCNetV2_{size}": f"lcnetv2_{size}" for size in ("small", "base", "large")},
    "ResNet50_vc": "resnet50c",
    **{f"ResNeXt{form}": f"resnext{form}" for form in ("50_32x4d", "101_32x4d", "101_64x4d")},
    "ResNeXt50_64x4d": "resnext50_32x4d",
    **dict.fromkeys(("ResNeXt152_32x4d", "ResNeXt152_64x4d"), "resnet152"),
    **dict.fromkeys(("ResNeXt50_vd_32x4d", "ResNeXt50_vd_64x4d"), "resnext50d_32x4d"),
    **dict.fromkeys(("ResNeXt101_vd_32x4d", "ResNeXt101_vd_64x4d"), "resnet101d"),
    **dict.fromkeys(("ResNeXt152_vd_32x4d", "ResNeXt152_vd_64x4d"), "resnet152d"),
    **{f"ResNeXt101_{form}_wsl": f"resnext101_{form}" for form in ("32x8d", "32x16d", "32x32d")},
    "ResNeXt101_32x48d_wsl": "resnext101_32x8d",
    **{f"Res2Net50_{form}": f"res2net50_{form}" for form in ("26w_4s", "14w_8s")},
    "Res2Net50_vd_26w_4s": "res2net50d",
    **dict.fromkeys(("Res2Net101_vd_26w_4s", "Res2Net200_vd_26w_4s"), "res2net101d"),
    "SE_ResNet50_vd": "seresnet50",
    "SE_ResNeXt50_32x4d": "seresnext50_32x4d",
    "SE_ResNeXt101_32x4d": "seresnext101_32x4d",
    "SE_ResNeXt50_vd_32x4d": "seresnext50_32x4d",
    "SENet154_vd": "seresnet152",
    **{f"DPN{depth}": f"dpn{depth}" for depth in (68, 92, 98, 107, 131)},
    **{f"DenseNet{depth}": f"densenet{depth}" for depth in (121, 161, 169, 201)},
    "DenseNet264": "densenet121",
    **{f"EfficientNetB{size}": f"tf_efficientnet_b{size}" for size in range(8)},
    "EfficientNetV2_S": "tf_efficientnetv2_s",
    **{f"ResNeSt{depth}": f"resnest{depth}{'d' if depth == 50 else 'e'}" for depth in (50, 101, 200, 269)},
    **{f"GhostNet_x{scale}": f"ghostnet_{scale.replace('_', '')}0" for scale in ("0_5", "1_0", "1_3")},
    **{f"Xception{depth}_deeplab": f"xception{depth}" for depth in (41, 65)},
    "DarkNet53": "darknet53",
    "CSPDarkNet53": "cspdarknet53",
    **{f"RegNetX_{flops}MF": f"regnetx_{flops // 100:03}" for flops in (200, 400, 600, 800, 1600, 3200, 6400)},
    **{f"RegNetX_{flops}GF": f"regnetx_{flops * 10:03}" for flops in (4, 8, 12, 16, 32)},
    **{f"ViT_{form}": f"vit_{form}" for form in ("base_patch16_224", "base_patch16_384", "base_patch32_384")},
    **{f"ViT_{form}": f"vit_{form}" for form in ("large_patch16_224", "large_patch16_384", "large_patch32_384")},
    **{
        f"DeiT_{size}_{kind}patch16_224": f"deit_{size}_{kind}patch16_224"
        for size in ("tiny", "small", "base")
        for kind in ("", "distilled_")
    },
    **{f"DeiT_base_{kind}patch16_384": f"deit_base_{kind}patch16_384" for kind in ("", "distilled_")},
    **{f"SwinTransformer_{size}_patch4_window7_224": f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")},
    **{f"SwinTransformer_{size}_patch4_window12_384": f"swin_{size}_patch4_window12_384" for size in ("base", "large")},
    **{f"SwinTransformerV2_{size}_patch4_window8_256": f"swinv2_{size}_window8_256" for size in ("tiny", "small", "base")},
    **{f"SwinTransformerV2_{size}_patch4_window16_256": f"swinv2_{size}_window16_256" for size in ("tiny", "small", "base")},
    "SwinTransformerV2_large_patch4_window16_256": "swinv2_large_window12to16_192to256",
    **{f"SwinTransformerV2_{size}_patch4_window24_384": f"swinv2_{size}_window12to24_192to384" for size in ("base", "large")},
    **{f"MixNet_{size}": f"mixnet_{size.lower()}" for size in ("S", "M", "L")},
    **{f"ReXNet_{scale}": f"rexnet_{scale.replace('_', '')}0" for scale in ("1_0", "1_3", "1_5", "2_0", "3_0")},
    **{f"pcpvt_{size}": f"twins_pcpvt_{size}" for size in ("small", "base", "large")},
    **{f"alt_gvt_{size}": f"twins_svt_{size}" for size in ("small", "base", "large")},
    **{f"LeViT_{size}": f"levit_{size.lower()}" for size in ("128S", "128", "192", "256", "384")},
    **{f"DLA{form}": f"dla{form}" for form in ("34", "46_c", "46x_c", "60", "60x", "60x_c", "102", "102x", "102x2", "169")},
    "TNT_small": "tnt_s_patch16_224",
    "TNT_base": "tnt_b_patch16_224",
    **{f"PVT_V2_B{size}": f"pvt_v2_b{size}" for size in range(6)},
    "PVT_V2_B2_Linear": "pvt_v2_b2_li",
    **{f"MobileViT_{size}": f"mobilevit_{size.lower()}" for size in ("XXS", "XS", "S")},
    **{
        f"MobileViTV2_x{scale}": f"mobilevitv2_{scale.replace('_', ''):0<3}"
        for scale in ("0_5", "0_75", "1_0", "1_25", "1_5", "1_75", "2_0")
    },
    **{f"RepVGG_{form}": f"repvgg_{form.lower()}" for form in ("A0", "A1", "A2", "B0", "B1", "B2", "B1g4", "B2g4", "B3", "B3g4", "D2se")},
    **{
        f"ConvNeXt_{size}": f"convnext_{size.partition('_')[0]}"
        for size in ("tiny", "small", "base_224", "base_384", "large_224", "large_384")
    },
    **{f"NextViT_{size}_{side}": f"nextvit_{size}" for size in ("small", "base", "large") for side in (224, 384)},
}

_DEEP_STEM = {"stem_type": "deep", "avg_down": True}
_STRUCTURE: dict[str, dict[str, Any]] = {
    "MobileNetV2_x2_0": {"width_mult": 2.0},
    **{f"HRNet_W{width}_C": {"head_conv_bias": False} for width in (30, 32, 40, 44, 64)},
    "ResNeXt50_64x4d": {"cardinality": 64},
    "ResNeXt50_vd_64x4d": {"cardinality": 64},
    **{
        f"ResNeXt{depth}_{groups}x4d": {"cardinality": groups, "base_width": 4}
        for depth in ("152", "101_vd", "152_vd")
        for groups in (32, 64)
    },
    "ResNeXt101_32x48d_wsl": {"base_width": 48},
    "Res2Net200_vd_26w_4s": {"layers": [3, 12, 48, 3]},
    "SE_ResNet50_vd": {"stem_width": 32, **_DEEP_STEM},
    "SE_ResNeXt50_vd_32x4d": {"stem_width": 64, **_DEEP_STEM},
    "SENet154_vd": {"stem_width": 64, "cardinality": 64, "base_width": 4, **_DEEP_STEM},
    "DenseNet264": {"block_config": [6, 12, 64, 48]},
    **{f"LeViT_{size}": {"distilled": False} for size in ("128S", "128", "192", "256", "384")},
}
"""Arguments that change the architecture, so that the library's weights do not fit."""

_DROP, _PATH = "drop_rate", "drop_path_rate"
_DROPOUT: dict[str, dict[str, Any]] = {
    **{f"FasterNet_{size}": {_PATH: rate} for size, rate in (("T0", 0.0), ("T1", 0.02), ("T2", 0.05), ("S", 0.1), ("M", 0.2), ("L", 0.3))},
    **{name: {_DROP: 0.2} for name in ("InceptionV3", "InceptionV4", "PPHGNet_base")},
    **{f"PPLCNetV2_{size}": {_DROP: 0.2} for size in ("small", "base", "large")},
    **{f"GhostNet_x{scale}": {_DROP: 0.2} for scale in ("0_5", "1_0", "1_3")},
    **{f"EfficientNetB{size}": {_DROP: (2 + size // 2) / 10, _PATH: 0.2} for size in range(8)},
    **{name: {"dropout": 0.0} for name in ("MobileNetV2", "MobileNetV2_x2_0")},
    "EfficientNetV2_S": {_DROP: 0.1, _PATH: 0.2},
    **{f"Xception{depth}_deeplab": {_DROP: 0.5} for depth in (41, 65)},
    **{f"SwinTransformer_{size}_patch4_window7_224": {_PATH: rate} for size, rate in (("tiny", 0.2), ("small", 0.3), ("base", 0.5))},
    "SwinTransformer_base_patch4_window12_384": {_PATH: 0.5},
    **{
        f"SwinTransformerV2_{size}_patch4_window{window}_256": {_PATH: rate}
        for size, rate in (("tiny", 0.2), ("small", 0.3), ("base", 0.5))
        for window in (8, 16)
    },
    "SwinTransformerV2_large_patch4_window16_256": {_PATH: 0.2},
    **{f"SwinTransformerV2_{size}_patch4_window24_384": {_PATH: 0.2} for size in ("base", "large")},
    **{f"MobileViT_{size}": {_DROP: 0.1} for size in ("XXS", "XS", "S")},
    **{f"NextViT_{size}_{side}": {_PATH: 0.2} for size in ("base", "large") for side in (224, 384)},
}
"""Dropout and stochastic depth that theirs have by default, and the library's have not."""

_DIFFERENCES = {
    **{f"VGG{depth}": "its convolutions have biases, theirs have none" for depth in (11, 13, 16, 19)},
    **dict.fromkeys(("MobileNetV2", "MobileNetV2_x2_0"), "the first of their blocks has a 1x1 convolution more"),
    **{f"ResNeSt{depth}": "its split attention has biases before BatchNorm, theirs has none" for depth in (50, 101, 200, 269)},
    **{
        f"GhostNet_x{scale}": "two of its gates are some channels wider, and the last layer has no BatchNorm"
        for scale in ("0_5", "1_0", "1_3")
    },
    **{
        f"PPLCNetV2_{size}": "theirs trains several depthwise convolutions side by side, it the one that they become"
        for size in ("small", "base", "large")
    },
    **{f"MobileViT_{size}": "theirs has dropout (0.1) inside its transformers, too" for size in ("XXS", "XS", "S")},
}
_WITHOUT_WEIGHTS = {"GhostNet_x0_5", "GhostNet_x1_3", *_STRUCTURE}
_BATCHNORM = ("*.bn",)
_UNDECAYED = {
    **{name: _BATCHNORM for name in _TIMM if name.startswith("PPHGNet")},
    **{name: ("*bn*", "*norm*") for name in _TIMM if name.startswith("MobileNetV4")},
    "EfficientNetV2_S": ("*bn[1-3]", "classifier.bias"),
    **{
        name: ("*bn1", "*bn_dw", "*.primary_conv.1", "*.cheap_operation.1", "*.shortcut.[13]")
        for name in _TIMM
        if name.startswith("GhostNet")
    },
    **{name: ("*bn[0-3]", "conv1.1", "conv1.4", "*.downsample.2") for name in _TIMM if name.startswith("ResNeSt")},
    **{name: ("*.attention_biases",) for name in _TIMM if name.startswith("LeViT")},
    **{name: ("pos_block",) for name in _TIMM if name.startswith(("pcpvt", "alt_gvt"))},
}

_MISSING = """
MobileNetV1_x0_25 MobileNetV1_x0_5 MobileNetV1_x0_75 MobileNetV2_x0_25 MobileNetV2_x0_5 MobileNetV2_x0_75 MobileNetV2_x1_5 HRNet_W60_C
SE_HRNet_W64_C ESNet_x0_25 ESNet_x0_5 ESNet_x0_75 ESNet_x1_0 SE_ResNet18_vd SE_ResNet34_vd SE_ResNeXt152_64x4d DSNet_tiny DSNet_small
DSNet_base EfficientNetB0_small ResNeSt50_fast_1s1x64d GoogLeNet MobileFaceNet ShuffleNetV2_x0_25 ShuffleNetV2_x0_33 ShuffleNetV2_swish
Xception41 Xception65 Xception71 ViT_small_patch16_224 CSWinTransformer_tiny_224 CSWinTransformer_small_224 CSWinTransformer_base_224
CSWinTransformer_large_224 CSWinTransformer_base_384 CSWinTransformer_large_384 RedNet26 RedNet38 RedNet50 RedNet101 RedNet152 HarDNet68
HarDNet85 HarDNet39_ds HarDNet68_ds RepVGG_B1g2 VAN_B0 VAN_B1 VAN_B2 VAN_B3 PeleeNet CvT_13_224 CvT_13_384 CvT_21_224 CvT_21_384
CvT_W24_384 MicroNet_M0 MicroNet_M1 MicroNet_M2 MicroNet_M3 MobileNeXt_x0_35 MobileNeXt_x0_5 MobileNeXt_x0_75 MobileNeXt_x1_0
MobileNeXt_x1_4 TinyNet_A TinyNet_B TinyNet_C TinyNet_D TinyNet_E MobileViTV3_XXS MobileViTV3_XS MobileViTV3_S MobileViTV3_XXS_L2
MobileViTV3_XS_L2 MobileViTV3_S_L2 MobileViTV3_x0_5 MobileViTV3_x0_75 MobileViTV3_x1_0 SVTR_tiny SVTR_base SVTR_large UniFormer_small
UniFormer_small_plus UniFormer_small_plus_dim64 UniFormer_base UniFormer_base_ls WideResNet PPLCNetBaseNet PPLCNet_x2_5_Tanh
PPLCNetV2_base_ShiTu VGG19Sigmoid ResNet50_last_stage_stride1 ResNet50_adaptive_max_pool2d ResNet50_metabin EfficientNetB3_watermark
CLIP_vit_base_patch32_224 CLIP_vit_base_patch16_224 CLIP_vit_large_patch14_336 CLIP_vit_large_patch14_224 BEiTv2_vit_base_patch16_224
BEiTv2_vit_large_patch16_224 CAE_vit_base_patch16_224 EVA_vit_giant_patch14 MOCOV3_vit_small MOCOV3_vit_base MAE_vit_huge_patch14
MAE_vit_large_patch16 MAE_vit_base_patch16 CLIP_large_patch14_224_aesthetic cae_base_patch16_224 cae_large_patch16_224
"""
_NO_COUNTERPART = frozenset(_MISSING.split())
"""Architectures of theirs that neither timm nor torchvision has."""


def _counterparts() -> dict[str, Counterpart]:
    found = {name: Counterpart(name.replace("PPLCNet", "pplcnet"), undecayed=_BATCHNORM) for name in _PPLCNETS}
    found |= {name: Counterpart(f"paddleclas/{name}") for name in _RESNETS}
    found |= {name: Counterpart(f"paddleclas/{name}", undecayed=_BATCHNORM) for name in _MOBILENETS_V3}
    for library, table in (("torchvision", _TORCHVISION), ("timm", _TIMM)):
        for name, theirs in table.items():
            found[name] = Counterpart(
                f"{library}/{theirs}",
                {**_STRUCTURE.get(name, {}), **_DROPOUT.get(name, {})},
                has_weights=name not in _WITHOUT_WEIGHTS,
                difference=_DIFFERENCES.get(name, ""),
                undecayed=_UNDECAYED.get(name, ()),
            )
    return found


COUNTERPARTS = _counterparts()
"""By PaddleClas' name of an architecture what stands for it."""


def find_counterpart(name: str) -> Counterpart:
    """Returns what stands for the architecture that PaddleClas calls `name`; a name of timm's or torchvision's stands for itself.

    Raises:
        ValueError: nothing does, or they have none of this name; one line says what to do.

    Example:
        >>> find_counterpart("ResNet50_vd").model, find_counterpart("DPN68").model, find_counterpart("timm/dpn68").model
        ('paddleclas/ResNet50_vd', 'timm/dpn68', 'timm/dpn68')
    """
    if name.startswith(("timm/", "torchvision/")):
        return Counterpart(name)
    if name in COUNTERPARTS:
        return COUNTERPARTS[name]
    if name in _NO_COUNTERPART:
        another = f"name another one of theirs or a `timm/NAME` in its place{did_you_mean(name, COUNTERPARTS)}"
        raise ValueError(f"{format_value(name)} of PaddleClas is neither in timm nor in torchvision; {another}")
    raise ValueError(f"{format_value(name)} is no architecture of PaddleClas' zoo{did_you_mean(name, COUNTERPARTS)}")
