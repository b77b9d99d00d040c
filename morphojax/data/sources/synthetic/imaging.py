"""The scanner: the planes of a heart, and the cines of these planes.

- Partial volume: samples through the slice, and ramps one pixel wide in plane.
- Breath-holds: every slice is displaced, its image and label together.
- Coil shading and Rician noise (Gudbjartsson and Patz, MRM 1995).
"""

import dataclasses

import numpy as np
from scipy import ndimage

from morphojax.anatomy import LABEL_ID
from morphojax.data.sources.synthetic import heart as hearts
from morphojax.data.sources.synthetic import thorax as thoraxes
from morphojax.data.sources.synthetic.heart import Heart
from morphojax.data.sources.synthetic.thorax import Thorax

FRAMES = 6
END_SYSTOLE = 2  # a third of the cycle, where `heart.activation` peaks
_SAMPLES = 3  # through the slice
_MARGIN_MM = 7.0


@dataclasses.dataclass(frozen=True)
class Plane:
    """`affine` goes into the header; `shift` [Z, 3] mm is each slice's displacement from it."""

    name: str
    affine: np.ndarray
    shape: tuple[int, int, int]
    thickness: float
    shift: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cine:
    """image int16 [X, Y, Z, T]; labels {frame: uint8 [X, Y, Z] of canonical ids} at ED and ES."""

    image: np.ndarray
    labels: dict[int, np.ndarray]


