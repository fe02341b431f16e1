"""Image classifiers: timm, torchvision, vit-pytorch, monai, pytorchcv, open_clip, and some smaller packages."""

from __future__ import annotations

from packages.entry import Entry, Keys, image

TINY_VIT = "img_size=32, patch_size=8, num_classes=5, embed_dim=32, depth=2, num_heads=2"
LUCID = "image_size=32, patch_size=8, num_classes=5, dim=32, depth=2, heads=2, mlp_dim=64"


def timm(name: str, module: str, arguments: str, more: str = "", task: Keys | None = None) -> Entry:
    """A class of timm."""
    imports = f"from timm.models.{module} import {', '.join(filter(None, (name, more)))}"
    return Entry("timm", name, imports, f"{name}({arguments})", task or image())


def torchvision(name: str, module: str, arguments: str, more: str = "", task: Keys | None = None) -> Entry:
    """A class of torchvision."""
    imports = f"from torchvision.models.{module} import {', '.join(filter(None, (name, more)))}"
    return Entry("torchvision", name, imports, f"{name}({arguments})", task or image(classes=5))


def lucid(name: str, module: str, arguments: str = LUCID, task: Keys | None = None) -> Entry:
    """A class of vit-pytorch."""
    return Entry(
        "vit-pytorch", f"{module}.{name}", f"from vit_pytorch.{module} import {name}", f"{name}({arguments})", task or image()
    )


