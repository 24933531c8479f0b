"""Vision: classification, dense prediction, detection, video."""

from __future__ import annotations

from functools import partial

import torch

from architectures.case import SIGHT, Architecture, pixels, pretrained

_image = partial(pretrained, "vision")
_dense = partial(pretrained, "segmentation and depth")
_boxes = partial(pretrained, "detection")
_video = partial(pretrained, "video")
_RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}
_BACKBONE = {**_RESNET, "model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]}
_DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 6,
    "num_labels": 5,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": _BACKBONE,
}

VISION: dict[str, Architecture] = {
    "vit": _image("ViTForImageClassification", pixels(), SIGHT),
    "deit": _image("DeiTForImageClassification", pixels(), SIGHT),
    "beit": _image("BeitForImageClassification", pixels(), SIGHT, use_relative_position_bias=True),
    "dinov2": _image("Dinov2ForImageClassification", pixels(), SIGHT, mlp_ratio=2),
    "dinov2-swiglu": _image(
        "Dinov2ForImageClassification", pixels(), SIGHT, mlp_ratio=2, use_swiglu_ffn=True
    ),
    "dinov3": _image("DINOv3ViTModel", pixels(), SIGHT),
    "vit-mae": _image("ViTMAEModel", pixels(), SIGHT, mask_ratio=0.0),
    "convnext": _image(
        "ConvNextForImageClassification",
        pixels(),
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "num_labels": 5},
    ),
    "convnextv2": _image(
        "ConvNextV2ForImageClassification",
        pixels(),
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "num_labels": 5},
    ),
    "resnet": _image("ResNetForImageClassification", pixels(), _RESNET, num_labels=5),
    "regnet": _image("RegNetForImageClassification", pixels(), _RESNET, groups_width=8, num_labels=5),
    "mobilenet-v1": _image("MobileNetV1ForImageClassification", pixels(), {"depth_multiplier": 0.25}),
    "mobilenet-v2": _image(
        "MobileNetV2ForImageClassification", pixels(), {"depth_multiplier": 0.35, "num_labels": 5}
    ),
    "efficientnet": _image(
        "EfficientNetForImageClassification",
        pixels(),
        {
            "image_size": 32,
            "width_coefficient": 0.5,
            "depth_coefficient": 0.3,
            "hidden_dim": 640,
            "num_labels": 5,
        },
    ),
    "bit": _image(
        "BitForImageClassification",
        pixels(64),
        {"hidden_sizes": [32, 64, 64, 64], "depths": [1, 1, 1, 1], "embedding_size": 32, "num_groups": 8},
    ),
    "swin": _image(
        "SwinForImageClassification",
        pixels(),
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 32,
            "depths": [2, 2],
            "num_heads": [4, 8],
            "window_size": 4,
        },
    ),
    "swinv2": _image(
        "Swinv2ForImageClassification",
        pixels(),
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 32,
            "depths": [2, 2],
            "num_heads": [4, 8],
            "window_size": 4,
        },
    ),
    "pvt": _image(
        "PvtForImageClassification",
        pixels(64),
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 32, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [2, 4, 4, 8],
            "mlp_ratios": [4, 4, 2, 2],
        },
    ),
    "pvt-v2": _image(
        "PvtV2ForImageClassification",
        pixels(64),
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 32, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [2, 4, 4, 8],
            "mlp_ratios": [4, 4, 2, 2],
        },
    ),
    "cvt": _image(
        "CvtForImageClassification",
        pixels(64),
        {
            "embed_dim": [16, 32, 64],
            "num_heads": [2, 4, 8],
            "depth": [1, 2, 3],
            "num_labels": 5,
        },
    ),
    "levit": _image(
        "LevitForImageClassification",
        pixels(64),
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [4, 6, 8],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "mlp_ratio": [2, 2, 2],
            "num_labels": 5,
        },
    ),
    "mobilevit": _image(
        "MobileViTForImageClassification",
        pixels(64),
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96],
            "num_attention_heads": 4,
            "num_labels": 5,
        },
    ),
    "mobilevitv2": _image(
        "MobileViTV2ForImageClassification",
        pixels(64),
        {"image_size": 64, "width_multiplier": 0.25, "num_labels": 5},
    ),
    "poolformer": _image(
        "PoolFormerForImageClassification",
        pixels(64),
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_labels": 5},
    ),
    "focalnet": _image(
        "FocalNetForImageClassification",
        pixels(),
        {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [1, 1], "num_labels": 5},
    ),
    "swiftformer": _image(
        "SwiftFormerForImageClassification",
        pixels(64),
        {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [16, 32, 48, 64], "num_labels": 5},
    ),
    "hiera": _image(
        "HieraForImageClassification",
        pixels(64),
        {
            "image_size": [64, 64],
            "embed_dim": 32,
            "depths": [1, 1, 2, 1],
            "num_heads": [2, 4, 4, 8],
            "num_labels": 5,
        },
    ),
    "hgnet-v2": _image(
        "HGNetV2ForImageClassification",
        pixels(64),
        {
            "embedding_size": 16,
            "hidden_sizes": [32, 64, 64, 64],
            "depths": [1, 1, 1, 1],
            "stem_channels": [3, 8, 16],
            "stage_in_channels": [16, 32, 64, 64],
            "stage_mid_channels": [16, 16, 32, 32],
            "stage_out_channels": [32, 64, 64, 64],
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [2, 2, 2, 2],
            "num_labels": 5,
        },
    ),
    "vitdet": _image("VitDetModel", pixels(), SIGHT, mlp_ratio=2, window_size=2),
    "segformer": _dense(
        "SegformerForSemanticSegmentation",
        pixels(64),
        {
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [2, 4, 4, 8],
            "decoder_hidden_size": 64,
            "num_labels": 5,
        },
    ),
    "upernet": _dense(
        "UperNetForSemanticSegmentation",
        pixels(64),
        {
            "backbone_config": {**_BACKBONE, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
            "hidden_size": 32,
            "auxiliary_in_channels": 64,
            "num_labels": 5,
        },
    ),
    "dpt": _dense(
        "DPTForDepthEstimation",
        pixels(),
        SIGHT,
        num_hidden_layers=4,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 32, 48, 64],
        fusion_hidden_size=32,
    ),
    "depth-anything": _dense(
        "DepthAnythingForDepthEstimation",
        pixels(28),
        {
            "backbone_config": {
                "model_type": "dinov2",
                **SIGHT,
                "image_size": 28,
                "patch_size": 14,
                "mlp_ratio": 2,
                "num_hidden_layers": 4,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
                "reshape_hidden_states": False,
            },
            "patch_size": 14,
            "reassemble_hidden_size": 64,
            "neck_hidden_sizes": [16, 32, 48, 64],
            "fusion_hidden_size": 32,
        },
    ),
    "maskformer": _dense(
        "MaskFormerForInstanceSegmentation",
        pixels(64),
        {
            "backbone_config": {
                "model_type": "swin",
                "image_size": 64,
                "patch_size": 2,
                "embed_dim": 16,
                "depths": [1, 1, 1, 1],
                "num_heads": [2, 2, 4, 4],
                "window_size": 4,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "decoder_config": {k: v for k, v in _DETR.items() if "backbone" not in k}
            | {"model_type": "detr"},
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
        },
    ),
    "detr": _boxes("DetrForObjectDetection", pixels(64), _DETR),
    "conditional-detr": _boxes("ConditionalDetrForObjectDetection", pixels(64), _DETR),
    "deformable-detr": _boxes(
        "DeformableDetrForObjectDetection",
        pixels(64),
        _DETR,
        decoder_layers=2,
        num_feature_levels=3,
        disable_custom_kernels=True,
    ),
    "rt-detr": _boxes(
        "RTDetrForObjectDetection",
        pixels(64),
        {
            "backbone_config": {
                "model_type": "rt_detr_resnet",
                **_RESNET,
                "layer_type": "basic",
                "out_features": ["stage2", "stage3", "stage4"],
            },
            "encoder_hidden_dim": 32,
            "encoder_in_channels": [32, 64, 64],
            "encoder_ffn_dim": 64,
            "encoder_attention_heads": 4,
            "d_model": 32,
            "num_queries": 6,
            "decoder_in_channels": [32, 32, 32],
            "decoder_ffn_dim": 64,
            "decoder_layers": 2,
            "decoder_attention_heads": 4,
            "num_labels": 5,
        },
    ),
    "yolos": _boxes(
        "YolosForObjectDetection", pixels(), SIGHT, image_size=[32, 32], num_detection_tokens=5, num_labels=5
    ),
    "superpoint": _boxes(
        "SuperPointForKeypointDetection",
        pixels(32),
        {"encoder_hidden_sizes": [16, 16, 32, 32], "decoder_hidden_size": 32, "descriptor_decoder_dim": 32},
    ),
    "timesformer": _video(
        "TimesformerForVideoClassification",
        lambda: {"pixel_values": torch.randn(2, 2, 3, 32, 32)},
        SIGHT,
        num_frames=2,
    ),
    "videomae": _video(
        "VideoMAEForVideoClassification",
        lambda: {"pixel_values": torch.randn(2, 4, 3, 32, 32)},
        SIGHT,
        num_frames=4,
        tubelet_size=2,
    ),
    "vivit": _video(
        "VivitForVideoClassification",
        lambda: {"pixel_values": torch.randn(2, 4, 3, 32, 32)},
        {**SIGHT, "image_size": 32},
        num_frames=4,
        tubelet_size=[2, 8, 8],
    ),
    "swin2sr": _image(
        "Swin2SRForImageSuperResolution",
        pixels(16),
        {"image_size": 16, "embed_dim": 32, "depths": [2, 2], "num_heads": [4, 4], "window_size": 4},
    ),
    "vitpose": _boxes(
        "VitPoseForPoseEstimation",
        pixels(32),
        {
            "backbone_config": {
                "model_type": "vitpose_backbone",
                **SIGHT,
                "image_size": [32, 32],
                "patch_size": [8, 8],
                "mlp_ratio": 2,
                "out_features": ["stage2"],
            },
            "num_labels": 5,
        },
    ),
}
