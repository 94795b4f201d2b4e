"""Where the bulk of a column lies, whatever a few of its values are.

B. Iglewicz and D. Hoaglin, "How to detect and handle outliers" (1993): the median, 1.4826 times the median absolute
deviation (a standard deviation, where values are normal), and where more than half of the values are equal, so that it
is 0, 1.2533 times the mean absolute deviation.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

_MEDIAN: Final = 1.4826
_MEAN: Final = 1.2533


def centre_and_scale(rows: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The median and the scale of each column of ``rows``, (rows, columns), leaving out NaN; a column needs one finite
    value. The scale is 0 only if all values are equal."""
    centre = np.nanmedian(rows, axis=0)
    deviations = np.abs(rows - centre)
    scale = _MEDIAN * np.nanmedian(deviations, axis=0)
    return centre, np.where(scale > 0, scale, _MEAN * np.nanmean(deviations, axis=0))
