import ml_collections
import pytest

from analysis.study import spec
from analysis.study.errors import StudyError
from morphojax.data.errors import NamedError
from tests.analysis.study import made


def changed(path, **changes):
    config = made.config(path).to_dict()
    return ml_collections.ConfigDict(config | changes)


def axes(**changes):
    return made.config("folder").to_dict()["axes"] | changes


def test_the_matrix_is_the_product_and_goes_seed_by_seed():
    study, _ = made.study("folder")
    assert len(study.cells) == 3 * 3 * 2
    assert [cell.values["seed"] for cell in study.cells] == ["0"] * 9 + ["1"] * 9
    assert {cell.name for cell in study.cells[:3]} == {f"{arm}_1a_0" for arm in ("scratch", "pretrained", "shuffled")}
    assert [cell.labels for cell in study.cells[:9]] == [1] * 6 + [2] * 3


def test_parts_of_the_matrix_are_joined_without_repeats():
    parts = ({"seed": ("0",)}, {"arm": ("scratch",), "labelled": ("2a",)})
    study, _ = made.study("folder", cells=parts)
    names = [cell.name for cell in study.cells]
    assert len(names) == len(set(names)) == 9 + 1  # scratch_2a_0 is in both
    assert names[-1] == "scratch_2a_1"


def test_axes_override_the_base_and_each_other_only_where_they_agree():
    _, planned = made.study("folder", base={"segment": {"steps": 7, "data": {"fraction": 0.9}}})
    job = next(j for j in planned if j.name == "scratch_2a_1")
    assert job.overrides == {"steps": 7, "data.fraction": 0.2, "seed": 1}
    assert job.resolved["data"]["fraction"] == 0.2 and job.resolved["seed"] == 1
    clash = axes(encoder={"a": {"segment": {"seed": 3}}})
    with pytest.raises(StudyError, match=r"axes.encoder.a and axes.seed.0 both set segment.seed"):
        made.study("folder", axes=clash)


def test_equal_pretrainings_are_shared_and_come_before_their_cells():
    _, planned = made.study("folder")
    pretrainings = [job for job in planned if job.cell is None]
    assert len(pretrainings) == 2 * 2  # right and shuffled rows, two seeds; labelled sets share them
    for i, job in enumerate(planned):
        if job.needs is not None:
            assert planned.index(job.needs) < i
            assert job.overrides["init_from"] == str(job.needs.run)
    shuffled = {job.needs.name for job in planned if job.cell and job.cell.values["arm"] == "shuffled"}
    assert shuffled.isdisjoint(j.needs.name for j in planned if j.cell and j.cell.values["arm"] == "pretrained")


def test_an_identity_changes_with_all_that_a_result_depends_on(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("a\n")

    def identities(steps=7, pretrain_steps=5, subjects="", weights="ema"):
        base = {"segment": {"steps": steps}, "pretrain": {"steps": pretrain_steps}}
        base["segment"] |= {"data": {"subjects": (str(names),)}} if subjects else {}
        arms = {
            "pretrained": {
                "segment": {"config": "configs/segment_sax.py"},
                "pretrain": {"config": "configs/pretrain_sax.py"},
            }
        }
        labelled = {"1a": {"labels": 1}}
        changes = {"axes": axes(arm=arms, labelled=labelled), "base": base, "baseline": "pretrained", "contrasts": ()}
        changes["evaluate"] = {"split": "test", "checkpoint": "last", "weights": weights}
        return [job.identity for job in made.study("folder", **changes)[1][:2]]

    first = identities()
    assert identities() == first
    assert identities(steps=8)[0] == first[0] and identities(steps=8)[1] != first[1]
    assert identities(weights="model") == first  # another scoring needs no other training
    assert all(a != b for a, b in zip(identities(pretrain_steps=6), first, strict=True))
    listed = identities(subjects="yes")
    names.write_text("b\n")  # the same path, other subjects
    assert identities(subjects="yes")[1] != listed[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": axes(arm={})}, "axes.arm: every study has"),
        ({"axes": axes(seed={"0": {"segmant": {}}})}, r"axes.seed.0: segmant: give overrides of pretrain or segment"),
        ({"axes": axes(seed={"a/0": {}})}, r"names are texts"),
        ({"axes": axes(seed={0: {}})}, r"names are texts"),
        ({"axes": axes(seed={"0": {"segment": {"workdir": "x"}}})}, r"axes.seed.0.segment.workdir: the study sets"),
        ({"axes": axes(plane={"a_1a": {}}, extra={"0": {}})}, None),
        ({"cells": ({"arn": ("scratch",)},)}, "cells: unknown axis 'arn'"),
        ({"cells": ({"arm": ("scratch", "scrach")},)}, "cells: axes.arm has no 'scrach'"),
        ({"cells": ({"arm": "scratch"},)}, "give a tuple of names"),
        ({"baseline": "scrach"}, "'scrach' is not an arm"),
        ({"contrasts": (("pretrained", "scrach"),)}, "'scrach' is not an arm"),
        ({"contrasts": (("scratch", "scratch"),)}, "give pairs of two arms"),
        ({"evaluate": {"split": "test"}}, "evaluate: give exactly"),
        ({"questions": "?"}, "questions"),
        ({"cells": {"arm": ("scratch",)}}, "cells: give a tuple of parts"),
        ({"axes": axes(seed=("0", "1"))}, "axes.seed: give names and their overrides"),
        ({"axes": axes(labelled={"1a": {"labels": 0}})}, "axes.labelled.1a.labels=0"),
        ({"axes": axes(arm={"scratch": {}}), "contrasts": ()}, "nothing sets segment.config"),
    ],
)
def test_a_wrong_study_is_named(changes, message):
    if message is None:
        spec.from_config(changed("folder", **changes))
        return
    with pytest.raises(StudyError, match=message):
        spec.from_config(changed("folder", **changes))


