"""Weights from one model to another: what is taken, adapted, reported and refused."""

import numpy as np
import pytest

from morphojax.train.transfer import TransferError, flatten, merge, of_plane, transfer_modules


def encoder(channels: int, width: int, extra: bool = False) -> dict:
    random = np.random.default_rng(width + channels)
    stem = {"kernel": random.normal(size=(3, 3, channels, width)).astype(np.float32)}
    params = {"stem": stem, "stage1": {"kernel": random.normal(size=(1, 1, width, 4)).astype(np.float32)}}
    if extra:
        params["stage2"] = {"kernel": np.ones((2, 2), np.float32)}
    return {
        "params": {"encoder": params, "head": {"kernel": np.ones((4, 2), np.float32)}},
        "batch_stats": {"encoder": {"norm": {"mean": random.normal(size=4).astype(np.float32)}}},
    }


def test_transfer_takes_the_encoder_and_says_what_became_of_the_rest() -> None:
    source, target = encoder(1, 8), encoder(1, 8, extra=True)
    target["params"]["encoder"]["stem"]["kernel"] = np.zeros((3, 3, 1, 8), np.float32)
    taken, report = transfer_modules(source, target)
    merged = merge(target, taken)
    np.testing.assert_array_equal(
        merged["params"]["encoder"]["stem"]["kernel"], source["params"]["encoder"]["stem"]["kernel"]
    )
    np.testing.assert_array_equal(
        merged["batch_stats"]["encoder"]["norm"]["mean"], source["batch_stats"]["encoder"]["norm"]["mean"]
    )
    np.testing.assert_array_equal(merged["params"]["head"]["kernel"], target["params"]["head"]["kernel"])
    assert len(report.loaded) == 3 and report.absent == ("params/encoder/stage2/kernel",)
    assert report.unused == ("params/head/kernel",) and not report.adapted and not report.differing
    text = report.text("runs/x")
    assert "transfer from runs/x\n  loaded     3 arrays of: encoder\n" in text
    assert "new        1 arrays that the checkpoint lacks\n    params/encoder/stage2/kernel\n" in text
    assert "not used   1 arrays of: head\n" in text
    assert flatten(merged).keys() == flatten(target).keys()


def test_the_encoder_of_one_plane_is_taken_from_several() -> None:
    shared = {"params": {"encoder": {"stem": {"w": 1.0}}, "head": {}}}
    assert of_plane(shared, ("sax", "la_2ch"), "--plane") == shared
    own = {
        "params": {"encoder": {"encoders_sax": {"w": 1.0}, "encoders_la_2ch": {"w": 2.0}}, "head": {"w": 3.0}},
        "batch_stats": {},
    }
    assert of_plane(own, ("la_2ch",), "--plane") == {
        "params": {"encoder": {"w": 2.0}, "head": {"w": 3.0}},
        "batch_stats": {},
    }
    for planes in (("la_4ch",), ("sax", "la_2ch"), ()):
        with pytest.raises(TransferError, match=r"an encoder for each of la_2ch, sax.*set --plane to one of them"):
            of_plane(own, planes, "--plane")


@pytest.mark.parametrize(("source_channels", "target_channels"), [(3, 1), (1, 3), (8, 1), (1, 50), (50, 1)])
def test_transfer_adapts_the_input_channels_of_a_grey_image(source_channels: int, target_channels: int) -> None:
    source, target = encoder(source_channels, 8), encoder(target_channels, 8)
    taken, report = transfer_modules(source, target)
    kernel, old = taken["params/encoder/stem/kernel"], source["params"]["encoder"]["stem"]["kernel"]
    assert kernel.shape == (3, 3, target_channels, 8) and len(report.adapted) == 1
    np.testing.assert_allclose(kernel.sum(2), old.sum(2), rtol=1e-5)  # the answer to a grey image stays


def test_transfer_reports_other_shapes_and_refuses_when_nothing_fits() -> None:
    source, target = encoder(1, 8), encoder(1, 16)
    _, report = transfer_modules(source, target)  # the running mean alone fits
    assert len(
        report.differing
    ) == 2 and "stem/kernel: (3, 3, 1, 8) in the checkpoint, (3, 3, 1, 16) in the model" in "".join(report.differing)
    wide, narrow = encoder(8, 8), encoder(16, 8)  # as within a network: no images have so many channels
    assert not transfer_modules(wide, narrow)[1].adapted
    with pytest.raises(TransferError, match=r"config.init_from: nothing .* fits .*config.model.width"):
        transfer_modules({"params": source["params"], "batch_stats": {}}, target)
