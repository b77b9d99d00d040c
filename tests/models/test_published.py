"""Published weights: names and layouts against transformers with random weights, and the way
back.
"""

import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from morphojax.models import published
from morphojax.models.convnext import ConvNeXt
from morphojax.models.encoders import ENCODERS
from morphojax.models.published import PublishedError, recognise, to_hugging_face, to_ours
from morphojax.models.resnet import BasicBlock, Bottleneck, ResNet
from morphojax.models.swin import SwinTransformer
from morphojax.models.vit import VisionTransformer

RNG = np.random.default_rng(0)
WIDTH = 8
OURS = {
    "resnet_basic": ResNet((1, 2, 1, 1), BasicBlock, WIDTH),
    "resnet_bottleneck": ResNet((1, 2, 1, 1), Bottleneck, WIDTH),
    "convnext": ConvNeXt((1, 2, 1, 1), WIDTH),
    "vit": VisionTransformer(WIDTH, depth=2, heads=2, patch=16, image_size=64),
    "swin": SwinTransformer((1, 2, 1, 1), (1, 2, 2, 4), WIDTH, window=2),
}


def torch_model(kind, channels=3):
    """transformers' model for OURS[kind], with random values for every parameter and statistic."""
    torch = pytest.importorskip("torch", reason="the oracle for published weights needs PyTorch")
    transformers = pytest.importorskip("transformers", reason="the oracle for published weights needs transformers")
    ours = OURS[kind]
    widths = [WIDTH * 2**i for i in range(4)]
    if kind.startswith("resnet"):
        layer = kind.removeprefix("resnet_")
        sizes = [w * (4 if layer == "bottleneck" else 1) for w in widths]
        config = transformers.ResNetConfig(
            num_channels=channels, embedding_size=WIDTH, hidden_sizes=sizes, depths=list(ours.depths), layer_type=layer
        )
        model = transformers.ResNetModel(config)
    elif kind == "convnext":
        config = transformers.ConvNextConfig(
            num_channels=channels, hidden_sizes=widths, depths=list(ours.depths), layer_norm_eps=1e-6
        )
        model = transformers.ConvNextModel(config)
    elif kind == "vit":
        config = transformers.ViTConfig(
            num_channels=channels,
            hidden_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=8 * WIDTH,
            image_size=64,
            patch_size=16,
            layer_norm_eps=1e-6,
        )
        model = transformers.ViTModel(config, add_pooling_layer=False)
    else:
        config = transformers.SwinConfig(
            num_channels=channels,
            embed_dim=WIDTH,
            depths=list(ours.depths),
            num_heads=list(ours.heads),
            window_size=ours.window,
            image_size=64,
            attn_implementation="eager",
        )
        model = transformers.SwinModel(config)
    torch.manual_seed(0)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point():
            torch.nn.init.uniform_(value, *((0.5, 1.5) if value.ndim == 1 and "bias" not in name else (-0.3, 0.3)))
    return model.eval()


def variables(encoder, channels=3, size=64):
    """Random values for the encoder's variables, as a flat dict."""
    image = jax.ShapeDtypeStruct((1, size, size, channels), np.float32)
    shapes = jax.eval_shape(lambda key, x: encoder.init(key, x, False), jax.random.key(0), image)
    return {
        n: RNG.uniform(0.5, 1.5, x.shape).astype(np.float32) for n, x in flatten_dict(dict(shapes), sep="/").items()
    }


def shapes_of(encoder, channels=3, size=64):
    return {name: array.shape for name, array in variables(encoder, channels, size).items()}


def apply(encoder, flat, image):
    return jax.jit(lambda v, x: encoder.apply(v, x, False))(unflatten_dict(flat, sep="/"), image)


