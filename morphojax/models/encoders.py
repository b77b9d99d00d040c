"""The image encoders and the decoders by name.

ENCODERS[name](width=64, dtype=jnp.float32) -> module: (image [B,H,W,C], train) -> Features.
DECODERS[name](widths=(16, 32, 64, 128), dtype=jnp.float32, norm="batch") -> module:
    ((image, *pyramid), train, condition) -> features.

width is the number of channels:
- of a ResNet's stem (published 64);
- of a ViT's attention head (published 64): tokens have 3 (tiny), 6 (small) or 12 (base) times as
  many;
- of the first stage of a ConvNeXt or Swin (published 96 for tiny and small); swin_tiny takes
  multiples of 3, swin_micro of 2;
- of a U-Net's first stage (published 64).

Every module has a property `levels`: {direct submodule or parameter: name of its depth level}, from
input to output. Modules without a depth (a transformer's last norm and pyramid) are not in it.
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

ENCODERS: dict[str, functools.partial[nn.Module]] = {
    "resnet18": functools.partial(ResNet, depths=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": functools.partial(ResNet, depths=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": functools.partial(ResNet, depths=(3, 4, 6, 3), block=Bottleneck),
    "convnext_pico": functools.partial(ConvNeXt, depths=(2, 2, 6, 2), width=64),
    "convnext_tiny": functools.partial(ConvNeXt, depths=(3, 3, 9, 3), width=96),
    "convnext_small": functools.partial(ConvNeXt, depths=(3, 3, 27, 3), width=96),
    "vit_tiny": functools.partial(VisionTransformer, depth=12, heads=3),
    "vit_small": functools.partial(VisionTransformer, depth=12, heads=6),
    # As published, for images of 224x224; positions are resampled for other sizes.
    "vit_small_16": functools.partial(
        VisionTransformer, depth=12, heads=6, patch=16, image_size=224, taps=(3, 6, 9, 12)
    ),
    "vit_base_16": functools.partial(
        VisionTransformer, depth=12, heads=12, patch=16, image_size=224, taps=(3, 6, 9, 12)
    ),
    "swin_tiny": functools.partial(SwinTransformer, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    # Small, for two cores. Windows of 4 need no padding if the image sides are powers of two.
    "swin_micro": functools.partial(SwinTransformer, depths=(2, 2, 2, 2), heads=(2, 4, 8, 16), window=4),
    "unet": functools.partial(UNetEncoder, width=32, cap=512),
    "unet_half": functools.partial(UNetEncoder, stages=4, stem=2, cap=512),  # at half the image's size
    "unet_small": functools.partial(UNetEncoder, width=8, cap=128),  # small, for two cores
}


def _mlp(widths: tuple[int, ...], **fields: Any) -> nn.Module:
    """An MLPDecoder as wide as the last of widths."""
    return MLPDecoder(widths[-1], **fields)


DECODERS: Mapping[str, Callable[..., nn.Module]] = {"unet": UNetDecoder, "mlp": _mlp}


def has_norm(name: str) -> bool:
    """Whether the encoder takes `norm` ("batch" or "group")."""
    return "norm" in _fields(name)


def encoder_options(name: str) -> tuple[str, ...]:
    """Options that the encoder takes beyond width, dtype and norm: fields not set in ENCODERS."""
    not_options = {"width", "dtype", "norm", "parent", "name", *ENCODERS[name].keywords}
    return tuple(field for field in _fields(name) if field not in not_options)


def _fields(name: str) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(ENCODERS[name].func))  # pyrefly: ignore


def supports_masking(encoder: nn.Module) -> bool:
    """Whether the encoder can encode visible patches alone: it has `encode_visible`."""
    return callable(getattr(type(encoder), "encode_visible", None))
