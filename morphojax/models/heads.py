"""What stands on the towers, one head per objective: (what the towers saw, train) -> the arrays that its loss takes."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.fusion import ColumnHead, CrossAttended
from morphojax.models.layers import BatchNorm, Dtype
from morphojax.models.mae import PatchDecoder
from morphojax.models.pretrainer import Seen


class Projection(nn.Module):
    """[B,D] -> float32 [B,features], not normalised: (Linear-BatchNorm-ReLU) x (layers - 1), Linear, and BatchNorm where `norm_last`.

    hidden_units None: as many units as D; layers=1: one Linear.
    """

    features: int
    hidden_units: int | None = None
    layers: int = 2
    norm_last: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        hidden_units = x.shape[-1] if self.hidden_units is None else self.hidden_units
        for i in range(1, self.layers):
            # No bias before BatchNorm, which would take it away again.
            x = nn.Dense(hidden_units, use_bias=False, dtype=self.dtype, name=f"dense{i}")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"norm{i}")(x, train))
        last = nn.Dense(self.features, use_bias=not self.norm_last, dtype=self.dtype, name=f"dense{self.layers}")
        x = last(x)
        if self.norm_last:
            x = BatchNorm(dtype=self.dtype, name=f"norm{self.layers}")(x, train)
        return x.astype(jnp.float32)


class Temperature(nn.Module):
    """() -> log of the temperature, a number or a learned one."""

    value: float
    learned: bool

    @nn.compact
    def __call__(self) -> jax.Array:
        log_temperature = jnp.float32(math.log(self.value))
        return self.param("log_temperature", lambda _: log_temperature) if self.learned else log_temperature


class PairHead(nn.Module):
    """image, table: [B,features] of a subject and of its row; log_temperature; and bias, where one is given to start from.

    rows: the variant of the rows that is looked at.
    """

    features: int
    temperature: float
    learned_temperature: bool
    bias: float | None = None
    rows: str = "augmented"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        row = seen.rows[self.rows].pooled
        out = {
            "image": Projection(self.features, dtype=self.dtype, name="image_head")(seen.subjects[0], train),
            "table": Projection(self.features, dtype=self.dtype, name="table_head")(row, train),
            "log_temperature": Temperature(self.temperature, self.learned_temperature, name="temperature")(),
        }
        if self.bias is not None:
            start = self.bias
            out["bias"] = self.param("bias", lambda _: jnp.float32(start))
        return out


class PlaneHead(nn.Module):
    """embedding [B,P,features] of the P planes of each subject, their slices averaged and projected alike; present bool [B,P].

    image_planes: the plane of each of a subject's K slices.
    """

    features: int
    image_planes: tuple[str, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        of_plane = jnp.array(
            [[p == c for c in self.image_planes] for p in dict.fromkeys(self.image_planes)], jnp.float32
        )
        weight = of_plane * seen.mask[:, None]  # [B,P,K]
        count = weight.sum(-1, keepdims=True)
        slices = seen.slices[0].reshape(*seen.mask.shape, -1).astype(jnp.float32)
        pooled = jnp.einsum("bpk,bkd->bpd", weight, slices) / jnp.maximum(count, 1)
        b, p, d = pooled.shape
        embedding = Projection(self.features, dtype=self.dtype, name="head")(pooled.reshape(b * p, d), train)
        return {"embedding": embedding.reshape(b, p, -1), "present": count[..., 0] > 0}


class MatchingHead(nn.Module):
    """What `pair` gives; and true [B], wrong_table [B], wrong_image [B]: logits that a row belongs to a subject's images.

    The row's tokens look at the images' coarsest maps (`CrossAttended`); the first of them, the row as a whole, answers.
    draw: (key, image, table, log_temperature, valid, negatives) -> the wrong partners, with fields table, table_exists,
    image, image_exists (objectives.matching.hard_negatives); of these the `*_exists` are passed on.
    """

    pair: PairHead
    draw: Callable[..., Any]
    width: int
    layers: int
    heads: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        out = self.pair(seen, train)
        key = self.make_rng("draws")
        wrong = self.draw(key, out["image"], out["table"], out["log_temperature"], None, seen.negatives)
        tokens, maps = seen.rows[self.pair.rows].tokens, seen.maps(-1)

        def three(own: jax.Array, table: jax.Array, image: jax.Array) -> jax.Array:
            return jnp.concatenate([own, table, image])

        fused = CrossAttended(self.width, self.heads, self.layers, self.dtype, name="fusion")(
            three(tokens, tokens[wrong.table], tokens),
            three(maps, maps, maps[wrong.image]),
            three(seen.mask, seen.mask, seen.mask[wrong.image]),
        )
        logits = nn.Dense(1, name="answer")(fused[:, 0].astype(jnp.float32))[:, 0]
        names = ("true", "wrong_table", "wrong_image")
        return (
            out
            | dict(zip(names, jnp.split(logits, 3), strict=True))
            | {"table_exists": wrong.table_exists, "image_exists": wrong.image_exists}
        )


class ViewHead(nn.Module):
    """first, second: [B*K,features], the slices of two views, through one projection that sees both at once.

    With predictor_hidden_units also prediction_first and prediction_second: Linear-BatchNorm-ReLU-Linear of these.
    """

    features: int
    hidden_units: int | None = None
    layers: int = 2
    norm_last: bool = False
    predictor_hidden_units: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        project = Projection(
            self.features, self.hidden_units, self.layers, self.norm_last, self.dtype, name="projection"
        )
        both = project(seen.both(seen.slices), train)
        out = dict(zip(("first", "second"), seen.apart(both), strict=True))
        if self.predictor_hidden_units:
            predict = Projection(self.features, self.predictor_hidden_units, dtype=self.dtype, name="predictor")
            names = ("prediction_first", "prediction_second")
            out |= zip(names, seen.apart(predict(both, train)), strict=True)
        return out


class PrototypeHead(nn.Module):
    """first, second: [B*K,prototypes], cosines of the slices of two views and learned prototypes (Caron et al. 2020, arXiv:2006.09882)."""

    prototypes: int
    features: int
    hidden_units: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        both = Projection(self.features, self.hidden_units, dtype=self.dtype, name="projection")(
            seen.both(seen.slices), train
        )
        shape = (self.features, self.prototypes)
        prototypes = self.param("prototypes", nn.initializers.normal(1.0), shape, jnp.float32)
        prototypes = prototypes / jnp.linalg.norm(prototypes, axis=0, keepdims=True)
        unit = both * jax.lax.rsqrt(jnp.maximum(jnp.square(both).sum(-1, keepdims=True), 1e-12))
        return dict(zip(("first", "second"), seen.apart(unit @ prototypes), strict=True))


class RegionHead(nn.Module):
    """first, second: [B*K,h,w,features], every place of the decoder's maps of two views projected by itself."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        del train
        x = nn.relu(nn.Dense(self.features, dtype=self.dtype, name="dense1")(seen.both(seen.decoded)))
        x = nn.Dense(self.features, dtype=self.dtype, name="dense2")(x).astype(jnp.float32)
        return dict(zip(("first", "second"), seen.apart(x), strict=True))


