"""Permits: a bounded number of requests at once, and none once the server drains."""

from __future__ import annotations

import pytest

from keelway.errors import Overloaded
from keelway.guard.admission import Admission


def test_permits_are_bounded_and_come_back() -> None:
    # R3
    admission = Admission(2)
    admission.enter()
    admission.enter()
    for _ in range(3):
        with pytest.raises(Overloaded, match="as many requests as it may") as refused:
            admission.enter()
        assert refused.value.retry_after == 1.0
    assert admission.in_flight == 2  # a refusal takes nothing
    admission.leave()
    admission.enter()
    assert admission.in_flight == 2
