"""What tests of leases share."""

from __future__ import annotations

import time
from collections.abc import Callable

from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.spec.errors import LeaseTakenError


def within(seconds: float, what: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not (done := what()) and time.monotonic() < until:
        time.sleep(0.01)
    return done


def takes(ledger: Ledger) -> bool:
    try:
        ledger.take_lease()
    except LeaseTakenError:
        return False
    return True
