"""A seed replays a round of chaos."""

from tests.chaos.plan import KINDS, OUTAGE_S, PAUSE_S, planned


def test_a_seed_draws_the_same_blows_and_another_seed_others():
    assert planned(7) == planned(7)
    assert planned(7, 9)[:4] == planned(7, 4)
    assert len({str(planned(seed)) for seed in range(100)}) == 100


def test_everything_is_hit_within_its_bounds():
    blows = [blow for seed in range(100) for blow in planned(seed)]
    assert {blow.kind for blow in blows} == set(KINDS)
    for blow in blows:
        assert PAUSE_S[0] <= blow.pause_s <= PAUSE_S[1]
        assert OUTAGE_S[0] <= blow.outage_s <= OUTAGE_S[1]
        assert 0 <= blow.which < 1
