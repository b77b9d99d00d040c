"""The image encoders: ENCODERS[name](width=64, dtype=jnp.float32) -> module: (image [B,H,W,C], train) -> Features.

width is the number of channels of a ResNet's stem, or of a transformer's head: its tokens have 3 (tiny) or 6 (small) times that.
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn

from morphojax.models.resnet import BasicBlock, Bottleneck, ResNet
from morphojax.models.vit import VisionTransformer

ENCODERS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet18": functools.partial(ResNet, depths=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": functools.partial(ResNet, depths=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": functools.partial(ResNet, depths=(3, 4, 6, 3), block=Bottleneck),
    "vit_tiny": functools.partial(VisionTransformer, depth=12, heads=3),
    "vit_small": functools.partial(VisionTransformer, depth=12, heads=6),
}


def supports_masking(encoder: nn.Module) -> bool:
    """Whether the encoder can encode some patches of an image alone, by `encode_visible`, as masked autoencoding asks."""
    return callable(getattr(type(encoder), "encode_visible", None))
