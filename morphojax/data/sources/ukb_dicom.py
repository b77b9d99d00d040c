"""The cardiac cines of UK Biobank as they are downloaded: zips of DICOM files.

<root>/<eid>_20209_<visit>_<array>.zip   short axis; or in a folder <root>/<eid>/
<root>/<eid>_20208_<visit>_<array>.zip   long axis; or in a folder <root>/<eid>/
<root>/<eid>.cvi42wsx                     contours, optional; or any one such file in <root>/<eid>/
<root>/table.csv                          an export, or rows by `subject` beside a dictionary.csv

A series is recognised by its description in the DICOM headers. Manifests are not read: a comma in a
date shifts their columns, and some zips have none.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from morphojax import anatomy
from morphojax.data.sources import contours, cvi42, nifti, table_files, ukb_nifti, ukb_series
from morphojax.data.sources.base import CohortError, Subject
from morphojax.data.sources.ukb_series import Cine

_NAME = re.compile(r"(?P<eid>[0-9A-Za-z-]+)_(?P<field>20208|20209)_(?P<visit>\d+)_(?P<array>\d+)\.zip")
_FIELD = {"sax": 20209, "la_2ch": 20208, "la_4ch": 20208}
_SLICES = {20209: ukb_series.short_axis, 20208: ukb_series.long_axis}
_VISITS = (2, 3)  # the first imaging visit, and the repeat
_ARRAYS = (0, 1)


class UkbDicom(table_files.UkbTableSource):
    """Source for folders of UK Biobank's DICOM zips.

    Reads the first imaging visit that was downloaded. Labels are the contours of a cvi42 workspace.
    ED is frame 0; ES is found as in `ukb_nifti`.
    """

    name = "ukb_dicom"

    def subjects(self) -> Sequence[str]:
        if not self.root.is_dir():
            raise CohortError(f"{self.root}: no such folder")
        paths = (*self.root.glob("*.zip"), *self.root.glob("*/*.zip"))
        counts = Counter(match.groups() for p in paths if (match := _NAME.fullmatch(p.name)))
        if not counts:
            raise CohortError(
                f"{self.root}: holds no <eid>_20208_2_0.zip or <eid>_20209_2_0.zip; is this the folder of the zips?"
            )
        if duplicates := sum(n > 1 for n in counts.values()):
            raise CohortError(
                f"{self.root}: {duplicates} zips exist twice, in the folder and in a subfolder; remove one of each"
            )
        return sorted({eid for eid, *_ in counts})

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        views, warnings = {}, []
        for plane, cine in self.cines(subject, planes, warnings).items():
            views[plane] = ukb_nifti.assemble(plane, cine.volume, self.frames, warnings, cine.labels)
        return Subject(subject, views, tuple(warnings))

    def cines(self, subject: str, planes: Sequence[str], warnings: list[str]) -> dict[str, Cine]:
        """Plane -> cine, for those of `planes` that the subject has; assumptions go to `warnings`.

        Raises CohortError.
        """
        zips = self._zips(subject, warnings)
        cines: dict[str, Cine] = {}
        for field in sorted({_FIELD[plane] for plane in planes} & set(zips)):
            path = zips[field]
            slices = _SLICES[field](path, warnings)
            cines |= {
                plane: ukb_series.build_cine(path, plane, slices[plane], warnings)
                for plane in planes
                if slices.get(plane)
            }
        warnings.extend(f"{plane}: no images" for plane in planes if plane not in cines)
        cines = {plane: cines[plane] for plane in planes if plane in cines}
        workspace = self._workspace(subject)
        return _with_labels(workspace, cines, planes, warnings) if workspace else cines

    def _workspace(self, subject: str) -> Path | None:
        beside = self.root / f"{subject}.cvi42wsx"
        paths = [*([beside] if beside.is_file() else []), *sorted((self.root / subject).glob("*.cvi42wsx"))]
        if len(paths) > 1:
            raise CohortError(f"{paths[0]}: {len(paths)} cvi42 workspaces of one subject; keep one")
        return paths[0] if paths else None

    def _zips(self, subject: str, warnings: list[str]) -> dict[int, Path]:
        """Field -> zip, of the earliest visit that has any."""
        for visit in _VISITS:
            zips = {}
            for field in set(_FIELD.values()):
                names = [f"{subject}_{field}_{visit}_{array}.zip" for array in _ARRAYS]
                paths = [p for name in names for p in (self.root / name, self.root / subject / name) if p.is_file()]
                if paths:
                    zips[field] = paths[-1]  # a second array is a second download of the same examination
                    if len(paths) > 1:
                        warnings.append(f"field {field}: several zips, the last taken")
            if zips:
                if visit != _VISITS[0]:
                    warnings.append("images of the repeat visit")
                return zips
        raise CohortError(
            f"{self.root}: no zip of the fields 20208 and 20209 for a listed subject; download it again or list the folder anew"
        )


def _with_labels(path: Path, cines: dict[str, Cine], planes: Sequence[str], warnings: list[str]) -> dict[str, Cine]:
    """The cines with labels from the contours of a workspace."""
    by_uid, labelled_cines = cvi42.read_contours(path), {}
    for plane, cine in cines.items():
        columns, rows = cine.volume.raw.shape[:2]
        labels = contours.labels_for(path, cine.uids, by_uid, (rows, columns), anatomy.PLANE_STRUCTURES[plane])
        warnings.extend(f"{plane}: {w}" for w in labels.warnings)
        labelled_cines[plane] = cine
        if any(f is not None for f in labels.frames):
            if labels.frames[0] is None:
                warnings.append(f"{plane}: contours, but none in frame 0, which is ED")
            empty = np.zeros(cine.volume.raw.shape[:3], np.uint8)
            raw = np.stack([empty if f is None else f for f in labels.frames], axis=-1)
            volume = nifti.Volume(path, raw, 1.0, 0.0, cine.volume.affine)
            convention = anatomy.Convention("contours", {anatomy.LABEL_ID[s]: s for s in labels.labelled})
            labelled_cines[plane] = dataclasses.replace(cine, labels=(volume, convention))
    # A long-axis contour can belong to either view. So its image counts as absent only
    # where both views were read.
    needed = {"sa": {"sax"}, "la": set(anatomy.LONG_AXIS)}
    kinds = [kind for kind, kind_planes in needed.items() if kind_planes <= set(planes)]
    warnings.extend(contours.unplaced(by_uid, (u for c in cines.values() for s in c.uids for u in s), kinds))
    return labelled_cines
