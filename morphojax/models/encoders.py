"""The image encoders: ENCODERS[name](width=64, dtype=jnp.float32) -> module: (image [B,H,W,C], train) -> Features."""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn

from morphojax.models.resnet import BasicBlock, Bottleneck, ResNet

ENCODERS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet18": functools.partial(ResNet, depths=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": functools.partial(ResNet, depths=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": functools.partial(ResNet, depths=(3, 4, 6, 3), block=Bottleneck),
}
