"""A beating heart as implicit solids in patient coordinates.

Local coordinates in mm:
- `u` along the LV axis, from the mitral ring at end-diastole (0) to the apex (`length`);
- `s` towards the RV;
- `i` towards the inferior wall.

Each solid is a truncated ellipsoid with an approximate signed distance, negative inside. Occupancy
is a ramp of this distance, one pixel wide, which gives partial volume.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from morphojax.data.sources.synthetic.person import Person

TISSUES = ("lv", "myo", "la", "rv", "ra", "wall")  # where solids overlap, the earlier tissue wins
_BULGE = 0.3  # depth of the widest LV section below the mitral ring, as a fraction of the length
_BASAL = 0.62  # half axis of the basal part, as a fraction of the length
_APICAL = 0.7  # thickness of the apex, as a fraction of the wall thickness
_LV_SHAPE = np.pi * (2 / 3 * (1 - _BULGE) + _BULGE - _BULGE**3 / (3 * _BASAL**2))  # volume = shape x radius^2 x length


@dataclasses.dataclass(frozen=True)
class Heart:
    """Lengths in mm, all at end-diastole."""

    origin: np.ndarray  # [3] centre of the mitral ring, RAS+
    axes: np.ndarray  # [3, 3] rows s, i, u
    length: float
    radius: float
    wall: float
    septal: float  # extra thickness of the septum, as a fraction of the wall
    flat: float  # flattening of the septum, as a fraction of the LV radius
    ef: float
    scar: float  # 0..1, from normal contraction to none in the infarcted wall
    scar_angle: float
    scar_width: float  # concentration of the infarct territory: larger is narrower
    mapse: float  # systolic descent of the mitral ring
    tapse: float  # systolic descent of the tricuspid ring
    rv_reach: float  # how far the RV extends beyond the LV wall
    rv_squeeze: float  # by how much systole shortens rv_reach
    la: np.ndarray  # [3] half axes s, i, u
    ra: np.ndarray

    def local(self, points: np.ndarray) -> np.ndarray:
        """[..., 3] RAS+ mm -> [3, ...] (s, i, u), float32."""
        return np.ascontiguousarray(np.moveaxis((points - self.origin) @ self.axes.T, -1, 0), dtype=np.float32)

    def world(self, local: ArrayLike) -> np.ndarray:
        """[..., 3] (s, i, u) -> RAS+ mm."""
        return self.origin + np.asarray(local) @ self.axes


def build(person: Person, rng: np.random.Generator) -> Heart:
    """The heart of a person. LV radius and RV size are solved for the person's volumes."""
    forward = _unit(np.array([-0.62, 0.52, -0.58]) + rng.normal(0, 0.07, 3))
    septal = np.array([0.75, 0.65, 0.10]) + rng.normal(0, 0.05, 3)
    septal = _unit(septal - forward * (septal @ forward))
    length = person.lv_length
    heart = Heart(
        origin=np.array([-16.0, -4.0, 18.0]) + rng.normal(0, 6, 3),
        axes=np.stack([septal, np.cross(forward, septal), forward]),
        length=length,
        radius=float(np.sqrt(1000 * person.lv_edv / (_LV_SHAPE * length))),
        wall=person.wall,
        septal=person.septal,
        flat=person.flat,
        ef=person.lv_ef,
        scar=person.scar,
        scar_angle=person.scar_angle,
        scar_width=person.scar_width,
        mapse=length * min(0.22 * person.lv_ef, 0.16),
        tapse=length * np.clip(0.40 * person.rv_ef, 0.05, 0.26),
        rv_reach=30.0,
        rv_squeeze=8.0,
        la=person.la_size * np.array([25.0, 23.0, 27.0]) * rng.normal(1, 0.05, 3),
        ra=person.ra_size * np.array([28.0, 27.0, 31.0]) * rng.normal(1, 0.05, 3),
    )
    grid = _rv_grid(length)
    heart = _solve(heart, "rv_reach", (8.0, 75.0), lambda h: _rv_volume(h, grid, 0.0) - person.rv_edv)
    esv = person.rv_edv * (1 - person.rv_ef)
    return _solve(heart, "rv_squeeze", (60.0, -5.0), lambda h: _rv_volume(h, grid, 1.0) - esv)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def _solve(heart: Heart, field: str, bracket: tuple[float, float], excess: Callable[[Heart], float]) -> Heart:
    """The heart whose `field` makes `excess` zero, by bisection.

    `excess` must increase from the first end of the bracket to the second.
    """

    def changed(value: float) -> Heart:
        change: dict[str, Any] = {field: value}
        return dataclasses.replace(heart, **change)

    low, high = bracket
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(changed(middle)) > 0 else (middle, high)
    return changed((low + high) / 2)


