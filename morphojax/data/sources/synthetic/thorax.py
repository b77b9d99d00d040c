"""The surroundings of the heart, which do not move: chest wall, lungs, abdomen, vessels."""

import dataclasses

import numpy as np
from scipy import ndimage

from morphojax.data.sources.synthetic.heart import Heart
from morphojax.data.sources.synthetic.person import Person

_TEXTURE_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Thorax:
    """Geometry in mm; signals relative to blood (1), as in balanced steady-state imaging."""

    half_width: float  # of the trunk's axial ellipse
    half_depth: float
    centre_y: float
    fat_rim: float
    muscle_rim: float
    diaphragm: float  # z of its lowest part, under the heart
    epicardial_fat: float  # thickness
    signal: dict[str, float]
    tubes: tuple[tuple[np.ndarray, np.ndarray, float], ...]  # vessels: two ends and the radius
    texture: np.ndarray  # [32, 32, 32] smooth periodic noise of unit variance


def build(person: Person, heart: Heart, rng: np.random.Generator) -> Thorax:
    half_width = max(10 * person.waist / 5.5, 140) * rng.normal(1, 0.03)
    half_depth = half_width * rng.uniform(0.66, 0.74)
    centre_y = rng.normal(-18, 4)
    fat_rim = 4 + 0.42 * person.body_fat * rng.uniform(0.7, 1.3)
    muscle_rim = rng.uniform(11, 17)
    # Widen the chest until the parts of the heart nearest to its wall lie behind the ribs.
    outer = heart.radius + heart.wall
    nearest = heart.world(
        [[0, 0, heart.length + heart.wall], [0.8 * (outer + heart.rv_reach), -0.5 * outer, 0.3 * heart.length]]
    )
    needed = np.hypot(nearest[:, 0] / half_width, (nearest[:, 1] - centre_y) / half_depth).max()
    free = 1 - 2 * (fat_rim + muscle_rim + 6) / (half_width + half_depth)
    widening = max(1.0, needed / free) if free > 0 else 1.0
    half_width, half_depth = widening * half_width, widening * half_depth
    levels = {
        "blood": 1.0,
        "myo": rng.uniform(0.36, 0.52),
        "fat": rng.uniform(0.75, 1.15),
        "muscle": rng.uniform(0.28, 0.42),
        "liver": rng.uniform(0.38, 0.68),
        "spleen": rng.uniform(0.5, 0.8),
        "stomach": rng.uniform(0.1, 0.9),
        "lung": rng.uniform(0.04, 0.10),
        "bone": rng.uniform(0.35, 0.6),
        "mediastinum": rng.uniform(0.5, 0.85),
        "rv_blood": rng.uniform(0.88, 1.05),
        "vessel": rng.uniform(0.85, 1.1),
    }
    length, scale = heart.length, (person.bsa / 1.88) ** 0.4
    at = heart.world
    ascending, arch = at([26, -16, -38]), at([14, -20, -75])
    cava, left, right = at([44, -6, -48]), at([-14, 6, -36]), at([8, 10, -38])
    tubes = (
        (at([10, -4, -2]), ascending, 13.0 * scale),
        (ascending, arch, 13.5 * scale),
        (at([20, -36, 6]), at([2, -40, -42]), 12.0 * scale),  # RV outflow and pulmonary trunk
        (np.array([-27.0, -52, -200]), np.array([-24.0, -50, 110]), 11.0 * scale),  # descending aorta
        (cava, cava + np.array([4, -8, 90]), 9.0 * scale),
        (at([42, 14, -40]), at([42, 14, -40]) + np.array([8, -16, -100]), 10.0 * scale),
        (left, left + np.array([-50, -40, 14]), 6.0 * scale),  # pulmonary veins
        (right, right + np.array([55, -35, 6]), 6.0 * scale),
    )
    texture = ndimage.gaussian_filter(rng.standard_normal((_TEXTURE_SIZE,) * 3, np.float32), 1.0, mode="wrap")
    return Thorax(
        half_width=half_width,
        half_depth=half_depth,
        centre_y=centre_y,
        fat_rim=fat_rim,
        muscle_rim=muscle_rim,
        diaphragm=at([0, heart.radius + heart.wall, 0.55 * length])[2] + rng.normal(0, 5),
        epicardial_fat=2.0 + 0.12 * max(person.bmi - 18, 0) * rng.uniform(0.5, 1.8),
        signal=levels,
        tubes=tubes,
        texture=texture / texture.std(),
    )


