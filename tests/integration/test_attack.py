"""The short form of the attack on a gateway: see tests/attack. What it costs the good sender is measured by the long one."""

import pytest

from tests.attack.run import SHORT, run


@pytest.mark.timeout(180)
def test_the_gateway_bears_every_attack() -> None:
    report = run(seed=1, size=SHORT)
    print("\n".join(report.lines()))  # shown when the test failed
    assert report.findings == []
    assert len(report.ways) == 13
    assert report.attempts > 2_000
    assert report.attacked > 0