ENTRIES: tuple[Entry, ...] = (
    timm("ResNet", "resnet", "BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(8, 16, 24, 32), stem_width=8", "BasicBlock"),
    timm("VisionTransformer", "vision_transformer", TINY_VIT),
    timm("ConvNeXt", "convnext", "num_classes=5, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)", task=image(64)),
    timm(
        "SwinTransformer",
        "swin_transformer",
        "img_size=32, patch_size=2, num_classes=5, embed_dim=16, depths=(2, 2), num_heads=(2, 2), window_size=4",
    ),
    timm("MlpMixer", "mlp_mixer", "num_classes=5, img_size=32, patch_size=8, num_blocks=2, embed_dim=32"),
    timm("Beit", "beit", TINY_VIT),
    timm("Cait", "cait", TINY_VIT),
    timm("ConvMixer", "convmixer", "dim=16, depth=2, kernel_size=5, patch_size=4, num_classes=5"),
    timm("DenseNet", "densenet", "growth_rate=8, block_config=(2, 2), num_classes=5"),
    timm("Eva", "eva", TINY_VIT),
    timm(
        "PyramidVisionTransformerV2",
        "pvt_v2",
        "num_classes=5, depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32), num_heads=(1, 1, 2, 2)",
        task=image(64),
    ),
    timm("Xcit", "xcit", "img_size=32, patch_size=8, num_classes=5, embed_dim=32, depth=2, num_heads=2, cls_attn_layers=1"),
    timm("MetaFormer", "metaformer", "num_classes=5, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)", task=image(64)),
    timm("GhostNet", "ghostnet", "[[[3, 8, 8, 0, 1]], [[3, 16, 16, 0.25, 2]]], num_classes=5, width=0.5"),
    timm(
        "EdgeNeXt",
        "edgenext",
        "num_classes=5, dims=(8, 16, 24, 32), depths=(2, 2, 2, 2), global_block_counts=(0, 1, 1, 1), heads=(2, 2, 2, 2)",
        task=image(64),
    ),
    timm("FocalNet", "focalnet", "num_classes=5, embed_dim=16, depths=(1, 1), focal_levels=(2, 2), focal_windows=(3, 3)"),
    timm("MetaNeXt", "inception_next", "num_classes=5, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)", task=image(64)),
    timm("RepVit", "repvit", "num_classes=5, embed_dim=(8, 16, 24, 32), depth=(1, 1, 1, 1), distillation=False", task=image(64)),
    timm(
        "Levit",
        "levit",
        "img_size=64, num_classes=5, embed_dim=(16, 24), depth=(1, 1), key_dim=8, num_heads=(2, 2)",
        task=image(64),
    ),
    timm(
        "Hiera",
        "hiera",
        "img_size=(64, 64), num_classes=5, embed_dim=16, num_heads=1, stages=(1, 1, 2, 1), drop_path_rate=0.0",
        task=image(64),
    ),
    torchvision("ResNet", "resnet", "BasicBlock, [1, 1, 1, 1], num_classes=5, width_per_group=64", "BasicBlock"),
    torchvision("DenseNet", "densenet", "8, (2, 2), 16, num_classes=5"),
    torchvision(
        "MobileNetV2", "mobilenetv2", "num_classes=5, width_mult=0.25, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]]"
    ),
    torchvision("SqueezeNet", "squeezenet", "'1_1', num_classes=5"),
    torchvision("ShuffleNetV2", "shufflenetv2", "[1, 1, 1], [8, 16, 24, 32, 48], num_classes=5"),
    torchvision("MNASNet", "mnasnet", "0.25, num_classes=5"),
    torchvision("VisionTransformer", "vision_transformer", "32, 8, 2, 2, 32, 64, num_classes=5"),
    torchvision("SwinTransformer", "swin_transformer", "[2, 2], 16, [2, 2], [2, 2], [4, 4], num_classes=5"),
    torchvision(
        "ConvNeXt",
        "convnext",
        "[CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], num_classes=5",
        "CNBlockConfig",
    ),
    torchvision("GoogLeNet", "googlenet", "num_classes=5, aux_logits=False, init_weights=False"),
    torchvision(
        "MobileNetV3",
        "mobilenetv3",
        "[InvertedResidualConfig(8, 3, 16, 8, True, 'RE', 2, 1, 0.5), InvertedResidualConfig(8, 5, 24, 16, False, 'HS', 2, 1, 0.5)], "
        "32, num_classes=5",
        "InvertedResidualConfig",
    ),
    torchvision(
        "EfficientNet",
        "efficientnet",
        "[MBConvConfig(1, 3, 1, 8, 8, 1), MBConvConfig(4, 3, 2, 8, 16, 1)], 0.1, num_classes=5",
        "MBConvConfig",
    ),
    torchvision(
        "RegNet",
        "regnet",
        "BlockParams(depths=[1, 1], widths=[16, 32], group_widths=[8, 8], bottleneck_multipliers=[1.0, 1.0], strides=[2, 2]), num_classes=5",
        "BlockParams",
    ),
    torchvision("MaxVit", "maxvit", "(64, 64), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=5", task=image(64)),
    lucid("ViT", "vit"),
    lucid("SimpleViT", "simple_vit"),
    lucid("DeepViT", "deepvit"),
    lucid("CaiT", "cait", f"{LUCID}, cls_depth=1"),
    lucid("T2TViT", "t2t", "dim=32, image_size=32, depth=2, heads=2, mlp_dim=64, num_classes=5, t2t_layers=((7, 4), (3, 2))"),
    lucid("CCT", "cct", "img_size=32, embedding_dim=32, n_conv_layers=1, num_layers=2, num_heads=2, mlp_ratio=2, num_classes=5"),
    lucid("PiT", "pit", "image_size=32, patch_size=8, dim=32, num_classes=5, depth=(1, 1), heads=2, mlp_dim=64"),
    lucid("LeViT", "levit", "image_size=64, num_classes=5, stages=2, dim=(16, 32), depth=1, heads=(2, 2), mlp_mult=2", image(64)),
    lucid(
        "CrossViT",
        "cross_vit",
        "image_size=32, num_classes=5, sm_dim=16, lg_dim=32, sm_patch_size=8, lg_patch_size=16, depth=1, sm_enc_depth=1, lg_enc_depth=1",
    ),
    lucid(
        "TwinsSVT",
        "twins_svt",
        "num_classes=5, s1_global_k=2, s2_global_k=2, s3_global_k=2, s4_global_k=1, s1_emb_dim=8, s1_patch_size=2, "
        "s1_local_patch_size=4, s2_emb_dim=16, s2_patch_size=2, s2_local_patch_size=4, s3_emb_dim=16, s3_patch_size=2, "
        "s3_local_patch_size=4, s3_depth=1, s4_emb_dim=16, s4_patch_size=2, s4_local_patch_size=2, s4_depth=1",
    ),
    lucid(
        "CvT",
        "cvt",
        "num_classes=5, s1_emb_dim=8, s2_emb_dim=16, s2_heads=1, s2_depth=1, s3_emb_dim=24, s3_heads=1, s3_depth=1",
        image(64),  # at 32 the last stage has one key
    ),
    lucid("XCiT", "xcit", f"{LUCID}, cls_depth=1, local_patch_kernel_size=3"),
    lucid("RvT", "rvt"),
    lucid(
        "MobileViT",
        "mobile_vit",
        "image_size=(64, 64), dims=[16, 24, 32], channels=[8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16], num_classes=5",
        image(64),
    ),
    lucid("MaxViT", "max_vit", "num_classes=5, dim=16, depth=(1, 1), dim_head=8, window_size=4, dim_conv_stem=8", image(64)),
    lucid("ViT", "parallel_vit"),
    lucid("ViT", "vit_for_small_dataset"),
    lucid("SimpleViT", "simple_vit_with_register_tokens"),
    lucid(
        "ScalableViT",
        "scalable_vit",
        "num_classes=5, dim=16, heads=(1, 1), depth=(1, 1), ssa_dim_key=(8, 8), reduction_factor=(2, 1), window_size=(8, None)",
        image(32),
    ),
    lucid("SepViT", "sep_vit", "num_classes=5, dim=8, dim_head=8, heads=(1, 2), depth=(1, 1), window_size=7", image(56)),
    lucid("NesT", "nest", "image_size=32, patch_size=4, num_classes=5, dim=16, heads=1, num_hierarchies=2, block_repeats=(1, 1)"),
    Entry(
        "monai",
        "DenseNet",
        "from monai.networks.nets import DenseNet",
        "DenseNet(spatial_dims=2, in_channels=1, out_channels=4, init_features=8, growth_rate=8, block_config=(2, 2))",
        image(32, 1, 4),
    ),
    Entry(
        "monai",
        "ResNet",
        "from monai.networks.nets import ResNet",
        "ResNet('basic', [1, 1, 1, 1], [8, 16, 24, 32], spatial_dims=2, n_input_channels=1, num_classes=4)",
        image(32, 1, 4),
    ),
    Entry(
        "monai",
        "ViT",
        "from monai.networks.nets import ViT",
        "ViT(in_channels=1, img_size=(32, 32), patch_size=(8, 8), hidden_size=32, mlp_dim=64, num_layers=2, num_heads=2, "
        "classification=True, num_classes=4, spatial_dims=2)",
        image(32, 1, 4),
    ),
    Entry(
        "monai",
        "SENet",
        "from monai.networks.nets import SENet\nfrom monai.networks.blocks.squeeze_and_excitation import SEBottleneck",
        "SENet(spatial_dims=2, in_channels=1, block=SEBottleneck, layers=(1, 1, 1, 1), groups=1, reduction=16, inplanes=16, "
        "downsample_kernel_size=1, input_3x3=True, num_classes=4, dropout_prob=None)",
        image(32, 1, 4),
    ),
    Entry(
        "monai",
        "Classifier",
        "from monai.networks.nets import Classifier",
        "Classifier(in_shape=(1, 16, 16), classes=4, channels=(4, 8), strides=(2, 2))",
        image(16, 1, 4),
    ),
    Entry(
        "pytorchcv",
        "CIFARPreResNet",
        "from pytorchcv.models.preresnet_cifar import CIFARPreResNet",
        "CIFARPreResNet(channels=[[8], [16], [32]], init_block_channels=8, bottleneck=False, num_classes=5)",
        image(),
    ),
    Entry(
        "pytorchcv",
        "CIFARDenseNet",
        "from pytorchcv.models.densenet_cifar import CIFARDenseNet",
        "CIFARDenseNet(channels=[[16, 24], [20, 28], [22, 30]], init_block_channels=8, bottleneck=False, num_classes=5)",
        image(),
    ),
    Entry(
        "pytorchcv",
        "CIFARWRN",
        "from pytorchcv.models.wrn_cifar import CIFARWRN",
        "CIFARWRN(channels=[[16], [32], [32]], init_block_channels=8, num_classes=5)",
        image(),
    ),
    Entry(
        "pytorchcv",
        "CIFARResNeXt",
        "from pytorchcv.models.resnext_cifar import CIFARResNeXt",
        "CIFARResNeXt(channels=[[16], [32], [64]], init_block_channels=8, cardinality=2, bottleneck_width=64, num_classes=5)",
        image(),
    ),
    Entry(
        "open-clip-torch",
        "VisionTransformer",
        "from open_clip.transformer import VisionTransformer",
        "VisionTransformer(image_size=32, patch_size=8, width=32, layers=2, heads=2, mlp_ratio=2.0, output_dim=5)",
        image(),
    ),
    Entry(
        "open-clip-torch",
        "ModifiedResNet",
        "from open_clip.modified_resnet import ModifiedResNet",
        "ModifiedResNet(layers=(1, 1, 1, 1), output_dim=5, heads=2, image_size=32, width=8)",
        image(),
    ),
    Entry(
        "mlp-mixer-pytorch",
        "MLPMixer",
        "from mlp_mixer_pytorch import MLPMixer",
        "MLPMixer(image_size=32, channels=3, patch_size=8, dim=32, depth=2, num_classes=5)",
        image(),
    ),
    Entry(
        "g-mlp-pytorch",
        "gMLPVision",
        "from g_mlp_pytorch import gMLPVision",
        "gMLPVision(image_size=32, patch_size=8, num_classes=5, dim=32, depth=2)",
        image(),
    ),
    Entry(
        "res-mlp-pytorch",
        "ResMLP",
        "from res_mlp_pytorch import ResMLP",
        "ResMLP(image_size=32, patch_size=8, dim=32, depth=2, num_classes=5)",
        image(),
    ),
    Entry(
        "transformer-in-transformer",
        "TNT",
        "from transformer_in_transformer import TNT",
        "TNT(image_size=32, patch_dim=24, pixel_dim=8, patch_size=8, pixel_size=2, depth=2, num_classes=5, heads=2, dim_head=8)",
        image(),
    ),
    Entry(
        "efficientnet-pytorch",
        "EfficientNet",
        "from efficientnet_pytorch import EfficientNet",
        "EfficientNet.from_name('efficientnet-b0', num_classes=5, image_size=64)",
        image(64),
    ),
    Entry(
        "x-transformers",
        "ViTransformerWrapper",
        "from x_transformers import Encoder, ViTransformerWrapper",
        "ViTransformerWrapper(image_size=32, patch_size=8, num_classes=5, attn_layers=Encoder(dim=32, depth=2, heads=2, attn_dim_head=16))",
        image(),
    ),
    Entry(
        "peft",
        "LoRA on a ViT",
        "from peft import LoraConfig, get_peft_model\nfrom transformers import ViTConfig, ViTForImageClassification",
        "get_peft_model(ViTForImageClassification(ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, "
        "intermediate_size=64, image_size=32, patch_size=8, num_labels=5)), LoraConfig(target_modules=['q_proj', 'v_proj'], "
        "modules_to_save=['classifier']))",
        image(),
    ),
)
