"""Checks for your own operators, priors and methods; the same that plugip's tests run on its own.

Each ``check_*`` returns a ``Report``. In a test, ``check_operator(MyOperator()).require()`` is one
line; ``plugip-check operator=... | prior=... | method=...`` prints the same report.
"""

from plugip.testing.methods import check_method as check_method
from plugip.testing.operators import check_operator as check_operator
from plugip.testing.priors import check_prior as check_prior
from plugip.testing.report import Check as Check
from plugip.testing.report import Report as Report
