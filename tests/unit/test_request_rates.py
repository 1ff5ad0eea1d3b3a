"""Rate limits by name, and how many names are kept."""

from pipelines.serving.addresses import UNKNOWN, Addresses, named
from pipelines.serving.request_rates import RequestRates


def test_a_name_has_its_burst_and_then_its_rate() -> None:
    rates = RequestRates(2.0, 4.0)
    assert [rates.take("a", 0.0) for _ in range(4)] == [0.0] * 4
    assert rates.take("a", 0.0) == 0.5
    assert rates.take("b", 0.0) == 0.0
    assert rates.take("a", 0.5) == 0.0
    assert rates.take("a", 0.5) == 0.5
    assert [rates.take("a", 100.0) for _ in range(5)] == [0.0] * 4 + [0.5]


def test_what_is_given_back_was_never_taken() -> None:
    rates = RequestRates(1.0, 1.0)
    for _ in range(10):
        assert rates.take("a", 0.0) == 0.0
        rates.give_back("a", 0.0)
    rates.give_back("a", 0.0)
    rates.give_back("unknown name", 0.0)
    assert (rates.take("a", 0.0), rates.take("a", 0.0), len(rates)) == (0.0, 1.0, 1)


def test_only_so_many_names_are_remembered() -> None:
    rates = RequestRates(1.0, 1.0, most_names=3)
    for name in ("a", "b", "c", "a", "d"):
        rates.take(name, 0.0)
    assert len(rates) == 3
    assert rates.take("a", 0.0) == 1.0, "used since"
    assert rates.take("b", 0.0) == 0.0, "forgotten"


def test_no_rate_is_no_limit_and_remembers_nothing() -> None:
    rates = RequestRates(0.0, 0.0)
    assert [rates.take("a", 0.0) for _ in range(1000)] == [0.0] * 1000
    assert len(rates) == 0


def test_ipv6_addresses_of_one_network_share_a_name() -> None:
    assert named("203.0.113.7") == "203.0.113.7"
    assert named("::ffff:203.0.113.7") == "203.0.113.7"
    assert named("2001:db8:1:2::7") == named("2001:db8:1:2:ffff::1") != named("2001:db8:1:3::7")
    assert named("fe80::1%eth0") == "fe80::/64"
    assert named("") == named("nonsense") == UNKNOWN
    proxies = Addresses("10.0.0.0/8, 2001:db8::/32,")
    asked = ("10.1.2.3", "11.0.0.1", "2001:db8::1", "::ffff:10.0.0.1", "nonsense")
    assert [proxies.is_proxy(each) for each in asked] == [True, False, True, True, False]
