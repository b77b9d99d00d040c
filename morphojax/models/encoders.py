"""The image encoders: ENCODERS[name](width=64, dtype=jnp.float32) -> module: (image [B,H,W,C], train) -> Features.

width is the number of channels of a ResNet's stem, or of a transformer's head: its tokens have 3 (tiny) or 6 (small) times that.
Of a ConvNeXt it is that of the first stage: published weights of tiny and small have 96, the default there.
Of a Swin too: the default is 96, the published tiny; tiny takes multiples of 3, micro of 2.
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn

from morphojax.models.convnext import ConvNeXt
from morphojax.models.resnet import BasicBlock, Bottleneck, ResNet
from morphojax.models.swin import SwinTransformer
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
    "swin_tiny": functools.partial(SwinTransformer, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    # For two cores: windows of 4 divide the maps of an image whose sides are powers of two, so that none is padded.
    "swin_micro": functools.partial(SwinTransformer, depths=(2, 2, 2, 2), heads=(2, 4, 8, 16), window=4),
}


def supports_masking(encoder: nn.Module) -> bool:
    """Whether the encoder can encode some patches of an image alone, by `encode_visible`, as masked autoencoding asks."""
    return callable(getattr(type(encoder), "encode_visible", None))
