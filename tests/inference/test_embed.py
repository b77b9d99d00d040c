"""Embeddings of subjects with the encoder of a trained run."""

import io
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from tensorboard.plugins.projector import projector_plugin as plugin

from morphojax.data.store.dataset import Dataset
from morphojax.inference import embed
from morphojax.models.towers import mean_of_slices
from morphojax.train import checkpoint
from morphojax.train.run import DIGESTS, RunError
from tests.brightness import SPLITS, N


@pytest.fixture(scope="module")
def dataset(brightness: Path) -> Dataset:
    return Dataset.open(brightness)


@pytest.fixture(scope="module")
def encoder(segmented):
    return embed.load_encoder(segmented)


@pytest.fixture(scope="module")
def embeddings(encoder, dataset):
    return embed.embed(encoder, dataset, slices=3)


def test_an_embedding_is_the_mean_over_the_subjects_slices(encoder, dataset, embeddings):
    """Slice by slice, straight from the records; the subject without ED is left out, and the
    padding of the last batch too.
    """
    np.testing.assert_array_equal(embeddings.subject, np.arange(1, N))
    stacks = dataset.stacks("sax").query("phase == 'ED'").set_index("subject")
    for i in (1, 2, 3, N - 1):
        records = [dataset.slices("sax")[stacks["first"][i] + z]["image"] for z in range(stacks["slices"][i])][:3]
        if stacks["slices"][i] > 3:
            continue
        each = [encoder.apply(r[None, None, :, :, None], np.ones((1, 1), bool), ("sax",))[0] for r in records]
        np.testing.assert_allclose(embeddings.values[i - 1], np.mean(each, axis=0), rtol=1e-4, atol=1e-5)


def test_embeddings_do_not_depend_on_the_batch(encoder, dataset, embeddings):
    again = embed.embed(encoder, dataset, slices=3, batch_size=5, subjects=[3, 9, 20])
    np.testing.assert_array_equal(again.subject, [3, 9, 20])
    np.testing.assert_allclose(again.values, embeddings.values[[2, 8, 19]], rtol=1e-4, atol=1e-5)


def test_masked_slices_have_no_influence_and_none_gives_zero():
    pooled, mask = jnp.array([[[1.0], [3.0], [jnp.nan]], [[jnp.nan]] * 3]), jnp.array([[1, 1, 0], [0, 0, 0]], bool)
    np.testing.assert_array_equal(mean_of_slices(pooled, mask), [[2.0], [0.0]])


def test_frames_are_concatenated_for_subjects_that_have_them_all(encoder, dataset, embeddings):
    both = embed.embed_frames(encoder, dataset, ("ES", "ED"), slices=3)
    np.testing.assert_array_equal(both.subject, embeddings.subject)
    width = embeddings.values.shape[1]
    np.testing.assert_allclose(both.values[:, width:], embeddings.values, rtol=1e-5)
    assert not np.allclose(both.values[:, :width], embeddings.values)
    first = embed.embed(encoder, dataset, frames=("ED", "ES"), slices=3)  # the first that a subject has
    np.testing.assert_array_equal(first.subject, np.arange(N))


def test_the_encoder_is_that_of_the_checkpoint(segmented, encoder):
    stored = checkpoint.load_variables(segmented, "last")
    jax.tree.map(np.testing.assert_array_equal, encoder.variables["params"]["encoder"], stored["params"]["encoder"])


def test_another_architecture_is_refused(segmented, tmp_path):
    shutil.copytree(segmented, tmp_path / "run")
    described = json.loads((segmented / "config.json").read_text())
    (tmp_path / "run" / DIGESTS).unlink()  # as in a run of an older version, whose files nobody vouches for
    described["model"]["encoder"] = "resnet34"
    (tmp_path / "run" / "config.json").write_text(json.dumps(described))
    with pytest.raises(RunError, match="encoder is not the one"):
        embed.load_encoder(tmp_path / "run")
    del described["model"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(described))
    with pytest.raises(RunError, match="not as a run writes it"):
        embed.load_encoder(tmp_path / "run")


def test_pandas_and_the_projector_read_the_exported_values(dataset, embeddings, tmp_path):
    embed.export(tmp_path / "e", embeddings, dataset, ["group", "gappy"])
    for path in (tmp_path / "e").iterdir():
        assert b"secret" not in path.read_bytes()
    table = pd.read_parquet(io.BytesIO((tmp_path / "e" / "embeddings.parquet").read_bytes()))
    np.testing.assert_array_equal(table[[c for c in table if c.startswith("e")]].to_numpy(), embeddings.values)
    assert table["subject"].tolist() == embeddings.subject.tolist()
    assert table["split"].tolist() == SPLITS[embeddings.subject].tolist()
    assert table["group"].tolist() == dataset.table["group"][1:].tolist()
    text = plugin.ProjectorConfig()
    plugin.text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), text)
    tensors = plugin._read_tensor_tsv_file(str(tmp_path / text.embeddings[0].tensor_path))
    np.testing.assert_allclose(tensors, embeddings.values, rtol=1e-5)
    rows = pd.read_csv(tmp_path / text.embeddings[0].metadata_path, sep="\t")
    assert len(rows) == len(embeddings.subject) and list(rows) == ["subject", "split", "group", "gappy"]