def arrays_of(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def run(model, image):
    """Pooled [B,D], and the maps of our pyramid, channels last."""
    import torch

    with torch.no_grad():
        out = model(torch.from_numpy(image).permute(0, 3, 1, 2), output_hidden_states=True)
    if out.pooler_output is None:  # ViT: the class token; transformers has no pyramid
        return out.last_hidden_state[:, 0].numpy(), []
    states = getattr(out, "reshaped_hidden_states", None) or out.hidden_states
    return out.pooler_output.reshape(len(image), -1).numpy(), [s.permute(0, 2, 3, 1).numpy() for s in states]


@pytest.mark.parametrize("kind", OURS)
def test_transformers_modules_give_the_same_features_here(kind):
    model = torch_model(kind)
    flat, adapted = to_ours(recognise(arrays_of(model)), shapes_of(OURS[kind]))
    image = RNG.standard_normal((2, 64, 64, 3), np.float32)
    own = {n: a for n, a in variables(OURS[kind]).items() if "/pyramid/" in n}
    ours, (pooled, maps) = apply(OURS[kind], own | flat, image), run(model, image)
    assert not adapted
    np.testing.assert_allclose(ours.pooled, pooled, rtol=1e-4, atol=1e-4 * np.abs(pooled).max())
    shared = {"vit": 0, "swin": 1}.get(kind, 3)  # transformers returns Swin's maps after merging
    for a, b in zip(ours.pyramid[::-1][:shared], maps[::-1][:shared], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("kind", OURS)
def test_transformers_loads_exports_and_gives_the_same_features(kind):
    model = torch_model(kind)
    flat = variables(OURS[kind])
    tensors, kept = to_hugging_face(flat)
    import torch

    loaded, info = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict={name: torch.tensor(array) for name, array in tensors.items()},
        output_loading_info=True,
        **({"add_pooling_layer": False} if kind == "vit" else {}),
    )
    wrong = {key: value for key, value in info.items() if value and "buffer" not in key}
    assert not wrong and all(name.startswith("params/pyramid/") for name in kept)
    image = RNG.standard_normal((2, 64, 64, 3), np.float32)
    pooled, _ = run(loaded.eval(), image)
    np.testing.assert_allclose(
        apply(OURS[kind], flat, image).pooled, pooled, rtol=1e-3, atol=1e-4 * np.abs(pooled).max()
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_pico", "swin_tiny", "swin_micro"])
def test_export_and_import_is_exact(name):
    encoder = ENCODERS[name](width=12 if name == "swin_tiny" else 8)
    flat = variables(encoder, channels=1)
    back, adapted = to_ours(recognise(to_hugging_face(flat)[0]), {n: a.shape for n, a in flat.items()})
    assert not adapted and back.keys() == flat.keys()
    for key, array in flat.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


def renamed(hub, rules, prefix=""):
    """A file with transformers' names renamed by hand-written substitutions; every name must match
    one.
    """
    result = {}
    for name, array in hub.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        result[prefix + new] = array
    return result


def one_more(template):
    """A replacement that adds 1 to the numbers of the groups named a."""
    return lambda m: template.format(*m.groups(), *(int(g) + 1 if g and g.isdigit() else g for g in m.groups()))


TORCHVISION_RESNET = (
    (r"embedder\.embedder\.convolution", "conv1"),
    (r"embedder\.embedder\.normalization", "bn1"),
    (r"encoder\.stages\.(\d)\.layers\.(\d)\.", one_more("layer{2}.{1}.")),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"\.layer\.(\d)\.convolution", one_more(".conv{1}")),
    (r"\.layer\.(\d)\.normalization", one_more(".bn{1}")),
)
# The children of a torchvision ResNet in an nn.Sequential: conv1, bn1, relu, maxpool, layer1, ...
CHILDREN = (*TORCHVISION_RESNET, (r"^conv1", "0"), (r"^bn1", "1"), (r"^layer(\d)", lambda m: str(int(m[1]) + 3)))
TIMM_CONVNEXT = (
    (r"embeddings\.patch_embeddings", "stem.0"),
    (r"embeddings\.layernorm", "stem.1"),
    (r"^layernorm", "head.norm"),
    (r"encoder\.stages\.(\d)\.downsampling_layer", r"stages.\1.downsample"),
    (r"encoder\.stages\.(\d)\.layers", r"stages.\1.blocks"),
    (r"dwconv", "conv_dw"),
    (r"\.layernorm", ".norm"),
    (r"pwconv(\d)", r"mlp.fc\1"),
    (r"layer_scale_parameter", "gamma"),
)
CONVNEXT_AUTHORS = (
    (r"embeddings\.patch_embeddings", "downsample_layers.0.0"),
    (r"embeddings\.layernorm", "downsample_layers.0.1"),
    (r"^layernorm", "norm"),
    (r"encoder\.stages\.(\d)\.downsampling_layer", r"downsample_layers.\1"),
    (r"encoder\.stages\.(\d)\.layers", r"stages.\1"),
    (r"\.layernorm", ".norm"),
    (r"layer_scale_parameter", "gamma"),
)
TORCHVISION_CONVNEXT = (
    (r"embeddings\.patch_embeddings", "features.0.0"),
    (r"embeddings\.layernorm", "features.0.1"),
    (r"^layernorm", "classifier.0"),
    (r"encoder\.stages\.(\d)\.downsampling_layer", lambda m: f"features.{2 * int(m[1])}"),
    (r"encoder\.stages\.(\d)\.layers", lambda m: f"features.{2 * int(m[1]) + 1}"),
    (r"dwconv", "block.0"),
    (r"\.layernorm", ".block.2"),
    (r"pwconv1", "block.3"),
    (r"pwconv2", "block.5"),
    (r"layer_scale_parameter", "layer_scale"),
)
SWIN_AUTHORS = (
    (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"embeddings\.norm", "patch_embed.norm"),
    (r"^layernorm", "norm"),
    (r"encoder\.layers", "layers"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.self\.", "attn."),
    (r"attention\.output\.dense", "attn.proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
)
TIMM_SWIN = (*SWIN_AUTHORS, (r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample"))
NAMINGS = {
    "torchvision's ResNet": ("resnet_bottleneck", TORCHVISION_RESNET, ""),
    "a ResNet's children, as Hager et al. 2023 first saved them": ("resnet_basic", CHILDREN, "encoder_imaging."),
    "Hager et al. 2023": ("resnet_bottleneck", TORCHVISION_RESNET, "encoder_imaging."),
    "timm's ConvNeXt": ("convnext", TIMM_CONVNEXT, "module.backbone."),
    "the authors' ConvNeXt": ("convnext", CONVNEXT_AUTHORS, ""),
    "torchvision's ConvNeXt": ("convnext", TORCHVISION_CONVNEXT, "model."),
    "the authors' Swin": ("swin", SWIN_AUTHORS, ""),
    "timm's Swin": ("swin", TIMM_SWIN, "model."),
    "a head above transformers' ResNet": ("resnet_basic", (), "resnet."),
}


def fused(arrays):
    """query, key and value joined, as all libraries but transformers store them."""
    result = {}
    for name, array in arrays.items():
        if "attn.query" in name:
            three = [arrays[name.replace("query", x)] for x in ("query", "key", "value")]
            result[name.replace("query", "qkv")] = np.concatenate(three)
        elif "attn.key" not in name and "attn.value" not in name:
            result[name] = array
    return result


@pytest.mark.parametrize("naming", NAMINGS)
def test_other_namings_give_the_same_weights(naming):
    kind, rules, prefix = NAMINGS[naming]
    flat = variables(OURS[kind])
    hub, _ = to_hugging_face(flat)
    file = fused(renamed(hub, rules, prefix))
    if naming == "torchvision's ConvNeXt":
        file = {n: a.reshape(-1, 1, 1) if n.endswith("layer_scale") else a for n, a in file.items()}
    head = {"projector.0.weight": np.zeros((3, 3), np.float32), prefix + "fc.weight": np.zeros((5, 8), np.float32)}
    recognised = recognise(file | head)
    assert recognised.prefix == prefix
    back, _ = to_ours(recognised, {name: array.shape for name, array in flat.items()})
    assert back.keys() == flat.keys()
    for key, array in flat.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
    rest = [n for n in published.left_over(recognised, {n: a.shape for n, a in flat.items()}) if "num_batches" not in n]
    assert sorted(rest) == sorted(head)


@pytest.mark.parametrize("kind", ["resnet_basic", "convnext", "swin"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_grey_image_gives_the_same_features_as_in_three_channels(kind, channels):
    encoder = OURS[kind]
    flat = variables(encoder)
    recognised = recognise(to_hugging_face(flat)[0])
    adapted, notes = to_ours(recognised, shapes_of(encoder, channels))
    image = RNG.standard_normal((1, 32, 32, 1), np.float32)

    @jax.jit
    def first_map(flat, image):
        return encoder.apply(unflatten_dict(flat, sep="/"), image, False).pyramid[0]

    expected = first_map(flat, np.repeat(image, 3, -1))
    np.testing.assert_allclose(first_map(adapted, np.repeat(image, channels, -1)), expected, rtol=1e-3, atol=1e-4)
    assert len(notes) == 1 and f"3 input channels summed, shared among {channels}" in notes[0]


VIT_SHAPES = {
    "params/class_token": (1, 1, 8),
    "params/positions": (1, 17, 8),
    "params/patch_embedding/kernel": (4, 4, 3, 8),
    "params/patch_embedding/bias": (8,),
    "params/block1/self_norm/scale": (8,),
    "params/block1/self_norm/bias": (8,),
    **{f"params/block1/self_attention/{x}/kernel": (8, 2, 4) for x in ("query", "key", "value")},
    **{f"params/block1/self_attention/{x}/bias": (2, 4) for x in ("query", "key", "value")},
    "params/block1/self_attention/out/kernel": (2, 4, 8),
    "params/block1/self_attention/out/bias": (8,),
    "params/block1/mlp_norm/scale": (8,),
    "params/block1/mlp_norm/bias": (8,),
    "params/block1/dense1/kernel": (8, 32),
    "params/block1/dense1/bias": (32,),
    "params/block1/dense2/kernel": (32, 8),
    "params/block1/dense2/bias": (8,),
    "params/norm/scale": (8,),
    "params/norm/bias": (8,),
}
TIMM_VIT = (
    (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"^layernorm", "norm"),
    (r"encoder\.layer", "blocks"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.attention\.", "attn."),
    (r"attention\.output\.dense", "attn.proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
)


def test_names_of_a_vit_with_class_token_and_positions():
    """Names in transformers and in timm, and export and import; the published files have no
    pyramid.
    """
    flat = {name: RNG.standard_normal(shape, np.float32) for name, shape in VIT_SHAPES.items()}
    hub, kept = to_hugging_face(flat | {"params/pyramid/stride16_norm/scale": np.ones(8, np.float32)})
    assert kept == ("params/pyramid/stride16_norm/scale",)
    for file in (hub, fused(renamed(hub, TIMM_VIT, "model."))):
        back, adapted = to_ours(recognise(file), VIT_SHAPES)
        assert not adapted and back.keys() == flat.keys()
        for key, array in flat.items():
            np.testing.assert_array_equal(back[key], array, err_msg=key)
    transformers = pytest.importorskip("transformers", reason="the oracle for published weights needs transformers")
    torch = pytest.importorskip("torch", reason="the oracle for published weights needs PyTorch")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4
    )
    model = transformers.ViTModel(config, add_pooling_layer=False)
    converted, _ = to_ours(recognise(arrays_of(model)), VIT_SHAPES)
    assert converted.keys() == flat.keys()
    _, info = transformers.ViTModel.from_pretrained(
        None,
        config=config,
        add_pooling_layer=False,
        state_dict={name: torch.tensor(array) for name, array in hub.items()},
        output_loading_info=True,
    )
    assert not {key: value for key, value in info.items() if value}


def test_positions_of_another_grid_are_interpolated():
    """Equals PyTorch's bicubic interpolation; the class token's position does not change."""
    flat = {name: RNG.standard_normal(shape, np.float32) for name, shape in VIT_SHAPES.items()}
    hub, _ = to_hugging_face(flat)
    finer, notes = to_ours(recognise(hub), VIT_SHAPES | {"params/positions": (1, 65, 8)})
    resized, old = finer["params/positions"][0], flat["params/positions"][0]
    assert (resized[0] == old[0]).all() and notes == ("params/positions: positions of 4x4 patches interpolated to 8x8",)
    with pytest.raises(PublishedError, match=r"of another shape: params/positions"):
        to_ours(recognise(hub), VIT_SHAPES | {"params/positions": (1, 66, 8)})
    torch = pytest.importorskip("torch", reason="the oracle for interpolation needs PyTorch")
    grid = torch.from_numpy(old[1:].reshape(1, 4, 4, 8)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (8, 8), mode="bicubic").permute(0, 2, 3, 1)
    np.testing.assert_allclose(resized[1:], expected.reshape(64, 8), atol=1e-5)


def test_of_two_encoders_the_image_encoder_is_used_or_an_error_raised():
    hub, _ = to_hugging_face(variables(OURS["resnet_basic"]))
    online, other = (
        {f"{prefix}.encoder.{n}": a + i for n, a in hub.items()}
        for i, prefix in enumerate(("online_network", "target"))
    )
    assert recognise(other | online).prefix == "online_network.encoder."
    with pytest.raises(PublishedError, match=r"2 encoders, under a\.encoder\., target\.encoder\.: keep one"):
        recognise(other | {n.replace("online_network", "a"): v for n, v in online.items()})


def test_another_family_size_or_depth_is_refused_by_name():
    flat = variables(OURS["resnet_basic"])
    hub, _ = to_hugging_face(flat)
    recognised = recognise(hub)
    with pytest.raises(
        PublishedError, match=r"a ResNet \(names: transformers\), the encoder of the config is a ConvNeXt"
    ):
        to_ours(recognised, shapes_of(OURS["convnext"]))
    with pytest.raises(PublishedError, match=r"of another shape: .*stem_norm/scale: \(8,\) in the file"):
        to_ours(recognised, shapes_of(ResNet((1, 2, 1, 1), BasicBlock, 2 * WIDTH)))
    with pytest.raises(
        PublishedError, match=r"layers that the config's encoder does not have: encoder\.stages\.1\.layers\.1"
    ):
        to_ours(recognised, shapes_of(ResNet((1, 1, 1, 1), BasicBlock, WIDTH)))
    with pytest.raises(PublishedError, match=r"not in the file: .*stage1_block2/conv1/kernel"):
        to_ours(recognised, shapes_of(ResNet((2, 2, 1, 1), BasicBlock, WIDTH)))
    with pytest.raises(PublishedError, match=r"no encoder of a known family .*: it holds x\.weight"):
        recognise({"x.weight": np.zeros(3)})
    with pytest.raises(PublishedError, match=r"qkv\.weight: \(4, 4\) is not query, key and value"):
        recognise({"blocks.0.attn.qkv.weight": np.zeros((4, 4))})


def test_an_unpublished_encoder_is_not_exported():
    encoder = ENCODERS["vit_tiny"](width=8)
    with pytest.raises(PublishedError, match="transformers has no such encoder"):
        to_hugging_face(variables(encoder, size=32))
