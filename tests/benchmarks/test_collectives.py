"""The collectives of a program text, and the formula against a compiled step."""

import pytest

from benchmarks import collectives
from benchmarks.collectives import Collective

HLO = """
  %all-reduce.1 = (f32[3,3,8]{2,1,0}, /*index=1*/f32[300]{0}) all-reduce(%a, %b), channel_id=1, replica_groups=[1,4]<=[4]
  %all-gather = bf16[64,128]{1,0} all-gather(%c), dimensions={0}
  %start = f32[64]{0} all-reduce-start(%d), to_apply=%add
  %done = f32[64]{0} all-reduce-done(%start)
  ROOT %dot = f32[16,64]{1,0} dot(f32[16,8]{1,0} %e, f32[64,8]{1,0} %all-gather)
  %logits = f32[64,64]{1,0} all-gather(%dot), dimensions={0}
"""


def test_arrays_of_collectives_are_counted_once() -> None:
    assert collectives.collectives(HLO) == [
        Collective("all-reduce", "f32", (3, 3, 8)),
        Collective("all-reduce", "f32", (300,)),
        Collective("all-gather", "bf16", (64, 128)),
        Collective("all-reduce", "f32", (64,)),
        Collective("all-gather", "f32", (64, 64)),
    ]


def test_bytes_are_sorted_by_shape() -> None:
    found = collectives.sort(collectives.collectives(HLO), batch=64)
    assert found == {"parameters": 1200, "batch": 64 * 128 * 2 + 64 * 4, "pairs": 64 * 64 * 4, "small": 288}
    assert (64, 64) in collectives.shapes(HLO)


@pytest.mark.slow
def test_the_formula_agrees_with_a_compiled_step() -> None:
    two, four = (collectives.measure_apart(count, 160, "batch") for count in (2, 4))
    for found in (two, four):
        counted, formula = found["counted"], found["formula"]
        assert counted["parameters"] == pytest.approx(formula["parameters"], rel=0.02)
        assert counted["batch"] == pytest.approx(formula["batch"], rel=0.05)
        assert counted["pairs"] == 0 and not found["pair_matrices"] and found["slices_of_pairs"]
    assert four["counted"]["parameters"] == two["counted"]["parameters"]
    assert four["counted"]["batch"] == 2 * two["counted"]["batch"]
