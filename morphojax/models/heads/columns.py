"""Heads that predict table columns, and the head of table-only contrast."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.fusion import ColumnHead, CrossAttended
from morphojax.models.heads.projection import Projection
from morphojax.models.layers import Dtype
from morphojax.models.pretrainer import TowerOutputs


class RegressionHead(nn.Module):
    """prediction: [B,columns] from a subject's pooled image features, without its table row."""

    columns: int
    hidden_units: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        project = Projection(self.columns, self.hidden_units, dtype=self.dtype, name="regression")
        return {"prediction": project(towers.subject_features[0], train)}


class ProbeHead(nn.Module):
    """prediction: [B,outputs], linear in a subject's pooled image features. No gradient flows to
    the encoder.
    """

    outputs: int

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        del train
        return {"prediction": nn.Dense(self.outputs, name="linear")(jax.lax.stop_gradient(towers.subject_features[0]))}


class RowPairHead(nn.Module):
    """first, second: [B,features] of each row and of its corrupted copy."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        project = Projection(self.features, dtype=self.dtype, name="projection")
        pooled = jnp.stack([towers.row_features["clean"].pooled, towers.row_features["corrupted"].pooled], axis=1)
        z = project(pooled.reshape(-1, pooled.shape[-1]), train).reshape(len(pooled), 2, -1)
        return {"first": z[:, 0], "second": z[:, 1]}


class ColumnsHead(nn.Module):
    """prediction: [B,sum of cardinalities], all columns of the rows with masked columns, from the
    column tokens.

    With `layers` above 0, the tokens also attend to the images, at every position of one level of
    the pyramid.
    """

    cardinalities: tuple[int, ...]
    layers: int = 0
    level: int = -1
    width: int = 64
    heads: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        del train
        tokens = towers.row_features["masked"].tokens
        if self.layers:
            fusion = CrossAttended(self.width, self.heads, self.layers, self.dtype, name="fusion")
            tokens = fusion(tokens, towers.maps(self.level), towers.slice_mask)
        return {"prediction": ColumnHead(self.cardinalities, name="columns")(tokens[:, 1:])}


class RowHead(nn.Module):
    """prediction: [B,sum of cardinalities], all columns of the rows with masked columns, from the
    pooled row features.
    """

    outputs: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        project = Projection(self.outputs, dtype=self.dtype, name="projection")
        return {"prediction": project(towers.row_features["masked"].pooled, train)}
