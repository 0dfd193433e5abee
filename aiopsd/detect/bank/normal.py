"""What would be normal: a robust level and scale of each series, which a fault can hardly teach."""

import numpy as np

from aiopsd.detect.bank.layout import DEV, F32, F64, MID, TAIL, K
from aiopsd.detect.bank.samples import Signals


def ruler(s: F32, level: F32) -> F64:
    """Length of one deviation: robust scale, at least a third of the normal tail and 5 % of the level."""
    scale = np.maximum(s[DEV] * np.float32(1.2533), s[TAIL] * np.float32(1 / 3))  # 1.2533 = sqrt(pi / 2)
    out: F64 = np.maximum(np.maximum(scale, level * np.float32(0.05)), np.float32(1e-9)).astype(np.float64)
    return out


def settle(signals: Signals, normal: F32) -> None:
    """Learn what would be normal: a robust level and scale, which a fault can hardly teach."""
    s, x, dev = signals.s, signals.each[0], signals.s[DEV]
    size = np.abs(x - normal)
    gain = np.maximum(1 / s[K], np.float32(1e-3))
    early = s[K] <= 20
    cap = 4 * dev
    if early.any():
        cap = np.where(early, np.float32(3e38), cap)
    s[MID] += gain * np.minimum(np.maximum(x - s[MID], -cap), cap)
    tail = s[TAIL]
    tail += 0.03 * dev * (np.where(size > tail, np.float32(0.99), np.float32(-0.01)))
    np.maximum(tail, dev, out=tail)
    # grow from zero even when the series was constant: the floor of the cap is a thousandth of the level
    dev += gain * (np.minimum(size, np.maximum(cap, signals.level * np.float32(1e-3))) - dev)
