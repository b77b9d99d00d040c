"""The image encoders and the decoders by name.

ENCODERS[name](width=64, dtype=jnp.float32) -> module: (image [B,H,W,C], train) -> Features.
DECODERS[name](widths=(16, 32, 64, 128), dtype=jnp.float32, norm="batch") -> module: ((image, *pyramid), train, condition) -> features.

width is the number of channels of a ResNet's stem, or of a transformer's head: its tokens have 3 (tiny), 6 (small) or 12 (base) times that.
Of a ConvNeXt it is that of the first stage: published weights of tiny and small have 96, the default there.
Of a U-Net it is that of the level at full size (64 in the paper).
Of a Swin too: the default is 96, the published tiny; tiny takes multiples of 3, micro of 2.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from morphojax.models.convnext import ConvNeXt
from morphojax.models.mlp_decoder import MLPDecoder
from morphojax.models.resnet import BasicBlock, Bottleneck, ResNet
from morphojax.models.swin import SwinTransformer
from morphojax.models.unet import UNetDecoder
from morphojax.models.unet_encoder import UNetEncoder
from morphojax.models.vit import VisionTransformer

ENCODERS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet18": functools.partial(ResNet, depths=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": functools.partial(ResNet, depths=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": functools.partial(ResNet, depths=(3, 4, 6, 3), block=Bottleneck),
    "convnext_pico": functools.partial(ConvNeXt, depths=(2, 2, 6, 2), width=64),
    "convnext_tiny": functools.partial(ConvNeXt, depths=(3, 3, 9, 3), width=96),
    "convnext_small": functools.partial(ConvNeXt, depths=(3, 3, 27, 3), width=96),
    "vit_tiny": functools.partial(VisionTransformer, depth=12, heads=3),
    "vit_small": functools.partial(VisionTransformer, depth=12, heads=6),
    # As published: of images of 224x224, whose positions are resampled for others.
    "vit_small_16": functools.partial(
        VisionTransformer, depth=12, heads=6, patch=16, image_size=224, taps=(3, 6, 9, 12)
    ),
    "vit_base_16": functools.partial(
        VisionTransformer, depth=12, heads=12, patch=16, image_size=224, taps=(3, 6, 9, 12)
    ),
    "swin_tiny": functools.partial(SwinTransformer, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    # For two cores: windows of 4 divide the maps of an image whose sides are powers of two, so that none is padded.
    "swin_micro": functools.partial(SwinTransformer, depths=(2, 2, 2, 2), heads=(2, 4, 8, 16), window=4),
    "unet": functools.partial(UNetEncoder, width=32, cap=512),
    "unet_small": functools.partial(UNetEncoder, width=8, cap=128),  # for two cores
}


def _mlp(widths: tuple[int, ...], **fields: Any) -> nn.Module:
    """Its one width is that of the coarsest level."""
    return MLPDecoder(widths[-1], **fields)


DECODERS: Mapping[str, Callable[..., nn.Module]] = {"unet": UNetDecoder, "mlp": _mlp}


def fields_of(name: str) -> tuple[str, ...]:
    """What the encoder of that name can be given beside width and dtype: some of norm, drop_path, remat."""
    known = {field.name for field in dataclasses.fields(type(ENCODERS[name]()))}
    return tuple(choice for choice in ("norm", "drop_path", "remat") if choice in known)


def supports_masking(encoder: nn.Module) -> bool:
    """Whether the encoder can encode some patches of an image alone, by `encode_visible`, as masked autoencoding asks."""
    return callable(getattr(type(encoder), "encode_visible", None))
