from __future__ import annotations

from typing import NamedTuple
import cv2
import numpy as np
import pyclipper


class Targets(NamedTuple):
    threshold_map: np.ndarray
    threshold_mask: np.ndarray
    shrink_map: np.ndarray
    shrink_mask: np.ndarray

_STEEP = 2.0**20

def make_targets(polygons, ignored, height, width, *, shrink_ratio=0.4, thresh_min=0.3, thresh_max=0.7, min_text_size=8):
    maps = np.empty((4, height, width), np.float32)
    targets = Targets(*maps)
    for m, v in zip(targets, (thresh_min, 0, 0, 1)):
        m.fill(v)
    if len(polygons) == 0:
        return targets
    arrays = [np.asarray(p) for p in polygons]
    counts = np.array([len(a) for a in arrays])
    points = np.concatenate(arrays).astype(np.float64)
    single = points.astype(np.float32)
    if (single == points).all():
        points = single
    ends = np.cumsum(counts)
    starts = ends - counts
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    ignored = np.asarray(ignored, bool)
    _border(targets.threshold_map, targets.threshold_mask, points, starts, ends, following, ignored, shrink_ratio, thresh_min, thresh_max)
    _shrink(targets.shrink_map, targets.shrink_mask, points, starts, ends, following, ignored, shrink_ratio, min_text_size)
    return targets


def _measure(points, starts, following):
    a = points.astype(np.float64)
    a = a - np.repeat(a[starts], np.diff(np.append(starts, len(a))), axis=0)
    b = a[following]
    area = np.abs(np.add.reduceat(a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1], starts)) / 2
    step = b - a
    perimeter = np.add.reduceat(np.sqrt(step[:, 0]**2 + step[:, 1]**2), starts)
    return area, perimeter

def _offset(path):
    o = pyclipper.PyclipperOffset()
    o.AddPath(path, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return o

def _border(tmap, tmask, points, starts, ends, following, ignored, ratio, tmin, tmax):
    H, W = tmap.shape
    area, perimeter = _measure(points, starts, following)
    paths = points.astype(np.int64).tolist()
    reach = area * (1 - ratio**2) / np.where(perimeter > 0, perimeter, 1)
    boxes = []
    drawn = []
    for i in np.flatnonzero(~ignored & (area > 0)):
        grown = _offset(paths[starts[i]:ends[i]]).Execute(reach[i])
        if not grown:
            continue
        outline = np.array(grown[0], np.int32)
        cv2.fillPoly(tmask, [outline], 1)
        boxes.append(cv2.boundingRect(outline)); drawn.append(i)
    if not drawn: return
    origin = np.zeros((len(starts), 2)); origin[drawn] = np.array(boxes)[:, :2]
    owner = np.repeat(np.arange(len(starts)), ends - starts)
    local = (points - origin[owner]).astype(points.dtype)
    step = local[following] - local
    rounded = (step[:, 0]**2 + step[:, 1]**2).astype(np.float64)
    local = local.astype(np.float64)
    step = local[following] - local
    exact = step[:, 0]**2 + step[:, 1]**2
    rounded[rounded == 0] = 1
    inv = 1 / np.where(reach > 0, reach, 1)[owner]
    normal = np.stack((step[:, 1], -step[:, 0])) * (inv / np.sqrt(rounded))
    bias = ((rounded - exact) / rounded / _STEEP).astype(np.float32)
    ramp = np.arange(max(H, W), dtype=np.float64)
    local = local.T
    span = tmax - tmin
    with np.errstate(invalid="ignore"):
        for i, (x, y, w, h) in zip(drawn, boxes):
            l, t, r, b = max(x, 0), max(y, 0), min(x + w, W), min(y + h, H)
            w, h = r - l, b - t
            if w <= 0 or h <= 0: continue
            e = slice(starts[i], ends[i]); k = ends[i] - starts[i]
            away = ramp[:max(w, h)] - (local[:, e] - np.array([[l - x], [t - y]]))[..., None]
            terms = np.empty((2, 3 * k, max(w, h)), np.float32)
            scaled = away * inv[starts[i]]
            np.multiply(away, normal[:, e, None], out=terms[:, :k])
            np.multiply(scaled, scaled, out=terms[:, k:2*k])
            np.multiply(scaled, scaled[:, following[e] - starts[i]] * _STEEP, out=terms[:, 2*k:])
            planes = terms[0, :, None, :w] + terms[1, :, :h, None]
            cross, vertex, dot = planes[:k], planes[k:2*k], planes[2*k:]
            cross *= cross
            cross += dot * bias[e, None, None]
            np.maximum(cross, dot, out=cross)
            near = np.minimum.reduce(planes[:2*k], axis=0)
            np.sqrt(near, out=near)
            near *= -span
            near += tmax
            win = tmap[t:b, l:r]
            np.fmax(win, near, out=win)

def _shrink(smap, smask, points, starts, ends, following, ignored, ratio, min_size):
    H, W = smap.shape
    points = np.clip(points, 0, np.array([W - 1, H - 1], points.dtype))
    area, perimeter = _measure(points, starts, following)
    size = (np.maximum.reduceat(points, starts) - np.minimum.reduceat(points, starts)).min(1)
    dropped = ignored | (area < 1) | (size < min_size)
    pixels = points.astype(np.int32)
    paths = pixels.tolist()
    for i in range(len(starts)):
        e = slice(starts[i], ends[i])
        shrunk = []
        if not dropped[i]:
            o = _offset(paths[e])
            for r in np.arange(ratio, 1, ratio):
                shrunk = o.Execute(-area[i] * (1 - r**2) / perimeter[i])
                if len(shrunk) == 1: break
        for s in shrunk:
            cv2.fillPoly(smap, [np.array(s, np.int32)], 1)
        if not shrunk:
            cv2.fillPoly(smask, [pixels[e]], 0)
