"""One head per kind of objective: (TowerOutputs, train) -> the arrays that its loss takes, by
name.
"""

from morphojax.models.heads.columns import ColumnsHead, ProbeHead, RegressionHead, RowHead, RowPairHead
from morphojax.models.heads.pairs import MatchingHead, PairHead, PlaneHead
from morphojax.models.heads.projection import Projection, Temperature
from morphojax.models.heads.views import PatchHead, PrototypeHead, RegionHead, ViewHead

__all__ = [
    "ColumnsHead",
    "MatchingHead",
    "PairHead",
    "PatchHead",
    "PlaneHead",
    "ProbeHead",
    "Projection",
    "PrototypeHead",
    "RegionHead",
    "RegressionHead",
    "RowHead",
    "RowPairHead",
    "Temperature",
    "ViewHead",
]
