"""The parameter names of Swin and ViT in the libraries that publish weights.

`split_projections` separates joined query, key and value arrays before these rules are applied.
"""

from morphojax.models.published.naming import Family, Naming, Rules, each

_PROJECTIONS = ("query", "key", "value")
_MLP = {"fc1.P": "intermediate.dense.P", "fc2.P": "output.dense.P"}
_NORMS = {"norm1.P": "layernorm_before.P", "norm2.P": "layernorm_after.P"}


def _block(prefix: str, hub: str, attention: str, out: str, self_attention: str) -> Rules:
    """Rules for a block of timm: norms, attention, MLP."""
    return (
        *each(prefix, hub, _NORMS),
        *((f"{prefix}{attention}{x}.P", f"{hub}{self_attention}{x}.P") for x in _PROJECTIONS),
        (f"{prefix}{attention}{out}.P", f"{hub}attention.output.dense.P"),
        *each(prefix + "mlp.", hub, _MLP),
    )


def _modules(prefix: str, hub: str, self_attention: str) -> Rules:
    """Rules for a block of transformers' modules: since version 5 their names differ from those in
    its files.
    """
    return (
        *((f"{prefix}{x}.P", f"{hub}{x}.P") for x in ("layernorm_before", "layernorm_after")),
        *_block(prefix, hub, "attention.", "out", self_attention),
    )


_SWIN = "encoder.layers.N.blocks.N."
_TABLE = "relative_position_bias_table"
_SAME_SWIN = (
    ("embeddings.patch_embeddings.projection.P", "embeddings.patch_embeddings.projection.P"),
    ("embeddings.norm.P", "embeddings.norm.P"),
    ("layernorm.P", "layernorm.P"),
    ("encoder.layers.N.downsample.norm.P", "encoder.layers.N.downsample.norm.P"),
    ("encoder.layers.N.downsample.reduction.P", "encoder.layers.N.downsample.reduction.P"),
)
SWIN = Family(
    "Swin",
    "patch_embedding/kernel",
    ("patch_embedding/kernel", "stage1_block1/relative_position_bias"),
    (
        ("patch_embedding.P", "embeddings.patch_embeddings.projection.P"),
        ("patch_norm.P", "embeddings.norm.P"),
        ("norm.P", "layernorm.P"),
        ("stageN_merge.norm.P", "encoder.layers.N.downsample.norm.P"),
        ("stageN_merge.reduction.P", "encoder.layers.N.downsample.reduction.P"),
        *each(
            "stageN_blockN.",
            _SWIN,
            {
                "attention_norm.P": "layernorm_before.P",
                "attention.out.P": "attention.output.dense.P",
                **{f"attention.{x}.P": f"attention.self.{x}.P" for x in _PROJECTIONS},
                "relative_position_bias": f"attention.self.{_TABLE}",
                "mlp_norm.P": "layernorm_after.P",
                "dense1.P": "intermediate.dense.P",
                "dense2.P": "output.dense.P",
            },
        ),
    ),
    (
        Naming("transformers", _SWIN.replace("N", "0") + "attention.self.query.weight"),
        Naming(
            "the modules of transformers",
            _SWIN.replace("N", "0") + "attention.query.weight",
            (
                *_SAME_SWIN,
                *_modules(_SWIN, _SWIN, "attention.self."),
                (f"{_SWIN}attention.relative_position_bias.{_TABLE}", f"{_SWIN}attention.self.{_TABLE}"),
            ),
        ),
        Naming(
            "its authors' or timm",
            "layers.0.blocks.0.attn.query.weight",
            (
                ("patch_embed.proj.P", "embeddings.patch_embeddings.projection.P"),
                ("patch_embed.norm.P", "embeddings.norm.P"),
                ("norm.P", "layernorm.P"),
                ("layers.N.downsample.norm.P", "encoder.layers.N.downsample.norm.P"),
                ("layers.N.downsample.reduction.P", "encoder.layers.N.downsample.reduction.P"),
                *_block("layers.N.blocks.N.", _SWIN, "attn.", "proj", "attention.self."),
                (f"layers.N.blocks.N.attn.{_TABLE}", f"{_SWIN}attention.self.{_TABLE}"),
            ),
        ),
    ),
)
_VIT = "encoder.layer.N."
_EMBEDDINGS = {
    "embeddings.cls_token": "embeddings.cls_token",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.P": "embeddings.patch_embeddings.projection.P",
    "layernorm.P": "layernorm.P",
}
VIT = Family(
    "ViT",
    "patch_embedding/kernel",
    ("patch_embedding/kernel", "class_token", "positions"),
    (
        ("class_token", "embeddings.cls_token"),
        ("positions", "embeddings.position_embeddings"),
        ("patch_embedding.P", "embeddings.patch_embeddings.projection.P"),
        ("norm.P", "layernorm.P"),
        *each(
            "blockN.",
            _VIT,
            {
                "self_norm.P": "layernorm_before.P",
                "self_attention.out.P": "attention.output.dense.P",
                **{f"self_attention.{x}.P": f"attention.attention.{x}.P" for x in _PROJECTIONS},
                "mlp_norm.P": "layernorm_after.P",
                "dense1.P": "intermediate.dense.P",
                "dense2.P": "output.dense.P",
            },
        ),
    ),
    (
        Naming("transformers", "encoder.layer.0.attention.attention.query.weight"),
        Naming(
            "the modules of transformers",
            "layers.0.attention.query.weight",
            (*_EMBEDDINGS.items(), *_modules("layers.N.", _VIT, "attention.attention.")),
        ),
        Naming(
            "its authors' or timm",
            "blocks.0.attn.query.weight",
            (
                ("cls_token", "embeddings.cls_token"),
                ("pos_embed", "embeddings.position_embeddings"),
                ("patch_embed.proj.P", "embeddings.patch_embeddings.projection.P"),
                ("norm.P", "layernorm.P"),
                *_block("blocks.N.", _VIT, "attn.", "proj", "attention.attention."),
            ),
        ),
    ),
    own=("pyramid/",),
)
