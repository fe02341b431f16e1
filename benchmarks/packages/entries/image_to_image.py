"""Images in, maps, images, videos or boxes out: segmentation, denoising, autoencoders, detection."""

from __future__ import annotations

from packages.entry import Entry, Keys, declared, plane, sides


def segmentation(name: str, more: str = "") -> Entry:
    """A model of segmentation-models-pytorch."""
    return Entry(
        "segmentation-models-pytorch",
        name,
        f"from segmentation_models_pytorch import {name}",
        f"{name}('mobilenet_v2', encoder_weights=None, classes=3{more})",
        maps(3, 3, 32, 64, 32),
    )


def maps(channels: int, classes: int, least: int, most: int, step: int = 1, output: str = "scores") -> Keys:
    """Scores of classes for each pixel of an image."""
    return declared(
        {"image": {"axes": plane(channels)}},
        {output: {"axes": plane(classes), "kind": "class_scores", "classes": 1}},
        sides(least, most, step),
    )


def monai(name: str, arguments: str, task: Keys) -> Entry:
    """A model of monai."""
    return Entry("monai", name, f"from monai.networks.nets import {name}", f"{name}({arguments})", task)


def diffusers(name: str, arguments: str, task: Keys) -> Entry:
    """A model of diffusers."""
    return Entry("diffusers", name, f"from diffusers import {name}", f"{name}({arguments})", task)


def hugging_face(name: str, config: str, arguments: str, task: Keys, more: str = "") -> Entry:
    """A model of transformers."""
    imports = f"from transformers import {', '.join(sorted(filter(None, (config, name, more))))}"
    return Entry("transformers", name, imports, f"{name}({config}({arguments}))", task)


def denoiser(
    channels: int, least: int, most: int, step: int, image: str = "sample", steps: str = "timestep", **more: Keys
) -> Keys:
    """A noisy image and a time step in, an image out."""
    return declared(
        {image: {"axes": plane(channels)}, steps: {"axes": ["batch"], "values": {"ids": 1000}}, **more},
        {"sample": {"axes": plane(channels)}},
        sides(least, most, step),
    )


SMALL_BLOCKS = (
    "block_out_channels=(8, 16), down_block_types=('DownBlock2D', '{down}'), up_block_types=('{up}', 'UpBlock2D'), "
    "layers_per_block=1, norm_num_groups=4"
)
RESNET = "ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=['stage2'])"
VIT = "hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64"
BOXES: Keys = {"axes": ["batch", 7, 4], "range": [0.0, 1.0]}

