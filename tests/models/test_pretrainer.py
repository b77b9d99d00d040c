import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.heads import MatchingHead, PairHead, PatchHead, ProbeHead, Projection, RegionHead, ViewHead
from morphojax.models.pretrainer import Pretrainer, join_views, split_views
from morphojax.models.tabular import TabularMLP, TabularTransformer
from morphojax.models.unet import UNetDecoder
from morphojax.models.vit import VisionTransformer
from morphojax.objectives.matching import hard_negatives
from tests.models.test_towers import TinyEncoder

RNG = np.random.default_rng(0)
MASK = jnp.array([[True, True, True], [True, False, False], [False, True, True], [True, True, False]])
IMAGES = jnp.asarray(RNG.standard_normal((4, 2, 3, 16, 16, 1)), jnp.float32)
VALUES = jnp.asarray(np.stack([RNG.standard_normal(4), RNG.integers(0, 3, 4)], 1), jnp.float32)
ROW = (VALUES, jnp.zeros((4, 2), bool), jnp.zeros((4, 2)))
OTHER_ROW = (VALUES[::-1], jnp.zeros((4, 2), bool), jnp.zeros((4, 2)))
NEGATIVES = ~jnp.eye(4, dtype=bool)
PAIR = PairHead(5, temperature=0.07, learned_temperature=True)


def pretrainer(heads, **fields):
    return Pretrainer(TinyEncoder(), heads, TabularMLP(cardinalities=(1, 3), hidden_units=16), **fields)


def apply(model, images=IMAGES, mask=MASK, rows=None, train=True, variables=None):
    """(outputs, tower outputs), new statistics, variables."""
    rows = {"augmented": ROW} if rows is None else rows
    arguments, draws = (images, mask, rows, NEGATIVES), {"draws": jax.random.key(1)}
    if variables is None:
        variables = jax.jit(functools.partial(model.init, train=False))(
            {"params": jax.random.key(0), **draws}, *arguments
        )
    run = jax.jit(functools.partial(model.apply, train=train, mutable=["batch_stats"], rngs=draws))
    out, new = run(variables, *arguments)
    return out, new, variables


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("train", [True, False])
def test_masked_slices_have_no_influence(pooling, train):
    """Bit for bit, on outputs, batch statistics and gradients."""
    model = pretrainer({"pair": PAIR}, pooling=pooling)
    variables = apply(model)[2]
    weights = jnp.asarray(RNG.standard_normal((4, 5)), jnp.float32)

    def loss(params, images):
        (out, _), new, _ = apply(model, images, train=train, variables={**variables, "params": params})
        return (out["pair"]["image"] * weights).sum(), (out, new)

    run = jax.jit(jax.grad(loss, has_aux=True))
    shown = MASK[:, None, :, None, None, None]
    other = jnp.where(shown, IMAGES, 100 * RNG.standard_normal(IMAGES.shape).astype(np.float32))
    chex.assert_trees_all_equal(run(variables["params"], IMAGES), run(variables["params"], other))
    changed = run(variables["params"], IMAGES.at[0, 0, 0].add(1.0))  # a valid slice has
    assert not np.array_equal(run(variables["params"], IMAGES)[1][0]["pair"]["image"], changed[1][0]["pair"]["image"])