def _rv_grid(length: float) -> np.ndarray:
    axes = (np.arange(-30, 120, 6.0), np.arange(-66, 67, 6.0), np.arange(-3, length + 20, 6.0))
    return np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).astype(np.float32)


def _rv_volume(heart: Heart, grid: np.ndarray, activation: float) -> float:
    d = distances(heart, grid, activation, atria=False)
    return float(np.clip(0.5 - d["rv"] / 6, 0, 1).sum() * 0.216)  # mL: cells of 6 mm, and a ramp as wide


def activation(time: float) -> float:
    """0 at end-diastole, 1 at end-systole; `time` in cycles.

    Systole takes a third of the cycle, followed by early filling and the atrial kick.
    """
    time = time % 1.0
    if time <= 1 / 3:
        return float(np.sin(np.pi / 2 * 3 * time) ** 2)
    filling = (time - 1 / 3) * 1.5
    return float(max(0.0, 1 - 0.78 * min(1.0, filling / 0.5) ** 0.9 - 0.22 * max(0.0, (filling - 0.7) / 0.3)))


def _ellipsoid(rho2: np.ndarray, v: np.ndarray, radius, half) -> np.ndarray:
    """Approximate signed distance k0 (k0 - 1) / k1 to an ellipsoid of revolution.

    Exact to first order at the surface. rho2: squared distance to its axis; v: position along it;
    radius, half: its half axes.
    """
    a, b = rho2 / (radius * radius), (v / half) ** 2
    k0 = np.sqrt(a + b) + np.float32(1e-3)
    return k0 * (k0 - 1) / (np.sqrt(a / (radius * radius) + b / (half * half)) + np.float32(1e-5))


def _triaxial(v, i, s, axes) -> np.ndarray:
    """Approximate signed distance to an ellipsoid of half axes (s, i, v), as in `_ellipsoid`."""
    a, b, c = s / axes[0], i / axes[1], v / axes[2]
    k0 = np.sqrt(a * a + b * b + c * c) + np.float32(1e-3)
    k1 = np.sqrt((a / axes[0]) ** 2 + (b / axes[1]) ** 2 + (c / axes[2]) ** 2) + np.float32(1e-5)
    return k0 * (k0 - 1) / k1


