"""Cardiac morphometry of one subject, measured on the masks that were written. Volumes in mL, lengths in mm, mass in g."""

import numpy as np

from morphojax.anatomy import LABEL_ID, MYOCARDIUM_DENSITY_G_PER_ML

_SECTORS = 12


def measure(
    sax: dict[str, np.ndarray], la_2ch: np.ndarray, la_4ch: np.ndarray, affines: dict[str, np.ndarray]
) -> dict[str, float]:
    """From canonical labels: `sax` at ED and ES [X, Y, Z]; `la_2ch` and `la_4ch` [X, Y, 1] at ES, where the atria are largest.

    LA volume is biplane area-length, 8 / (3 pi) A2 A4 / L with the mean length; RA volume 8 A^2 / (3 pi L) (Lang et al., JASE 2015).
    What cannot be measured is NaN.
    """
    voxel = abs(np.linalg.det(affines["sax"][:3, :3])) / 1000
    pixel = float(np.linalg.norm(affines["sax"][:3, 0]))

    def volume(phase: str, structure: str) -> float:
        return float(np.count_nonzero(sax[phase] == LABEL_ID[structure]) * voxel)

    found: dict[str, float] = {}
    for side in ("lv", "rv"):
        edv, esv = (volume(phase, f"{side}_cavity") for phase in ("ED", "ES"))
        ef = 100 * (edv - esv) / edv if edv > 0 else np.nan
        found |= {f"{side}_edv": edv, f"{side}_esv": esv, f"{side}_sv": edv - esv, f"{side}_ef": ef}
    found["lv_mass"] = volume("ED", "lv_myocardium") * MYOCARDIUM_DENSITY_G_PER_ML
    thickness = wall_thickness(sax["ED"], pixel)
    found["wall_thickness_mean"], found["wall_thickness_max"] = thickness
    left = [_area_length(v == LABEL_ID["la_cavity"], affines[k]) for k, v in (("la_2ch", la_2ch), ("la_4ch", la_4ch))]
    (a2, l2), (a4, l4) = left
    found["la_volume"] = 8 / (3 * np.pi) * a2 * a4 / ((l2 + l4) / 2) / 1000
    area, length = _area_length(la_4ch == LABEL_ID["ra_cavity"], affines["la_4ch"])
    found["ra_volume"] = 8 / (3 * np.pi) * area**2 / length / 1000
    return found


def wall_thickness(label: np.ndarray, pixel: float) -> tuple[float, float]:
    """Mean and maximum over sectors of the middle slices, from the areas enclosed by endocardium and epicardium:
    a sector of angle t and radius r has the area t r^2 / 2."""
    cavity, myo = label == LABEL_ID["lv_cavity"], label == LABEL_ID["lv_myocardium"]
    slices = np.flatnonzero(cavity.any((0, 1)))
    middle = slices[len(slices) // 4 : max(len(slices) * 3 // 4, len(slices) // 4 + 1)]
    found = []
    for z in middle:
        x, y = np.nonzero(cavity[..., z])
        px, py = np.nonzero(cavity[..., z] | myo[..., z])
        inner = _sector_radii(x - x.mean(), y - y.mean())
        outer = _sector_radii(px - x.mean(), py - y.mean())
        found.append((outer - inner) * pixel)
    return (float(np.mean(found)), float(np.max(np.mean(found, 0)))) if found else (np.nan, np.nan)


def _sector_radii(x: np.ndarray, y: np.ndarray) -> np.ndarray:
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
