"""The measurement of forecasts counts what it should."""

from dataclasses import replace

import numpy as np

from benchmarks.coverage import WORLDS
from benchmarks.forecast import Forecasts, practise, row_of


def test_forecast_benchmark_counts_by_hand() -> None:
    told = Forecasts(
        *(np.array(column, dtype=np.float64) for column in ([0, 0, 0], [5, 5, 5], [3, 3, 3], [8, 8, 8], [2, 5, 9]))
    )
    assert row_of("x", told) == ["x", "3", "5", "5", "1.00", "33", "33", "33"]
    found = practise(replace(WORLDS[0], skills=1, items=3), 1, 6)
    assert (found.left >= 0).all()
    assert (found.asked_at == 0).sum() == 6
