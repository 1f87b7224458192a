"""Plans that cannot work are refused."""

from __future__ import annotations

import msgspec
import pytest

from headway.core import Plan, UsageError, static_baseline


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_deadline_that_has_passed_before_it_begins_is_refused(timeout: int) -> None:
    with pytest.raises(msgspec.ValidationError, match="timeout_ns"):
        msgspec.convert({"timeout_ns": timeout}, Plan)


@pytest.mark.parametrize(("cores", "largest"), [(0, 100), (-1, 100), (2, 0)])
def test_nothing_is_divided_over_no_cores(cores: int, largest: int) -> None:
    with pytest.raises(UsageError, match=f"over {cores} cores"):
        static_baseline(cores, largest)
