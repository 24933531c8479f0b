"""Image classifiers of the timm library, by name and as it builds them; most are given small images.

timm imports torchvision, which breaks beside a CPU build of torch and breaks transformers. Install it where
only this sweep sees it (`pip install --no-deps --target DIR torchvision`, `PYTHONPATH=DIR`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from architectures.case import Architecture

_COMPILED = "torchvision._meta_registrations"
_ANY_SIZE = """
    convmixer_768_32 convnext_atto convnextv2_atto cspresnet50 darknet17 densenet121 dla46_c dpn48b
    efficientnet_b0 ese_vovnet19b_slim_dw fasternet_t0 fbnetc_100 gernet_s ghostnet_050 hardcorenas_a
    hgnetv2_b0 hrnet_w18_small inception_next_atto lcnet_050 mnasnet_050 mobilenetv3_small_050 mobileone_s0
    nf_regnet_b0 rdnet_tiny regnetx_002 regnety_002 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s
    resnest14d resnet18 resnext26ts rexnet_100 selecsls42b seresnext26d_32x4d skresnet18 starnet_s1 tinynet_e
    tresnet_m vgg11_bn xception41 davit_tiny edgenext_xx_small efficientvit_b0 fastvit_t8 focalnet_tiny_srf
    mobilevit_xxs mobilevitv2_050 poolformerv2_s12 pvt_v2_b0 xcit_nano_12_p16_224
"""
"""Built for any size of images: given 64 x 64."""
_UNSEEN = """
    resnetv2_18 wide_resnet50_2 seresnet18 ecaresnet26t efficientnet_lite0 mixnet_s spnasnet_100 cs3darknet_s
    ghostnetv2_100 mobilenetv4_conv_small lambda_resnet26t eca_nfnet_l0 hgnet_tiny mambaout_femto
    shvit_s1 caformer_s18 convformer_s18
"""
"""The same, chosen when the rules were finished."""
_UNSEEN_BLOCKS = "bat_resnext26ts halonet26t botnet26t_256"
"""Chosen likewise, with blocks of a fixed size: given 256 x 256."""
_TOLD = """
    cait_xxs24_224 convit_tiny deit3_small_patch16_224 gmlp_ti16_224 mixer_s32_224 resmlp_12_224
    tnt_s_legacy_patch16_224 vit_tiny_patch16_224
"""
"""Told to take 64 x 64."""
_FIXED = """
    coat_lite_tiny coatnet_nano_rw_224 crossvit_9_240 efficientformer_l1 gcvit_xxtiny levit_128s mvitv2_tiny
    nest_tiny pit_ti_224 sequencer2d_s swin_s3_tiny_224 swinv2_cr_tiny_ns_224 tiny_vit_5m_224 twins_svt_small
    visformer_tiny volo_d1_224
"""
"""Built for 224 x 224."""


def images(size: int) -> Callable[[], Tensor]:
    """float [2, 3, size, size]."""
    return lambda: torch.randn(2, 3, size, size)


def classifier(name: str, family: str, size: int, **more: Any) -> Architecture:
    """A network by its name in the library, with random weights and five classes."""

    def build() -> nn.Module:
        sys.modules.setdefault(_COMPILED, ModuleType(_COMPILED))  # not used, and does not load
        import timm

        model: nn.Module = timm.create_model(name, num_classes=5, **more)
        return model

    return Architecture(family, build, images(size))


TIMM: dict[str, Architecture] = {
    **{f"timm-{name}": classifier(name, "timm", 64) for name in _ANY_SIZE.split()},
    **{f"timm-{name}": classifier(name, "timm", 64, img_size=64) for name in _TOLD.split()},
    "timm-eva02_tiny": classifier("eva02_tiny_patch14_224", "timm", 56, img_size=56),
    "timm-beit": classifier(
        "beit_base_patch16_224", "timm", 64, img_size=64, depth=4, embed_dim=96, num_heads=6
    ),
    **{f"timm-{name}": classifier(name, "timm", 240 if "240" in name else 224) for name in _FIXED.split()},
    **{f"timm-{name}": classifier(name, "timm, unseen", 64) for name in _UNSEEN.split()},
    **{f"timm-{name}": classifier(name, "timm, unseen", 256) for name in _UNSEEN_BLOCKS.split()},
}
