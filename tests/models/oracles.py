"""transformers' ResNet with random weights, and the same weights in our names."""

import numpy as np
import pytest

DEPTHS = {"resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3], "resnet50": [3, 4, 6, 3]}


def torch_resnet(name: str, channels: int, width: int, depths: tuple[int, ...] = ()):
    """transformers' ResNetModel, also with random parameters and running statistics of BatchNorm.

    depths: blocks per stage; empty: those of the name.
    """
    torch = pytest.importorskip("torch", reason="the oracle for ResNet needs PyTorch")
    transformers = pytest.importorskip("transformers", reason="the oracle for ResNet needs transformers")
    expansion = 4 if name == "resnet50" else 1
    config = transformers.ResNetConfig(
        num_channels=channels,
        embedding_size=width,
        hidden_sizes=[expansion * width * 2**i for i in range(4)],
        depths=list(depths) or DEPTHS[name],
        layer_type="bottleneck" if name == "resnet50" else "basic",
    )
    torch.manual_seed(0)
    model = transformers.ResNetModel(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def _pairs(model) -> dict[tuple[str, ...], object]:
    """Our module path -> PyTorch's ResNetConvLayer or ResNetShortCut (a convolution and its
    normalisation).
    """
    pairs = {("stem",): model.embedder.embedder}
    for s, stage in enumerate(model.encoder.stages, start=1):
        for b, layer in enumerate(stage.layers, start=1):
            block = f"stage{s}_block{b}"
            for i, conv in enumerate(layer.layer, start=1):
                pairs[block, str(i)] = conv
            if hasattr(layer.shortcut, "convolution"):
                pairs[block, "shortcut"] = layer.shortcut
    return pairs


def convert(model, read) -> tuple[dict, dict]:
    """(params, batch_stats) in our names; read maps a PyTorch parameter to an array (its value, or
    its gradient).
    """
    params: dict = {}
    stats: dict = {}
    for path, layer in _pairs(model).items():
        last = path[-1]
        conv, norm = {"stem": ("stem_conv", "stem_norm"), "shortcut": ("shortcut_conv", "shortcut_norm")}.get(
            last, (f"conv{last}", f"norm{last}")
        )
        p, s = params, stats
        for key in path[:-1]:
            p, s = p.setdefault(key, {}), s.setdefault(key, {})
        bn = layer.normalization
        p[conv] = {"kernel": read(layer.convolution.weight).transpose(2, 3, 1, 0)}
        p[norm] = {"scale": read(bn.weight), "bias": read(bn.bias)}
        s[norm] = {"mean": np.array(bn.running_mean), "var": np.array(bn.running_var)}
    return params, stats
