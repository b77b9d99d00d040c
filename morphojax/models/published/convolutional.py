"""The parameter names of ResNet and ConvNeXt in the libraries that publish weights."""

from morphojax.models.published.naming import Family, Naming, each

_BLOCK = "encoder.stages.N.layers.N."
RESNET = Family(
    "ResNet",
    "stem_conv/kernel",
    ("stem_conv/kernel", "stem_norm/mean"),
    (
        ("stem_conv.P", "embedder.embedder.convolution.P"),
        ("stem_norm.P", "embedder.embedder.normalization.P"),
        ("stageN_blockN.convN.P", _BLOCK + "layer.N.convolution.P"),
        ("stageN_blockN.normN.P", _BLOCK + "layer.N.normalization.P"),
        ("stageN_blockN.shortcut_conv.P", _BLOCK + "shortcut.convolution.P"),
        ("stageN_blockN.shortcut_norm.P", _BLOCK + "shortcut.normalization.P"),
    ),
    (
        Naming("transformers", "embedder.embedder.convolution.weight"),
        Naming(
            "torchvision or timm",
            "layer1.0.conv1.weight",
            (
                ("conv0.P", "embedder.embedder.convolution.P"),
                ("bn0.P", "embedder.embedder.normalization.P"),
                ("layerN.N.convN.P", _BLOCK + "layer.N.convolution.P"),
                ("layerN.N.bnN.P", _BLOCK + "layer.N.normalization.P"),
                ("layerN.N.downsample.0.P", _BLOCK + "shortcut.convolution.P"),
                ("layerN.N.downsample.1.P", _BLOCK + "shortcut.normalization.P"),
            ),
            counted="layer|conv|bn",
        ),
        Naming(
            "the children of torchvision's, by number",
            "4.0.conv1.weight",
            (
                ("0.P", "embedder.embedder.convolution.P"),
                ("1.P", "embedder.embedder.normalization.P"),
                *(
                    rule
                    for child, stage in zip("4567", "0123", strict=True)
                    for rule in each(
                        f"{child}.N.",
                        f"encoder.stages.{stage}.layers.N.",
                        {
                            "convN.P": "layer.N.convolution.P",
                            "bnN.P": "layer.N.normalization.P",
                            "downsample.0.P": "shortcut.convolution.P",
                            "downsample.1.P": "shortcut.normalization.P",
                        },
                    )
                ),
            ),
            counted="conv|bn",
        ),
    ),
)
_ENDS = {"stem.0.P": "embeddings.patch_embeddings.P", "stem.1.P": "embeddings.layernorm.P"}
_TORCHVISION_CONVNEXT = {
    "block.0.P": "dwconv.P",
    "block.2.P": "layernorm.P",
    "block.3.P": "pwconv1.P",
    "block.5.P": "pwconv2.P",
    "layer_scale": "layer_scale_parameter",
}
CONVNEXT = Family(
    "ConvNeXt",
    "stem_conv/kernel",
    ("stem_conv/kernel", "stage1_block1/depthwise/kernel"),
    (
        ("stem_conv.P", "embeddings.patch_embeddings.P"),
        ("stem_norm.P", "embeddings.layernorm.P"),
        ("norm.P", "layernorm.P"),
        ("stageN_down_norm.P", "encoder.stages.N.downsampling_layer.0.P"),
        ("stageN_down_conv.P", "encoder.stages.N.downsampling_layer.1.P"),
        ("stageN_blockN.depthwise.P", _BLOCK + "dwconv.P"),
        ("stageN_blockN.norm.P", _BLOCK + "layernorm.P"),
        ("stageN_blockN.dense1.P", _BLOCK + "pwconv1.P"),
        ("stageN_blockN.dense2.P", _BLOCK + "pwconv2.P"),
        ("stageN_blockN.weight", _BLOCK + "layer_scale_parameter"),
    ),
    (
        Naming("transformers", "encoder.stages.0.layers.0.dwconv.weight"),
        Naming(
            "timm",
            "stages.0.blocks.0.conv_dw.weight",
            (
                *_ENDS.items(),
                ("head.norm.P", "layernorm.P"),
                ("stages.N.downsample.N.P", "encoder.stages.N.downsampling_layer.N.P"),
                ("stages.N.blocks.N.conv_dw.P", _BLOCK + "dwconv.P"),
                ("stages.N.blocks.N.norm.P", _BLOCK + "layernorm.P"),
                ("stages.N.blocks.N.mlp.fc1.P", _BLOCK + "pwconv1.P"),
                ("stages.N.blocks.N.mlp.fc2.P", _BLOCK + "pwconv2.P"),
                ("stages.N.blocks.N.gamma", _BLOCK + "layer_scale_parameter"),
            ),
        ),
        Naming(
            "its authors'",
            "stages.0.0.dwconv.weight",
            (
                ("downsample_layers.0.0.P", "embeddings.patch_embeddings.P"),
                ("downsample_layers.0.1.P", "embeddings.layernorm.P"),
                ("downsample_layers.N.N.P", "encoder.stages.N.downsampling_layer.N.P"),
                ("norm.P", "layernorm.P"),
                ("stages.N.N.dwconv.P", _BLOCK + "dwconv.P"),
                ("stages.N.N.norm.P", _BLOCK + "layernorm.P"),
                ("stages.N.N.pwconv1.P", _BLOCK + "pwconv1.P"),
                ("stages.N.N.pwconv2.P", _BLOCK + "pwconv2.P"),
                ("stages.N.N.gamma", _BLOCK + "layer_scale_parameter"),
            ),
        ),
        Naming(
            "torchvision",
            "features.1.0.block.0.weight",
            (
                ("features.0.0.P", "embeddings.patch_embeddings.P"),
                ("features.0.1.P", "embeddings.layernorm.P"),
                ("classifier.0.P", "layernorm.P"),
                *(
                    rule
                    for stage in range(4)
                    for rule in (
                        (f"features.{2 * stage}.N.P", f"encoder.stages.{stage}.downsampling_layer.N.P"),
                        *each(
                            f"features.{2 * stage + 1}.N.", f"encoder.stages.{stage}.layers.N.", _TORCHVISION_CONVNEXT
                        ),
                    )
                ),
            ),
        ),
    ),
)
