"""Schedules that work, for those who have none of their own: functions of public values alone.

A schedule that was chosen by private results would itself have to be paid for. So nothing here knows a record: a site's number of records
is an estimate that may be published, as `teacher.normaliser` is in every plan.

[D] marks what was measured here; `python -m limbeck.experiments.benchmarks.rows` measures it again.
"""

from __future__ import annotations

import math

from limbeck.base import check
from limbeck.plans.settings import TeacherSettings

# Of rows of tables and texts, for linear teachers [D]: the norm that a row is scaled to, and the number of steps.
ROWS_NORM = 2.0
ROWS_STEPS = 40
# The largest step: beyond it, weights only swing about the optimum.
ROWS_LARGEST_STEP = 8.0
# The ratio of signal to noise, records * epsilon / sqrt(weights), at which a step of 1 is right.
ROWS_UNIT = 30.0


def rows_schedule(
    *, records_per_site: float, dimensions: int, classes: int, epsilon: float, delta: float
) -> TeacherSettings:
    """A schedule of linear teachers on rows of tables or texts.

    - records_per_site: a public estimate of how many records a site has; also the normaliser.
    - dimensions: numbers in a row, as the public encoding makes them.
    - classes: K.
    - epsilon, delta: what the plan may cost a site.

    Raises SettingError for values that no plan can have.
    """
    check.at_least(1, records_per_site=records_per_site, dimensions=dimensions)
    check.at_least(2, classes=classes)
    check.positive(epsilon=epsilon, delta=delta)
    ratio = records_per_site * epsilon / math.sqrt((dimensions + 1) * classes)
    return TeacherSettings(
        kind="linear",
        features="rows",
        feature_norm=ROWS_NORM,
        steps=ROWS_STEPS,
        learning_rate=_two_digits(min(ratio / ROWS_UNIT, ROWS_LARGEST_STEP)),
        momentum=0.9,
        clip=1.0,
        normaliser=float(records_per_site),
        average_last=ROWS_STEPS // 2,
    )


def _two_digits(value: float) -> float:
    """Rounded to two significant digits, which is more than a rule of thumb knows, and reads well in a file."""
    return float(f"{value:.2g}")