class RegressionHead(nn.Module):
    """prediction: [B,columns] from the pooled image of a subject, the table unseen."""

    columns: int
    hidden_units: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        project = Projection(self.columns, self.hidden_units, dtype=self.dtype, name="regression")
        return {"prediction": project(seen.subjects[0], train)}


class ProbeHead(nn.Module):
    """prediction: [B,outputs], linear in the pooled image of a subject, whose encoder feels nothing of it."""

    outputs: int

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        del train
        return {"prediction": nn.Dense(self.outputs, name="linear")(jax.lax.stop_gradient(seen.subjects[0]))}


class RowPairHead(nn.Module):
    """first, second: [B,features] of a row as it is and of its corrupted copy."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        project = Projection(self.features, dtype=self.dtype, name="projection")
        pooled = jnp.stack([seen.rows["clean"].pooled, seen.rows["corrupted"].pooled], axis=1)
        z = project(pooled.reshape(-1, pooled.shape[-1]), train).reshape(len(pooled), 2, -1)
        return {"first": z[:, 0], "second": z[:, 1]}


class ColumnsHead(nn.Module):
    """prediction: [B,sum of cardinalities], every column of the rows whose columns were masked, told from the others;
    and, with `layers` above 0, from the images: column tokens look at every place of a level of the pyramid, so that what
    is to be told of a column teaches the places that show it.
    """

    cardinalities: tuple[int, ...]
    layers: int = 0
    level: int = -1
    width: int = 64
    heads: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        del train
        tokens = seen.rows["masked"].tokens
        if self.layers:
            look = CrossAttended(self.width, self.heads, self.layers, self.dtype, name="fusion")
            tokens = look(tokens, seen.maps(self.level), seen.mask)
        return {"prediction": ColumnHead(self.cardinalities, name="columns")(tokens[:, 1:])}


class RowHead(nn.Module):
    """prediction: [B,sum of cardinalities], every column of the rows whose columns were masked, told from the row as one vector."""

    outputs: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        project = Projection(self.outputs, dtype=self.dtype, name="projection")
        return {"prediction": project(seen.rows["masked"].pooled, train)}


class PatchHead(nn.Module):
    """prediction [N,P,patch*patch*C], image [N,H,W,C] and masked bool [N,P]: the patches of a slice, told from the visible ones."""

    patch: int
    channels: int
    width: int
    depth: int
    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen, train: bool) -> dict[str, jax.Array]:
        del train
        assert seen.masked_patches is not None  # the term says `parts`
        image = seen.images[0]
        grid = (image.shape[1] // self.patch, image.shape[2] // self.patch)
        decoder = PatchDecoder(
            self.patch, self.channels, self.width, self.depth, self.heads, self.dtype, name="decoder"
        )
        prediction = decoder(seen.masked_patches.tokens, seen.masked_patches.visible, grid)
        return {"prediction": prediction, "image": image, "masked": seen.masked_patches.masked}
