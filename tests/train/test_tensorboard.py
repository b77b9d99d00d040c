from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from morphojax.train import tensorboard
from morphojax.train.logger import Logger


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("train/loss", "loss/train"),
        ("train/loss_cross_entropy", "loss/train cross_entropy"),
        ("val_ema/loss", "loss/val_ema"),
        ("val/dice", "dice/val"),
        ("val/dice/lv_cavity", "dice/val lv_cavity"),
        ("train/info_nce/alignment", "objective info_nce/alignment train"),
        ("train/learning_rate", "training/learning_rate"),
        ("train/pixels", "training/pixels train"),
        ("train/grad_norm/encoder", "z_dynamics/gradient encoder"),
        ("train/grad_norm/encoder/stage1", None),
        ("dynamics/cka/pooled", "z_dynamics/cka/pooled"),
        ("dynamics/cka/level1", None),
        ("dynamics/column/age", None),
        ("other", "other"),
    ],
)
def test_groups_come_in_the_order_of_their_importance(name, tag):
    assert tensorboard.tag(name) == tag


def test_the_table_of_hyperparameters_is_written_once(tmp_path: Path):
    config = {"optimizer.learning_rate": 1e-3, "data.structures": ("a", "b"), "freeze": "none"}
    for _ in range(2):
        tensorboard.write_hparams(tmp_path, config, ["val/dice"])
    assert len(list(tmp_path.iterdir())) == 1
    log = Logger(tmp_path, start=0)
    log.scalars(3, {"val/dice": 0.75})
    log.close()
    multiplexer = EventMultiplexer().AddRun(str(tmp_path), "run").Reload()
    content = multiplexer.GetAccumulator("run").SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    started = metadata.parse_session_start_info_plugin_data(content.plugin_data.content)
    values = {key: value.WhichOneof("kind") for key, value in started.hparams.items()}
    assert values == {
        "optimizer.learning_rate": "number_value",
        "data.structures": "string_value",
        "freeze": "string_value",
    }
    content = multiplexer.GetAccumulator("run").SummaryMetadata(metadata.EXPERIMENT_TAG)
    experiment = metadata.parse_experiment_plugin_data(content.plugin_data.content)
    assert [info.name.tag for info in experiment.metric_infos] == ["dice/val"]
    assert "dice/val" in multiplexer.GetAccumulator("run").Tags()["tensors"] + multiplexer.GetAccumulator(
        "run"
    ).Tags().get("scalars", [])