def distances(heart: Heart, local: np.ndarray, activation: float, atria: bool = True) -> dict[str, np.ndarray]:
    """Signed distances in mm at local [3, ...]: "endo", "epi", "rv" and, with atria, "la", "ra".

    "mitral" and "tricuspid" are the distances below the valve planes. activation: 0 at ED, 1 at ES.
    """
    s, i, u = local
    f = np.float32
    ring, length, radius, wall = ventricle(heart, activation)
    centre = f(ring + _BULGE * length)

    rho2 = s * s + i * i
    inverse = 1 / np.sqrt(rho2 + f(1e-2))
    cosine = s * inverse
    septum = np.exp(f(3) * (cosine - 1))
    endo_r, thick = f(radius), f(wall) * (1 + f(heart.septal) * septum)
    if heart.scar:
        angle = cosine * f(np.cos(heart.scar_angle)) + i * inverse * f(np.sin(heart.scar_angle))
        scar = (
            f(heart.scar) * np.exp(f(heart.scar_width) * (angle - 1)) * np.clip((u - f(0.2 * heart.length)) / 15, 0, 1)
        )
        endo_r = endo_r + scar * f(heart.radius - radius)
        thick = thick + scar * (f(0.55 * heart.wall) - thick)
    # An overloaded RV flattens the septum most at end-systole.
    flattening = 1 - f(heart.flat * (0.7 + 0.3 * activation)) * septum if heart.flat else f(1)
    endo_r = endo_r * flattening

    below = u > centre
    v = u - centre
    half = np.where(below, f((1 - _BULGE) * length), f(_BASAL * length))
    cut = f(ring) - u
    endo = np.maximum(_ellipsoid(rho2, v, endo_r, half), cut)
    half_epi = np.where(below, f((1 - _BULGE) * length + _APICAL * wall), f(_BASAL * length + wall))
    epi = np.maximum(_ellipsoid(rho2, v, endo_r + thick, half_epi), cut)

    # The RV: an ellipsoid on the septal side, minus the LV; at the base it leans forward.
    outer = heart.radius + heart.wall
    middle = 0.55 * outer
    reach = max(outer + heart.rv_reach - middle - heart.rv_squeeze * activation, 6.0)
    tall = (0.98 * outer + 0.20 * heart.rv_reach) * (1 - 0.10 * activation)
    tricuspid = f(-3.0 + heart.tapse * activation)
    rv_centre = tricuspid + f(0.22 * heart.length)
    rv_half = np.where(u > rv_centre, f(0.93 * heart.length) - rv_centre, f(0.55 * heart.length))
    lean = f(-0.16) * (f(0.5 * heart.length) - u)
    rv = _triaxial(u - rv_centre, i - lean, s - f(middle), (f(reach), f(tall), rv_half))
    edge = f(0.12 * outer) - s  # the RV ends at the septum; a smooth maximum rounds the corner
    rv = f(0.5) * (rv + edge + np.sqrt((rv - edge) ** 2 + f(144)))
    rv = np.maximum(np.maximum(rv, tricuspid - u), -epi)
    signed = {"endo": endo, "epi": epi, "rv": rv, "mitral": u - f(ring), "tricuspid": u - tricuspid}
    if atria:
        signed["la"] = _atrium(heart.la, f(ring), (s + 3, i - 3, u), activation)
        right = f(middle + 6 + 0.36 * heart.rv_reach)
        ra = _atrium(heart.ra, tricuspid, (s - right, i - 4, u), activation)
        signed["ra"] = np.maximum(ra, 2.5 - np.minimum(signed["la"], epi))
    return signed


def _atrium(axes: np.ndarray, ring: np.float32, local, activation: float) -> np.ndarray:
    """An ellipsoid cut by its valve plane. In systole the ring descends, so the atrium fills."""
    s, i, u = local
    f = np.float32
    half, grow = f(axes[2] + ring / 2), 0.95 + 0.08 * activation
    centre = f(-0.75 * axes[2] + ring / 2)
    return np.maximum(_triaxial(u - centre, i, s, (f(axes[0] * grow), f(axes[1] * grow), half)), u - ring)


def ventricle(heart: Heart, activation: float) -> tuple[float, float, float, float]:
    """Descent of the mitral ring, and length, radius and wall of the LV, in mm.

    The cavity volume follows from the EF, the myocardial volume is constant, and the epicardial
    apex does not move.
    """
    ring = heart.mapse * activation
    volume = heart.length * heart.radius**2 * (1 - heart.ef * activation)
    length = heart.length - ring
    wall = _wall(heart, math.sqrt(volume / length), length)
    length -= _APICAL * (wall - heart.wall)
    radius = math.sqrt(volume / length)
    return ring, length, radius, _wall(heart, radius, length)


def _wall(heart: Heart, radius: float, length: float) -> float:
    """The wall thickness that keeps the myocardial volume of end-diastole."""

    def shell(w: float, r: float, n: float) -> float:
        return (r + w) ** 2 * (n + _APICAL * w) - r**2 * n

    target = shell(heart.wall, heart.radius, heart.length)
    low, high = 0.5 * heart.wall, 4 * heart.wall
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if shell(middle, radius, length) > target else (middle, high)
    return (low + high) / 2


def occupancy(heart: Heart, d: dict[str, np.ndarray], pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of each of TISSUES [6, ...] and of everything else [...], which sum to one.

    d: signed distances of `distances`; pixel: width of the ramp in mm.
    """
    surfaces = {
        "lv": d["endo"],
        "myo": d["epi"],
        "la": d["la"],
        "rv": d["rv"],
        "ra": d["ra"],
        "wall": np.minimum(np.minimum(d["la"], d["ra"]) - 2, d["rv"] - 3),
    }
    fractions = np.empty((len(TISSUES), *d["endo"].shape), np.float32)
    rest = np.ones(d["endo"].shape, np.float32)
    for fraction, tissue in zip(fractions, TISSUES, strict=True):
        np.clip(np.float32(0.5) - surfaces[tissue] * np.float32(1 / pixel), 0, 1, out=fraction)
        fraction *= rest
        rest -= fraction
    return fractions, rest
