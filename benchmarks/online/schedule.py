"""When the requests of an open load are to be sent: as a Poisson process, whatever becomes of those before.

Users who do not know of each other come so. A schedule is drawn before the load begins, so that a service that
stalls cannot slow down those who ask it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def poisson_arrivals(rate_per_s: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """Times in seconds from the start, ascending and below `seconds`; equal seeds draw the same.

    Args:
        rate_per_s: How many come in a second on average.
        seconds: How long they come.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    # A Poisson process is a Poisson number of times, each anywhere with the same probability.
    count = rng.poisson(rate_per_s * seconds)
    return np.sort(rng.uniform(0, seconds, count))
