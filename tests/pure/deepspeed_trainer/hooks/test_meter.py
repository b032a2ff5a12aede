"""Rates and decimal text."""

import math
import re

import pytest

from deepspeed_trainer.hooks.meter import WINDOW, Meter, format_decimal
from deepspeed_trainer.progress import DECIMAL


def test_there_is_no_rate_before_the_second_step() -> None:
    meter = Meter()
    meter.add(1.0, 8)
    assert meter.per_second is None


def test_the_rate_is_samples_over_time() -> None:
    meter = Meter()
    for step in range(5):
        meter.add(step * 0.5, 8)
    assert meter.per_second == "16"


def test_the_rate_forgets_what_is_long_ago() -> None:
    meter = Meter()
    for step in range(10):
        meter.add(step * 100.0, 8)
    for step in range(WINDOW + 1):
        meter.add(1000.0 + step, 8)
    assert meter.per_second == "8"


@pytest.mark.parametrize("value", [0.0, -1.5, 1e-30, 1e300, math.nan, math.inf, -math.inf])
def test_decimal_text_is_what_the_contract_reads(value: float) -> None:
    assert re.fullmatch(DECIMAL, format_decimal(value))