def test_two_cells_with_one_name_are_refused():
    both = axes(
        arm={"a": {"segment": {"config": "x"}}, "a_b": {"segment": {"config": "x"}}}, labelled={"b_c": {}, "c": {}}
    )
    with pytest.raises(StudyError, match="two cells have the name 'a_b_c_0'"):
        spec.from_config(changed("folder", axes=both, baseline="a", contrasts=()))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"segment": {"stepz": 7}}, r"cell \w+, segment: the config has no key stepz"),
        ({"segment": {"data": {"frac": 7}}}, r"no key data.frac"),
        ({"segment": {"steps": "many"}}, r"steps='many'"),
        ({"segment": {"model": {"encoder": {"name": "a"}}}}, r"no key model.encoder.name"),
    ],
)
def test_a_wrong_override_is_named(base, message):
    with pytest.raises(NamedError, match=message):
        made.study("folder", base=base)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("configs/segment_saxx.py", "there is no such config; did you mean segment_sax"),
        ("configs/segment_sax.py:self_traning", "unknown: choose one of"),
        ("configs/pretrain_sax.py:arm", "takes 0 positional arguments"),
        ("configs/pretrain_sax.py", "is a config of task 'pretrain', not 'segment'"),
    ],
)
def test_a_wrong_config_is_named(config, message):
    arms = axes(arm={"scratch": {"segment": {"config": config}}})
    with pytest.raises(NamedError, match=message):
        made.study("folder", axes=arms, contrasts=())


def test_weights_from_a_file_are_not_mixed_with_a_pretraining():
    own = {"segment": {"config": "configs/segment_sax.py", "init_from": "weights.safetensors"}}
    _, planned = made.study("folder", axes=axes(arm={"scratch": own}), contrasts=())
    assert planned[0].overrides["init_from"] == "weights.safetensors"
    both = axes(arm={"scratch": own | {"pretrain": {"config": "configs/pretrain_sax.py"}}})
    with pytest.raises(StudyError, match=r"has a pretraining, and segment.init_from as well"):
        made.study("folder", axes=both, contrasts=())


def test_only_chooses_cells():
    study, _ = made.study("folder")
    chosen = spec.only(study, ["arm=scratch,shuffled", "seed=1"])
    assert len(chosen.cells) == 2 * 3 and all(c.values["seed"] == "1" for c in chosen.cells)
    for text, message in (("arn=scratch", "unknown axis"), ("arm=scrach", "arm has no 'scrach'")):
        with pytest.raises(StudyError, match=message):
            spec.only(study, [text])
    with pytest.raises(StudyError, match="no such cell"):
        spec.only(study, ["seed=0", "seed=1"])