def planes(heart: Heart, rng: np.random.Generator) -> tuple[Plane, ...]:
    """The short-axis stack from base to apex, then the 2-chamber and 4-chamber planes.

    Each plane has a random in-plane rotation and offset, as planned by hand.
    """
    s, i, u = heart.axes
    spacing = float(rng.choice([1.56, 1.67, 1.77, 1.83, 1.92]))
    size = int(rng.choice([120, 128, 136, 144])), int(rng.choice([120, 128, 136]))
    severity = rng.uniform(0.4, 1.8)
    tilt = np.deg2rad(rng.normal(0, 2.5, 4))

    gap = float(rng.choice([8.0, 9.0, 10.0, 10.0, 10.0]))
    normal = _unit(u + tilt[0] * s + tilt[1] * i)
    first = -rng.uniform(0.8, 1.8) * gap
    slices = int(np.ceil((heart.length + heart.wall - first) / gap + rng.uniform(0.3, 1.2)))
    start = heart.origin + first * normal + 18 * s + rng.normal(0, 9, 3) @ np.stack([s, i, 0 * u])
    right, down = _axes(normal, np.array([-1, -0.3, 0]), np.array([0, 0, -1]), rng)
    shift = severity * (
        rng.normal(0, 1.2, (slices, 2)) @ np.stack([right, down]) + rng.normal(0, 0.6, (slices, 1)) * normal
    )
    stack = Plane("sax", _affine(start, right, down, normal, spacing, gap, size), (*size, slices), min(gap, 8.0), shift)

    all_planes = [stack]
    views = (
        ("la_2ch", _unit(s - 0.2 * i + tilt[2] * u), np.array([0, -1.0, 0]), np.array([0, 0, -1.0]), 0.0),
        ("la_4ch", _unit(i + 0.15 * s + tilt[3] * u), np.array([-1.0, 0, 0]), np.array([0, -1.0, 0]), 14.0),
    )
    for name, normal, right, down, aside in views:
        right, down = _axes(normal, right, down, rng)
        middle = heart.origin + 0.22 * heart.length * u + aside * s + rng.normal(0, 8, 2) @ np.stack([right, down])
        middle -= normal * (normal @ (middle - heart.world([0, 0, 0.4 * heart.length])))  # through the LV axis
        middle += rng.normal(0, 1.5) * normal
        shift = severity * rng.normal(0, 1.2, (1, 2)) @ np.stack([right, down])
        affine = _affine(middle, right, down, normal, spacing, 6.0, size)
        all_planes.append(Plane(name, affine, (*size, 1), 6.0, shift))
    return tuple(all_planes)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def _axes(normal, right, down, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal in-plane axes near two patient directions, rotated at random (SD 8 degrees)."""
    right = _unit(right - normal * (normal @ right))
    down = np.cross(normal, right) * np.sign(np.cross(normal, right) @ down)
    angle = np.deg2rad(rng.normal(0, 8))
    return np.cos(angle) * right + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * right


def _affine(middle, right, down, normal, spacing: float, gap: float, size) -> np.ndarray:
    """Voxel index -> mm; `middle` is the centre of the first slice."""
    affine = np.eye(4)
    affine[:3, :3] = np.stack([right * spacing, down * spacing, normal * gap], axis=1)
    affine[:3, 3] = middle - affine[:3, 0] * (size[0] - 1) / 2 - affine[:3, 1] * (size[1] - 1) / 2
    return affine


def scan(heart: Heart, thorax: Thorax, plane: Plane, rng: np.random.Generator, gain: float, sigma: float) -> Cine:
    """The cine of a plane.

    gain: signal of blood in scanner units. sigma: SD of the noise, relative to blood.
    """
    f = np.float32
    spacing = float(np.linalg.norm(plane.affine[:3, 0]))
    normal = plane.affine[:3, 2] / np.linalg.norm(plane.affine[:3, 2])
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=f) for n in plane.shape), indexing="ij"))
    origin = plane.affine[:3, 3, None] + plane.shift.T  # [3, Z]: the displaced slices
    points = np.einsum("ij,jxyz->ixyz", plane.affine[:3, :2].astype(f), index[:2])
    points += (origin + plane.affine[:3, 2:3] * np.arange(plane.shape[2])).astype(f)[:, None, None, :]

    local = heart.local(np.moveaxis(points, 0, -1))
    near = _near(heart, local)
    at_rest = hearts.distances(heart, local[:, near], 0.0)
    to_heart = np.full(plane.shape, 99, f)
    to_heart[near] = np.minimum(
        np.minimum(at_rest["epi"], at_rest["rv"] - 3), np.minimum(at_rest["la"], at_rest["ra"]) - 2
    )
    still = thoraxes.render(thorax, points, to_heart)
    still = ndimage.gaussian_filter(still, (0.55, 0.55, 0), mode="nearest", truncate=3)

    moving = to_heart < _MARGIN_MM
    offsets = ((np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5) * plane.thickness
    step = (heart.axes @ normal).astype(f)
    inside = local[:, moving][:, None] + step[:, None, None] * offsets.astype(f)[None, :, None]  # [3, samples, N]
    rough = thoraxes.noise(thorax, inside, 2.6)
    tone = 1 + f(0.07) * thoraxes.noise(thorax, inside[:, 1], 9.0)
    behind = still[moving]
    shade = _shading(thorax, points, index, rng)

    image = np.empty((*plane.shape, FRAMES), np.int16)
    labels: dict[int, np.ndarray] = {}
    for frame in range(FRAMES):
        level = hearts.activation(frame / FRAMES)
        d = hearts.distances(heart, inside, level)
        fractions, rest = hearts.occupancy(heart, d, spacing)
        signal = _signal(heart, thorax, fractions, d, inside, rough, level).mean(0)
        current = still.copy()
        current[moving] = signal * tone + behind * rest.mean(0)
        if frame in (0, END_SYSTOLE):
            labels[frame] = _label(plane, moving, fractions.mean(1))
        current *= shade
        image[..., frame] = _receive(current, gain, sigma, rng)
    return Cine(image, labels)


def _near(heart: Heart, local: np.ndarray) -> np.ndarray:
    """The mask of a box around the heart and its fat, the only place that needs distances."""
    s, i, u = local
    wide = heart.radius + heart.wall + heart.rv_reach + 25
    return (s > -65) & (s < wide + 15) & (np.abs(i) < wide) & (u > -80) & (u < heart.length + heart.wall + 20)


def _signal(heart: Heart, thorax: Thorax, fractions, d, inside, rough, level: float) -> np.ndarray:
    """Signal [samples, N] of the heart, with papillary muscles, trabeculae and valves in the blood.

    fractions, d: of `hearts.occupancy` and `hearts.distances`. inside: local
    coordinates [3, samples, N]. rough: fine noise. level: activation.
    """
    f = np.float32
    blood, myo = f(thorax.signal["blood"]), f(thorax.signal["myo"])
    s, i, u = inside
    ring, length, radius, _ = hearts.ventricle(heart, level)
    muscle = np.clip(f(0.65) * rough + (d["endo"] + f(3.0)) / f(3.5), 0, f(0.8))
    along = np.abs(u - f(ring + 0.52 * length)) - f(0.24 * heart.length)
    for angle, size in ((2.15, 0.19), (-2.2, 0.17)):
        centre_s, centre_i = f(0.66 * radius * np.cos(angle)), f(0.66 * radius * np.sin(angle))
        papillary = np.maximum(np.hypot(s - centre_s, i - centre_i) - f(size * heart.radius), along)
        muscle = np.maximum(muscle, np.clip(f(0.5) - papillary * f(0.5), 0, f(0.95)))
    valve = 1 - f(0.45) * np.exp(-((d["mitral"] / f(1.6)) ** 2))
    lv = (blood + (myo - blood) * muscle) * valve
    muscle = np.clip(f(0.6) * rough + (d["rv"] + f(4.5)) / f(5.5), 0, f(0.75))
    right = f(thorax.signal["rv_blood"])
    rv = (right + (myo - right) * muscle) * (1 - f(0.4) * np.exp(-((d["tricuspid"] / f(1.6)) ** 2)))
    return (
        fractions[0] * lv
        + (fractions[1] + fractions[5]) * myo
        + fractions[2] * (f(0.96) * valve)
        + fractions[3] * rv
        + fractions[4] * right
    )


def _label(plane: Plane, moving: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Canonical ids, uint8: the largest structure where structures fill half of a voxel or more.

    The walls of RV and atria are background. fractions: [6, N] of TISSUES at the voxels of
    `moving`.
    """
    drawn = {"lv": "lv_cavity", "myo": "lv_myocardium", "rv": "rv_cavity"}
    if plane.name != "sax":
        drawn |= {"la": "la_cavity"}
    if plane.name == "la_4ch":
        drawn |= {"ra": "ra_cavity"}
    rows = [hearts.TISSUES.index(t) for t in drawn]
    ids = np.array([LABEL_ID[s] for s in drawn.values()], np.uint8)
    labelled = fractions[rows]
    label = np.zeros(plane.shape, np.uint8)
    label[moving] = np.where(labelled.sum(0) >= 0.5, ids[labelled.argmax(0)], 0)
    if plane.name == "sax":
        # The valve planes cut the basal slices obliquely. As annotators do, drop a chamber from a
        # basal slice that contains only a small part of it.
        for chamber in ((LABEL_ID["lv_cavity"], LABEL_ID["lv_myocardium"]), (LABEL_ID["rv_cavity"],)):
            mask = np.isin(label, chamber)
            area = mask.sum((0, 1))
            partial = (area < 0.45 * area.max()) & (np.arange(len(area)) < area.argmax())
            label[mask & partial] = 0
    return label


def _shading(thorax: Thorax, points: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coil sensitivity: falls with distance from the chest wall, and varies smoothly in plane."""
    f = np.float32
    x, y = (2 * index[k] / f(max(index.shape[k + 1] - 1, 1)) - 1 for k in (0, 1))
    a, b, c, d, e = rng.normal(0, 0.13, 5).astype(f)
    slices = rng.normal(0, 0.05, index.shape[3]).astype(f)  # inflow makes slices differ
    depth = (f(thorax.centre_y + thorax.half_depth) - points[1]) / f(rng.uniform(190, 420))
    return np.exp(a * x + b * y + c * x * y + d * (x * x - f(0.33)) + e * (y * y - f(0.33)) - depth + f(0.25) + slices)


def _receive(signal: np.ndarray, gain: float, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """The magnitude image int16 of a signal with complex Gaussian noise."""
    noise = rng.standard_normal((2, *signal.shape), np.float32)
    noise *= np.float32(sigma)
    noise[0] += signal
    np.square(noise, out=noise)
    return np.rint(np.sqrt(noise[0] + noise[1]) * np.float32(gain)).astype(np.int16)