def test_view_features_equal_the_encoder_alone():
    """One pass encodes all views; the features keep the order of views, subjects and slices."""
    model = pretrainer({"pair": PAIR}, decoder=UNetDecoder(widths=(4, 4)))
    (_, towers), _, variables = apply(model, mask=jnp.ones((4, 3), bool), train=False)
    encoder = {name: variables[name]["encoder"] for name in ("params", "batch_stats")}
    for view in range(2):
        alone = TinyEncoder().apply(encoder, IMAGES[:, view].reshape(12, 16, 16, 1), False)
        np.testing.assert_allclose(towers.slice_features[view], alone.pooled, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(towers.pyramids[view][0], alone.pyramid[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            towers.subject_features[view], alone.pooled.reshape(4, 3, -1).mean(1), rtol=1e-5, atol=1e-6
        )
        assert towers.decoder_maps[view].shape == (12, 8, 8, 4)
    np.testing.assert_array_equal(towers.maps(0).reshape(12, 8, 8, 6), towers.pyramids[0][0])
    np.testing.assert_array_equal(join_views(towers.slice_features)[1], towers.slice_features[1][0])
    chex.assert_trees_all_equal(split_views(join_views(towers.slice_features)), towers.slice_features)


def test_row_variants_are_encoded_separately():
    model = pretrainer({"pair": PAIR})
    rows = {"augmented": ROW, "clean": OTHER_ROW}
    (_, towers), _, _ = apply(model, rows=rows, train=False)
    (_, alone), _, _ = apply(model, rows={"augmented": OTHER_ROW}, train=False)
    np.testing.assert_allclose(
        towers.row_features["clean"].pooled, alone.row_features["augmented"].pooled, rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(towers.row_features["clean"].pooled, towers.row_features["augmented"].pooled)


def test_pair_head():
    (out, _), _, variables = apply(pretrainer({"pair": PAIR}))
    assert jax.tree.map(jnp.shape, out["pair"]) == {"image": (4, 5), "table": (4, 5), "log_temperature": ()}
    np.testing.assert_allclose(out["pair"]["log_temperature"], np.log(0.07), rtol=1e-6)
    assert set(variables["params"]) == {"encoder", "table_encoder", "heads_pair"}
    assert variables["params"]["heads_pair"]["image_head"]["dense1"]["kernel"].shape == (6, 6)
    (out, _), _, variables = apply(pretrainer({"pair": PairHead(5, 0.07, False, bias=-10.0)}))
    assert out["pair"]["bias"] == -10 and "temperature" not in variables["params"]["heads_pair"]


def test_frozen_encoder_gets_no_gradient_and_no_new_statistics():
    """The heads still get a gradient."""
    model = pretrainer({"views": ViewHead(3)}, train_encoder=False)
    variables = apply(model)[2]

    def loss(params):
        (out, _), new, _ = apply(model, variables={**variables, "params": params})
        return jnp.square(out["views"]["first"]).sum(), new["batch_stats"]

    grads, stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert all((g == 0).all() for g in jax.tree.leaves(grads["encoder"]))
    assert any((g != 0).any() for g in jax.tree.leaves(grads["heads_views"]))
    chex.assert_trees_all_equal(stats["encoder"], variables["batch_stats"]["encoder"])


def test_probe_head_sends_no_gradient_to_the_encoder():
    model = pretrainer({"probe": ProbeHead(3)})
    variables = apply(model)[2]

    def loss(params):
        (out, _), _, _ = apply(model, variables={**variables, "params": params})
        return jnp.square(out["probe"]["prediction"]).sum()

    grads = jax.grad(loss)(variables["params"])
    assert all((g == 0).all() for g in jax.tree.leaves(grads["encoder"]))
    assert any((g != 0).any() for g in jax.tree.leaves(grads["heads_probe"]))


def test_matching_head_scores_the_drawn_pairs():
    """The logit of a wrong pair equals the logit of the same images and row as a true pair."""
    head = MatchingHead(PAIR, hard_negatives, width=8, layers=1, heads=2)
    model = Pretrainer(
        TinyEncoder(), {"match": head}, TabularTransformer(cardinalities=(1, 3), width=8, layers=1, heads=2)
    )
    all_slices = jnp.ones((4, 3), bool)
    (out, _), _, variables = apply(model, mask=all_slices, train=False)
    out = out["match"]
    assert {n: out[n].shape for n in ("true", "wrong_table", "wrong_image")} == dict.fromkeys(
        ("true", "wrong_table", "wrong_image"), (4,)
    )
    assert out["table_exists"].all() and out["image_exists"].all()

    # The logit of logits subject with logits row, each as the true pair of a batch.
    def true_logits(row):
        (out, _), _, _ = apply(model, mask=all_slices, rows={"augmented": row}, train=False, variables=variables)
        return out["match"]["true"]

    rows = [jnp.stack([jnp.roll(x, -shift, 0) for shift in range(4)]) for x in ROW]
    logits = np.asarray(jax.vmap(true_logits)(tuple(rows)))  # [shift, image]: image i with row i + shift
    for i in range(4):
        assert np.isclose(out["wrong_table"][i], logits[1:, i], rtol=1e-4).any()
        expected = [logits[shift, (i - shift) % 4] for shift in range(1, 4)]
        assert np.isclose(out["wrong_image"][i], expected, rtol=1e-4).any()


def test_matching_head_draws_among_the_given_negatives():
    given = []

    def draw(*arguments):
        given.append(arguments[-1])
        return hard_negatives(*arguments)

    head = MatchingHead(PAIR, draw, width=8, layers=1, heads=2)
    model = Pretrainer(
        TinyEncoder(), {"match": head}, TabularTransformer(cardinalities=(1, 3), width=8, layers=1, heads=2)
    )
    keys, negatives = {"params": jax.random.key(0), "draws": jax.random.key(1)}, jnp.eye(4, dtype=bool)[::-1]
    model.init(keys, IMAGES, MASK, {"augmented": ROW}, negatives, train=False)
    np.testing.assert_array_equal(given[0], negatives)


def test_region_head_shapes():
    model = pretrainer({"regions": RegionHead(3)}, decoder=UNetDecoder(widths=(4, 4)))
    (out, _), _, _ = apply(model)
    assert out["regions"]["first"].shape == out["regions"]["second"].shape == (12, 8, 8, 3)


@pytest.mark.parametrize(
    ("layers", "norm_last", "names"),
    [
        (1, False, ["dense1"]),
        (2, False, ["dense1", "dense2", "norm1"]),
        (3, True, ["dense1", "dense2", "dense3", "norm1", "norm2", "norm3"]),
    ],
)
def test_projection_layers(layers, norm_last, names):
    out, variables = Projection(5, 7, layers, norm_last).init_with_output(jax.random.key(0), jnp.ones((4, 6)), True)
    assert out.shape == (4, 5) and sorted(variables["params"]) == names
    assert ("bias" in variables["params"][f"dense{layers}"]) is not norm_last


@pytest.mark.parametrize("frozen", [False, True])
def test_masked_patches_with_and_without_a_frozen_encoder(frozen):
    """The decoder gets a gradient, a frozen encoder does not; unused encoder parameters are in the
    checkpoint.
    """
    encoder = VisionTransformer(width=4, depth=1, heads=1, patch=8)
    model = Pretrainer(encoder, {"patches": PatchHead(8, 1, 8, 1, 2)}, image_input="masked", train_encoder=not frozen)
    variables = apply(model, rows={})[2]
    assert "pyramid" in variables["params"]["encoder"]

    def loss(params):
        (out, _), _, _ = apply(model, rows={}, variables={**variables, "params": params})
        return jnp.square(out["patches"]["prediction"]).sum()

    grads = jax.jit(jax.grad(loss))(variables["params"])
    assert (not any(np.any(g) for g in jax.tree.leaves(grads["encoder"]))) is frozen
    assert any(np.any(g) for g in jax.tree.leaves(grads["heads_patches"]))


def test_missing_pyramid_level_is_refused():
    (_, towers), _, _ = apply(pretrainer({"pair": PAIR}))
    with pytest.raises(ValueError, match="level=9 of a pyramid of 1 levels"):
        towers.maps(9)
