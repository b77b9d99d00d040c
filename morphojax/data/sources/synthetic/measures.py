"""Cardiac morphometry of one subject, measured on its masks: volumes in mL, lengths in mm."""

import numpy as np

from morphojax.anatomy import LABEL_ID, MYOCARDIUM_DENSITY_G_PER_ML

_SECTORS = 12


def measure(
    sax: dict[str, np.ndarray], la_2ch: np.ndarray, la_4ch: np.ndarray, affines: dict[str, np.ndarray]
) -> dict[str, float]:
    """Name -> value; NaN where it cannot be measured.

    sax:            phase -> canonical labels [X, Y, Z] at ED and ES.
    la_2ch, la_4ch: canonical labels [X, Y, 1] at ES, where the atria are largest.

    LA volume is biplane area-length, 8 / (3 pi) A2 A4 / L with the mean length; RA volume is
    8 A^2 / (3 pi L) (Lang et al., JASE 2015).
    """
    voxel = abs(np.linalg.det(affines["sax"][:3, :3])) / 1000
    pixel = float(np.linalg.norm(affines["sax"][:3, 0]))

    def volume(phase: str, structure: str) -> float:
        return float(np.count_nonzero(sax[phase] == LABEL_ID[structure]) * voxel)

    values: dict[str, float] = {}
    for side in ("lv", "rv"):
        edv, esv = (volume(phase, f"{side}_cavity") for phase in ("ED", "ES"))
        ef = 100 * (edv - esv) / edv if edv > 0 else np.nan
        values |= {f"{side}_edv": edv, f"{side}_esv": esv, f"{side}_sv": edv - esv, f"{side}_ef": ef}
    values["lv_mass"] = volume("ED", "lv_myocardium") * MYOCARDIUM_DENSITY_G_PER_ML
    values["wall_thickness_mean"], values["wall_thickness_max"] = wall_thickness(sax["ED"], pixel)
    a2, l2 = _area_length(la_2ch == LABEL_ID["la_cavity"], affines["la_2ch"])
    a4, l4 = _area_length(la_4ch == LABEL_ID["la_cavity"], affines["la_4ch"])
    values["la_volume"] = 8 / (3 * np.pi) * a2 * a4 / ((l2 + l4) / 2) / 1000
    area, length = _area_length(la_4ch == LABEL_ID["ra_cavity"], affines["la_4ch"])
    values["ra_volume"] = 8 / (3 * np.pi) * area**2 / length / 1000
    return values


def wall_thickness(label: np.ndarray, pixel: float) -> tuple[float, float]:
    """Mean and maximum over sectors of the wall thickness in mm, averaged over the middle slices.

    The radii of endocardium and epicardium follow from areas: a sector of angle t and radius r has
    the area t r^2 / 2. label: [X, Y, Z] canonical ids; pixel: its size in mm.
    """
    cavity, myo = label == LABEL_ID["lv_cavity"], label == LABEL_ID["lv_myocardium"]
    slices = np.flatnonzero(cavity.any((0, 1)))
    middle = slices[len(slices) // 4 : max(len(slices) * 3 // 4, len(slices) // 4 + 1)]
    by_slice = []
    for z in middle:
        x, y = np.nonzero(cavity[..., z])
        px, py = np.nonzero(cavity[..., z] | myo[..., z])
        inner = _sector_radii(x - x.mean(), y - y.mean())
        outer = _sector_radii(px - x.mean(), py - y.mean())
        by_slice.append((outer - inner) * pixel)
    return (float(np.mean(by_slice)), float(np.max(np.mean(by_slice, 0)))) if by_slice else (np.nan, np.nan)


def _sector_radii(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Radius of each sector in pixels, from the pixels of a region relative to its centre."""
    sector = ((np.arctan2(y, x) / (2 * np.pi) + 0.5) * _SECTORS).astype(int) % _SECTORS
    return np.sqrt(2 * np.bincount(sector, minlength=_SECTORS) / (2 * np.pi / _SECTORS))


def _area_length(mask: np.ndarray, affine: np.ndarray) -> tuple[float, float]:
    """Area in mm2 and longest extent in mm of a mask in one slice; NaN where it is empty."""
    points = np.argwhere(mask[..., 0]) * np.linalg.norm(affine[:3, :2], axis=0)
    if len(points) < 3:
        return np.nan, np.nan
    area = len(points) * float(np.prod(np.linalg.norm(affine[:3, :2], axis=0)))
    angles = np.linspace(0, np.pi, 36, endpoint=False)
    along = points @ np.stack([np.cos(angles), np.sin(angles)])
    return area, float(np.ptp(along, axis=0).max() + np.linalg.norm(affine[:3, 0]))