def noise(thorax: Thorax, points: np.ndarray, period: float) -> np.ndarray:
    """A smooth random field at points [3, ...] mm; its nodes are `period` mm apart."""
    cells = points * np.float32(1 / period)
    return ndimage.map_coordinates(thorax.texture, cells, order=1, mode="grid-wrap", output=np.float32)


def render(thorax: Thorax, points: np.ndarray, to_heart: np.ndarray) -> np.ndarray:
    """Signal at points [3, ...] (RAS+ mm). to_heart: [...] mm to the heart at rest."""
    f = np.float32
    x, y, z = points
    level = {k: f(v) for k, v in thorax.signal.items()}
    coarse, fine = noise(thorax, points, 14.0), noise(thorax, points[::-1] + f(31), 5.0)

    reach = np.sqrt((x / f(thorax.half_width)) ** 2 + ((y - f(thorax.centre_y)) / f(thorax.half_depth)) ** 2) + f(1e-3)
    depth = (1 - reach) * f((thorax.half_width + thorax.half_depth) / 2) + coarse * f(1.5)  # below the skin, mm
    rib = f(thorax.fat_rim + thorax.muscle_rim)

    dome = f(thorax.diaphragm) + 42 * np.exp(-((x - 85) ** 2 + (y - 5) ** 2) / f(8500))
    dome += 16 * np.exp(-((x + 95) ** 2 + (y + 30) ** 2) / f(5000))
    below = z < dome + 2 * coarse
    gut = np.where(y < -25 + 6 * coarse, level["spleen"], level["stomach"] * (1 + f(0.25) * fine))
    gut = np.where(np.abs(coarse) < f(0.18), level["fat"], gut)
    edge = f(-28) + f(0.35) * (z - f(thorax.diaphragm)) + 5 * coarse
    liver = level["liver"] * np.where(fine > f(1.25), f(1.55), f(1))  # vessels of the liver
    abdomen = np.where(x > edge, liver, gut)

    lung = level["lung"] + np.where(fine > f(1.15), (fine - f(1.15)) * f(0.9), 0)
    middle = (np.abs(x + 4) < 30 + 6 * coarse) & (y > -60)
    inside = np.where(middle, level["mediastinum"] * (1 + f(0.25) * fine), lung)
    inside = np.where(below, abdomen, inside)

    # Ribs run obliquely through the deep half of the wall: fatty marrow inside a dark cortex.
    phase = (z + f(0.6) * y + f(0.25) * np.abs(x)) * f(2 * np.pi / 29) + f(0.35) * coarse
    across = 5 * (1 + np.cos(phase)) - np.abs(depth - rib + 6)
    wall = level["muscle"] * (1 + f(0.15) * fine + f(0.12) * coarse)
    wall = np.where(across > 0, f(0.2), wall)
    wall = np.where(across > 2.5, level["bone"] * f(1.2), wall)
    wall = np.where((across < -5) & (fine > f(0.7)), level["fat"] * f(0.8), wall)
    out = np.where(depth < rib, wall, inside)
    out = np.where(depth < f(thorax.fat_rim), level["fat"] * (1 + f(0.05) * coarse), out)

    spine = np.hypot(x, y - f(thorax.centre_y - 0.46 * thorax.half_depth))
    disc = np.cos(z * f(2 * np.pi / 32)) > f(0.9)
    out = np.where(spine < 21, np.where(disc, f(0.25), level["bone"] * (1 + f(0.1) * fine)), out)
    # Pericardial fat, of varying thickness, absent in places.
    sac = to_heart < f(thorax.epicardial_fat) * (1 + f(0.7) * coarse)
    out = np.where(sac, level["fat"] * (f(0.85) + f(0.12) * fine), out)
    for start, end, radius in thorax.tubes:
        d = _capsule(points, start, end)
        out = np.where(d < f(radius), level["vessel"], np.where(d < f(radius + 1.5), level["muscle"], out))
    return np.where(depth < 0, f(0), out)


def _capsule(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of points [3, ...] to the segment from start to end."""
    axis = (end - start).astype(np.float32)
    x, y, z = (p - np.float32(c) for p, c in zip(points, start, strict=True))
    t = np.clip((x * axis[0] + y * axis[1] + z * axis[2]) / (axis @ axis), 0, 1)
    x, y, z = x - t * axis[0], y - t * axis[1], z - t * axis[2]
    return np.sqrt(x * x + y * y + z * z)
