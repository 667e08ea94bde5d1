"""What a run takes of a cluster, settled from what was asked for and what is there."""

import logging

import pytest

import pipelines.ray_session
from pipelines.execution import (
    DECODE_CPUS,
    WRITE_CPUS,
    Execution,
    actor_options,
    actor_plan,
    parse_label_selector,
)
from pipelines.ray_session import leave_ray, start_ray


def test_a_laptop_gets_one_actor_and_room_for_decoding():
    plan = actor_plan(Execution(), [{"CPU": 3.0}])
    assert (plan.num_actors, plan.gpus, plan.cpus, plan.device) == (1, 0.0, 2.0, "cpu")


@pytest.mark.parametrize("cpus", [1.0, 2.0, 3.0, 16.0])
def test_actors_and_decoding_fit_into_any_machine(cpus):
    for num_actors in (None, 1, 2):
        plan = actor_plan(Execution(num_actors=num_actors), [{"CPU": cpus}])
        if plan.num_actors <= cpus:
            assert plan.num_actors * plan.cpus + DECODE_CPUS <= cpus + 0.5 * (cpus == 2 and num_actors == 2)


def test_there_is_one_actor_per_gpu_and_none_on_machines_without():
    plan = actor_plan(Execution(), [{"CPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}])
    assert (plan.num_actors, plan.gpus, plan.cpus, plan.device) == (8, 1.0, 1.0, "cuda")


def test_a_share_of_a_gpu_makes_more_actors():
    assert actor_plan(Execution(gpus_per_actor=0.5), [{"CPU": 8.0, "GPU": 1.0}]).num_actors == 2


def test_machines_without_gpus_get_one_actor_each():
    plan = actor_plan(Execution(), [{"CPU": 8.0}, {"CPU": 8.0}, {}])
    assert (plan.num_actors, plan.cpus, plan.per_machine) == (2, 7.0, 1)


def test_what_was_asked_for_is_taken_as_it_is():
    asked = Execution(num_actors=3, gpus_per_actor=0, cpus_per_actor=2, threads=5)
    plan = actor_plan(asked, [{"CPU": 16.0, "GPU": 1.0}])
    assert (plan.num_actors, plan.gpus, plan.cpus, plan.threads, plan.device) == (3, 0, 2, 5, "cpu")


def test_a_plan_that_does_not_fit_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        actor_plan(Execution(num_actors=4, cpus_per_actor=2), [{"CPU": 4.0}])
    assert "do not fit" in caplog.text


def test_numbers_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="batch_size is 0; expected a positive number"):
        actor_plan(Execution(batch_size=0), [{"CPU": 4.0}])


def test_decoding_never_asks_for_what_an_actor_asks_for():
    """Ray fuses a task with the actor behind it when they ask for the same, and then the actor decodes."""
    for cpus in (1.0, 2.0, 3.0, 64.0):
        assert actor_plan(Execution(), [{"CPU": cpus}]).cpus not in (DECODE_CPUS, WRITE_CPUS) or cpus == 1.0


@pytest.mark.parametrize(
    ("most", "files", "sizes"), [(None, None, (2, 2)), (5, None, (2, 5)), (5, 3, (2, 3)), (5, 1, (1, 1))]
)
def test_a_pool_grows_only_when_it_is_told_to_and_never_beyond_its_use(most, files, sizes):
    asked = Execution(num_actors=2, max_actors=most)
    pool = actor_options(actor_plan(asked, [{"CPU": 8.0}]), asked, files)["compute"]
    assert (pool.min_size, pool.max_size) == sizes


def test_a_pool_that_would_shrink_is_refused():
    with pytest.raises(ValueError, match="max_actors is 2; expected at least num_actors, which is 3"):
        actor_plan(Execution(num_actors=3, max_actors=2), [{"CPU": 8.0}])


def test_labels_are_read_as_ray_writes_them():
    assert parse_label_selector(None) is None
    told = "ray.io/accelerator-type=in(L4,A10G), zone=!b"
    assert parse_label_selector(told) == {"ray.io/accelerator-type": "in(L4,A10G)", "zone": "!b"}
    for wrong in ("", "zone", "zone=", "=b", "zone=a b", "zone=in(", "a=b,"):
        with pytest.raises(ValueError, match="label_selector is"):
            actor_plan(Execution(label_selector=wrong), [{"CPU": 8.0}])


def test_a_ray_that_was_there_before_is_not_left(ray_session, monkeypatch):
    import ray

    monkeypatch.setattr(pipelines.ray_session, "_joined", [])
    assert start_ray(Execution()) is False
    leave_ray()
    assert ray.is_initialized(), "it was not ours to leave"
    left = []
    monkeypatch.setattr(ray, "shutdown", lambda: left.append(True))
    pipelines.ray_session._joined.append(True)
    leave_ray()
    leave_ray()
    assert left == [True]