ENTRIES: tuple[Entry, ...] = (
    segmentation("Unet", ", decoder_channels=(32, 16, 16, 8, 8)"),
    segmentation("FPN", ", decoder_pyramid_channels=16, decoder_segmentation_channels=32"),
    segmentation("Linknet"),
    segmentation("DeepLabV3Plus", ", decoder_channels=16"),
    monai("UNet", "2, 1, 2, (4, 8), (2,)", maps(1, 2, 4, 20, 2)),
    monai("SegResNet", "2, 8, 1, 2", maps(1, 2, 16, 48, 8)),
    monai("AttentionUnet", "2, 1, 2, (4, 8), (2,)", maps(1, 2, 4, 20, 2)),
    monai(
        "UNETR",
        "1, 2, (32, 32), 4, 16, 32, 2, spatial_dims=2",
        declared(
            {"image": {"axes": ["batch", 1, 32, 32]}},
            {"scores": {"axes": ["batch", 2, 32, 32], "kind": "class_scores", "classes": 1}},
        ),
    ),
    monai("SwinUNETR", "1, 2, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), feature_size=12, spatial_dims=2", maps(1, 2, 64, 64)),
    monai(
        "AutoEncoder",
        "2, 1, 1, (4, 8), (2, 2)",
        declared(
            {"image": {"axes": plane(1)}},
            {"again": {"axes": plane(1), "fits": False}},
            sides(8, 24, 4),
            labels={"again": {"from": "image"}},
        ),
    ),
    monai(
        "VarAutoEncoder",
        "2, (1, 16, 16), 1, 4, (4, 8), (2, 2), use_sigmoid=False",
        declared(
            {"image": {"axes": ["batch", 1, 16, 16]}},
            {
                "again": {"axes": ["batch", 1, 16, 16], "fits": False},
                "mean": {"axes": ["batch", 4], "kind": "other"},
                "log_variance": {"axes": ["batch", 4], "kind": "other"},
            },
            labels={"again": {"from": "image"}},
        ),
    ),
    monai(
        "Regressor",
        "(1, 16, 16), (2,), (4, 8), (2, 2)",
        declared({"image": {"axes": ["batch", 1, 16, 16]}}, {"numbers": {"axes": ["batch", 2]}}),
    ),
    diffusers(
        "UNet2DModel",
        f"sample_size=16, {SMALL_BLOCKS.format(down='DownBlock2D', up='UpBlock2D')}",
        denoiser(3, 4, 24, 2),
    ),
    diffusers(
        "UNet2DConditionModel",
        f"sample_size=8, in_channels=4, cross_attention_dim=16, attention_head_dim=4, "
        f"{SMALL_BLOCKS.format(down='CrossAttnDownBlock2D', up='CrossAttnUpBlock2D')}",
        {
            **(task := denoiser(4, 4, 24, 2, encoder_hidden_states={"axes": ["batch", "words", 16]})),
            "axes": {**task["axes"], "words": {"max": 8}},
        },
    ),
    diffusers(
        "AutoencoderKL",
        "block_out_channels=(8,), norm_num_groups=4",
        declared(
            {"sample": {"axes": plane(3)}},
            {"again": {"axes": plane(3), "at": 0, "fits": False}},
            sides(4, 24),
            labels={"again": {"from": "sample"}},
        ),
    ),
    diffusers(
        "AutoencoderTiny",
        "encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)",
        declared(
            {"sample": {"axes": plane(3), "values": {"range": [0, 1]}}},
            {"again": {"axes": plane(3), "at": 0, "fits": False}},
            sides(4, 24, 2),
            labels={"again": {"from": "sample"}},
        ),
    ),
    diffusers(
        "DiTTransformer2DModel",
        "num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8, norm_num_groups=4",
        declared(
            {
                "hidden_states": {"axes": ["batch", 4, 8, 8]},
                "timestep": {"axes": ["batch"], "values": {"ids": 1000}},
                "class_labels": {"axes": ["batch"], "values": {"ids": 1000}},
            },
            {"sample": {"axes": ["batch", 4, 8, 8]}},
        ),
    ),
    Entry(
        "denoising-diffusion-pytorch",
        "Unet",
        "from denoising_diffusion_pytorch import Unet",
        "Unet(8, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8)",
        denoiser(3, 4, 24, 2, "x", "time"),
    ),
    Entry(
        "uformer-pytorch",
        "Uformer",
        "from uformer_pytorch import Uformer",
        "Uformer(dim=8, stages=1, num_blocks=1, window_size=4, dim_head=8, heads=2)",
        declared({"image": {"axes": plane(3)}}, {"clean": {"axes": plane(3)}}, sides(8, 32, 8)),
    ),
    Entry(
        "perceiver-pytorch",
        "Perceiver",
        "from perceiver_pytorch import Perceiver",
        "Perceiver(input_channels=3, input_axis=2, num_freq_bands=4, max_freq=8.0, depth=1, num_latents=4, latent_dim=16, num_classes=5)",
        declared(
            {"image": {"axes": ["batch", "height", "width", 3]}},
            {"scores": {"axes": ["batch", 5], "kind": "class_scores"}},
            sides(2, 12),
        ),
    ),
    Entry(
        "vit-pytorch",
        "ViViT",
        "from vit_pytorch.vivit import ViViT",
        "ViViT(image_size=32, image_patch_size=8, frames=4, frame_patch_size=2, num_classes=5, dim=32, spatial_depth=1, "
        "temporal_depth=1, heads=2, mlp_dim=64)",
        declared({"video": {"axes": ["batch", 3, 4, 32, 32]}}, {"scores": {"axes": ["batch", 5], "kind": "class_scores"}}),
    ),
    Entry(
        "vit-pytorch",
        "MAE",
        "from vit_pytorch import MAE, ViT",
        "MAE(encoder=ViT(image_size=32, patch_size=8, num_classes=5, dim=32, depth=1, heads=2, mlp_dim=64, pool='mean'), "
        "decoder_dim=16, decoder_depth=1)",
        declared({"image": {"axes": ["batch", 3, 32, 32]}}, {"loss": {"axes": [], "kind": "loss"}}),
    ),
    Entry(
        "torchvision",
        "DeepLabV3",
        "from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large",
        "deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)",
        maps(3, 3, 32, 64, 1, "out"),
    ),
    Entry(
        "torchvision",
        "LRASPP",
        "from torchvision.models.segmentation import lraspp_mobilenet_v3_large",
        "lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)",
        maps(3, 3, 32, 64, 1, "out"),
    ),
    hugging_face(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        "depths=[1, 1], num_encoder_blocks=2, hidden_sizes=[8, 16], sr_ratios=[2, 1], patch_sizes=[7, 3], strides=[4, 2], "
        "num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=3",
        declared(
            {"pixel_values": {"axes": plane(3)}},
            {"logits": {"axes": ["batch", 3, "rows", "columns"], "kind": "class_scores", "classes": 1}},
            {**sides(16, 64, 8), "rows": {"from": "height // 4"}, "columns": {"from": "width // 4"}},
        ),
    ),
    hugging_face(
        "DPTForDepthEstimation",
        "DPTConfig",
        f"{VIT.replace('layers=2', 'layers=4')}, image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3], "
        "neck_hidden_sizes=[8, 8, 16, 16], "
        "fusion_hidden_size=8, reassemble_factors=[4, 2, 1, 0.5]",
        declared(
            {"pixel_values": {"axes": ["batch", 3, 32, 32]}},
            {"predicted_depth": {"axes": ["batch", 64, 64]}},
        ),
    ),
    hugging_face(
        "YolosForObjectDetection",
        "YolosConfig",
        f"{VIT}, image_size=[32, 32], patch_size=8, num_detection_tokens=7, num_labels=3",
        declared(
            {"pixel_values": {"axes": ["batch", 3, 32, 32]}},
            {"logits": {"axes": ["batch", 7, 4], "kind": "class_scores"}, "pred_boxes": BOXES},
        ),
    ),
    hugging_face(
        "DetrForObjectDetection",
        "DetrConfig",
        f"use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, "
        f"backbone_config={RESNET}, d_model=16, encoder_layers=1, "
        "decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, "
        "num_queries=7, num_labels=3",
        declared(
            {"pixel_values": {"axes": plane(3)}},
            {"logits": {"axes": ["batch", 7, 4], "kind": "class_scores"}, "pred_boxes": BOXES},
            sides(32, 96),
        ),
        "ResNetConfig",
    ),
    hugging_face(
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        f"{VIT}, image_size=32, patch_size=8, decoder_num_attention_heads=2, decoder_hidden_size=16, decoder_num_hidden_layers=1, "
        "decoder_intermediate_size=32",
        declared(
            {"pixel_values": {"axes": ["batch", 3, 32, 32]}}, {"logits": {"axes": ["batch", 16, 192]}, "loss": {"kind": "loss"}}
        ),
    ),
    Entry(
        "timm",
        "ResNet, features of every stage",
        "from timm import create_model",
        "create_model('resnet10t', features_only=True, out_indices=(1, 2, 3))",
        declared(
            {"image": {"axes": plane(3)}},
            {str(n): {"axes": ["batch", c, f"h{n}", f"w{n}"], "kind": "other"} for n, c in enumerate((64, 128, 256))},
            {
                **sides(32, 64, 16),
                **{
                    f"{a}{n}": {"from": f"{side} // {4 * 2**n}"}
                    for n in range(3)
                    for a, side in (("h", "height"), ("w", "width"))
                },
            },
        ),
    ),
)
