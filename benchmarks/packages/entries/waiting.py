"""Models that fit none of the tasks there are: counted and named, not run."""

from __future__ import annotations

from packages.entry import Entry

MAPS = "an output map as large as the image"
GRAPHS = "a graph: node features and an edge index of another length"
STEPS = "a noisy image and a time step in, an image out"
SERIES = "a series of real vectors in, one out"
AUDIO = "sound: a waveform or its spectrum"
TWO = "two inputs of one row: categories and numbers"


def waiting(package: str, name: str, imports: str, build: str, waits: str) -> Entry:
    """A class that fits no task."""
    return Entry(package, name, imports, build, {}, waits)


def maps(name: str) -> Entry:
    """A model of segmentation-models-pytorch."""
    return waiting(
        "segmentation-models-pytorch",
        name,
        f"from segmentation_models_pytorch import {name}",
        f"{name}('resnet18', encoder_weights=None, classes=3)",
        MAPS,
    )


def graphs(name: str) -> Entry:
    """A model of torch-geometric."""
    return waiting("torch-geometric", name, f"from torch_geometric.nn.models import {name}", f"{name}(8, 16, 2, 3)", GRAPHS)


ENTRIES: tuple[Entry, ...] = (
    *map(maps, ("Unet", "FPN", "Linknet", "DeepLabV3Plus")),
    *map(graphs, ("GCN", "GAT", "GraphSAGE", "GIN")),
    waiting(
        "diffusers",
        "UNet2DModel",
        "from diffusers import UNet2DModel",
        "UNet2DModel(sample_size=16, block_out_channels=(8, 16), down_block_types=('DownBlock2D', 'DownBlock2D'), "
        "up_block_types=('UpBlock2D', 'UpBlock2D'), layers_per_block=1, norm_num_groups=4)",
        STEPS,
    ),
    waiting(
        "diffusers",
        "AutoencoderKL",
        "from diffusers import AutoencoderKL",
        "AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)",
        "an image in, the same image out",
    ),
    waiting(
        "diffusers",
        "DiTTransformer2DModel",
        "from diffusers import DiTTransformer2DModel",
        "DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8, norm_num_groups=4)",
        STEPS,
    ),
    waiting("monai", "UNet", "from monai.networks.nets import UNet", "UNet(2, 1, 2, (4, 8), (2,))", MAPS),
    waiting("monai", "SegResNet", "from monai.networks.nets import SegResNet", "SegResNet(2, 8, 1, 2)", MAPS),
    waiting(
        "tab-transformer-pytorch",
        "TabTransformer",
        "from tab_transformer_pytorch import TabTransformer",
        "TabTransformer(categories=(3, 4), num_continuous=4, dim=16, dim_out=3, depth=1, heads=2)",
        TWO,
    ),
    waiting(
        "tab-transformer-pytorch",
        "FTTransformer",
        "from tab_transformer_pytorch import FTTransformer",
        "FTTransformer(categories=(3, 4), num_continuous=4, dim=16, dim_out=3, depth=1, heads=2)",
        TWO,
    ),
    waiting(
        "tabm",
        "TabM",
        "from tabm import TabM",
        "TabM.make(n_num_features=6, d_out=3, k=4, n_blocks=1, d_block=16)",
        "k answers to a row, averaged by who uses it",
    ),
    waiting(
        "perceiver-pytorch",
        "Perceiver",
        "from perceiver_pytorch import Perceiver",
        "Perceiver(input_channels=3, input_axis=2, num_freq_bands=4, max_freq=8.0, depth=1, num_latents=4, latent_dim=16, num_classes=5)",
        "images with their channels last",
    ),
    waiting(
        "vit-pytorch",
        "NaViT",
        "from vit_pytorch.na_vit import NaViT",
        "NaViT(image_size=32, patch_size=8, num_classes=5, dim=32, depth=1, heads=2, mlp_dim=64)",
        "lists of images of several sizes",
    ),
    waiting(
        "vit-pytorch",
        "ViViT",
        "from vit_pytorch.vivit import ViViT",
        "ViViT(image_size=32, image_patch_size=8, frames=4, frame_patch_size=2, num_classes=5, dim=32, spatial_depth=1, "
        "temporal_depth=1, heads=2, mlp_dim=64)",
        "videos",
    ),
    waiting(
        "vit-pytorch",
        "MAE",
        "from vit_pytorch import MAE, ViT",
        "MAE(encoder=ViT(image_size=32, patch_size=8, num_classes=5, dim=32, depth=1, heads=2, mlp_dim=64), decoder_dim=16, decoder_depth=1)",
        "its output is its loss",
    ),
    waiting(
        "x-transformers",
        "XTransformer",
        "from x_transformers import XTransformer",
        "XTransformer(dim=32, enc_num_tokens=40, enc_depth=1, enc_heads=2, enc_max_seq_len=16, dec_num_tokens=40, dec_depth=1, "
        "dec_heads=2, dec_max_seq_len=16)",
        "its output is its loss",
    ),
    waiting(
        "conformer", "Conformer", "from conformer import Conformer", "Conformer(dim=16, depth=1, dim_head=8, heads=2)", SERIES
    ),
    waiting(
        "itransformer",
        "iTransformer",
        "from iTransformer import iTransformer",
        "iTransformer(num_variates=3, lookback_len=8, dim=16, depth=1, heads=2, dim_head=8, pred_length=4)",
        SERIES,
    ),
    waiting(
        "nystrom-attention",
        "Nystromformer",
        "from nystrom_attention import Nystromformer",
        "Nystromformer(dim=16, dim_head=8, heads=2, depth=1, num_landmarks=4)",
        SERIES,
    ),
    waiting(
        "uformer-pytorch",
        "Uformer",
        "from uformer_pytorch import Uformer",
        "Uformer(dim=8, stages=1, num_blocks=1, window_size=4, dim_head=8, heads=2)",
        "an image in, an image out",
    ),
    waiting(
        "torchvision",
        "DeepLabV3",
        "from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large",
        "deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)",
        MAPS,
    ),
    waiting(
        "torchvision",
        "FasterRCNN",
        "from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)",
        "lists of images in, lists of boxes out",
    ),
    waiting(
        "open-clip-torch",
        "CLIP",
        "from open_clip.model import CLIP",
        "CLIP(16, {'image_size': 32, 'patch_size': 8, 'width': 32, 'layers': 1, 'head_width': 16}, {'context_length': 16, "
        "'vocab_size': 40, 'width': 32, 'heads': 2, 'layers': 1})",
        "an image and a text in, two vectors out",
    ),
    waiting(
        "torchaudio",
        "Wav2Letter",
        "from torchaudio.models import Wav2Letter",
        "Wav2Letter(num_classes=5, input_type='waveform', num_features=1)",
        AUDIO,
    ),
    waiting(
        "torchaudio",
        "DeepSpeech",
        "from torchaudio.models import DeepSpeech",
        "DeepSpeech(n_feature=8, n_hidden=16, n_class=5)",
        AUDIO,
    ),
    waiting(
        "torchaudio",
        "ConvTasNet",
        "from torchaudio.models import ConvTasNet",
        "ConvTasNet(num_sources=2, enc_num_feats=16, msk_num_feats=8, msk_num_hidden_feats=16, msk_num_layers=2, msk_num_stacks=1)",
        AUDIO,
    ),
    waiting(
        "speechbrain",
        "Xvector",
        "from speechbrain.lobes.models.Xvector import Xvector",
        "Xvector(device='cpu', tdnn_blocks=2, tdnn_channels=[8, 16], tdnn_kernel_sizes=[3, 1], tdnn_dilations=[1, 1], lin_neurons=8, "
        "in_channels=8)",
        AUDIO,
    ),
    waiting(
        "speechbrain",
        "ECAPA_TDNN",
        "from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN",
        "ECAPA_TDNN(8, lin_neurons=8, channels=[16, 16, 16, 16, 48], attention_channels=8, res2net_scale=2, se_channels=8)",
        AUDIO,
    ),
)
