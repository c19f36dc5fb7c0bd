"""The plan and the simulation of docs/scale.md on cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.plan_scale import (
    Gpu,
    bytes_text,
    core_hours,
    gpu_hours,
    rounded,
    vit_operations,
)
from benchmarks.simulate_scale import HOUR, Cluster, mean_course, simulate


@pytest.mark.parametrize(("workers", "chunk"), [(1, 10), (4, 5), (10, 1), (8, 25)])
def test_equal_workers_and_images_take_their_share(workers: int, chunk: int) -> None:
    found = simulate([2.0], 200, chunk, Cluster(workers, overhead=0.5))
    rounds = 200 / chunk / workers
    assert found.makespan == pytest.approx(rounds * (2.0 * chunk + 0.5))
    assert (found.lost, found.losses, found.ideal) == (0, 0, 400 / workers)


def test_the_last_chunk_is_waited_for() -> None:
    # 3 workers, chunks of 4, 4, 4 and 2 images of 1 s: 4 s, and 2 more
    assert simulate([1.0], 14, 4, Cluster(3)).makespan == pytest.approx(6)
    # one chunk for everybody: no more than one worker works
    found = simulate([1.0], 14, 14, Cluster(3))
    assert found.makespan == pytest.approx(14) and found.stretch == pytest.approx(3)


def test_images_are_drawn_from_those_measured() -> None:
    found = [simulate([1.0, 3.0], 1000, chunk, Cluster(1)).makespan for chunk in (1, 10, 100)]
    assert all(abs(each - 2000) < 6 * math.sqrt(1000) for each in found)
    assert found[0] == found[1] != found[2]  # the sum of a large chunk is drawn at once


def test_a_worker_that_may_be_lost_in_its_chunk() -> None:
    # E = (exp(rate * T) - 1) (1 / rate + restart), as for any job that begins anew when it fails
    work, rate, restart = 1800.0, 1.0 / HOUR, 300.0
    cluster = Cluster(1, losses=1.0, restart=restart)
    courses = [simulate([work], 1, 1, cluster, seed) for seed in range(3000)]
    expected = (math.exp(rate * work) - 1) * (1 / rate + restart)
    assert np.mean([each.makespan for each in courses]) == pytest.approx(expected, rel=0.05)
    tries = math.exp(rate * work) - 1  # that fail, in the mean
    assert np.mean([each.losses for each in courses]) == pytest.approx(tries, rel=0.08)
    for each in courses[:50]:  # what is neither lost nor waited for is the work
        assert each.makespan == pytest.approx(work + each.lost + restart * each.losses)


def test_smaller_chunks_lose_less() -> None:
    cluster = Cluster(20, losses=2.0)
    rows = {chunk: mean_course([3.0], 20_000, chunk, cluster, 5) for chunk in (10, 100, 500)}
    lost = [rows[chunk]["lost"] for chunk in (10, 100, 500)]
    assert lost[0] < lost[1] < lost[2]
    # half a chunk is lost at each loss, in the mean: rate * chunk seconds / 2
    assert lost[0] == pytest.approx(2.0 / HOUR * 30 / 2, rel=0.4)
    assert lost[1] == pytest.approx(2.0 / HOUR * 300 / 2, rel=0.3)


def test_the_same_seed_is_the_same_run() -> None:
    cluster = Cluster(10, slowness=0.3, losses=5.0, restart=30, overhead=0.1)
    assert simulate([1.0, 2.0], 5000, 20, cluster, 3) == simulate([1.0, 2.0], 5000, 20, cluster, 3)
    assert simulate([1.0, 2.0], 5000, 20, cluster, 3) != simulate([1.0, 2.0], 5000, 20, cluster, 4)


def test_slow_workers_take_fewer_chunks() -> None:
    # the queue gives more to who is fast: the stretch stays near 1 while chunks are small
    cluster = Cluster(50, slowness=0.4)
    rows = {chunk: mean_course([1.0], 50_000, chunk, cluster, 5) for chunk in (5, 1000)}
    assert rows[5]["stretch"] < 1.05 < 1.3 < rows[1000]["stretch"]


def test_hours_of_a_plan() -> None:
    assert core_hours({"read": 1.0, "see": 2.5, "other": 9.0}, ("read", "see"), 7200) == 7.0
    gpu = Gpu(peak=1e12, share=0.5, cores=10)
    assert gpu_hours(gpu, 1e12, on_cpu=1.0, images=3600) == pytest.approx(2)  # the card's 2 s
    assert gpu_hours(gpu, 1e12, on_cpu=50.0, images=3600) == pytest.approx(5)  # waits for 10 cores


def test_operations_are_those_that_were_counted() -> None:
    # measured before: 140.6 GFLOP for eleven blocks at 769 tokens, patch embedding included
    embedding = 2 * 768 * 768 * 768
    assert (vit_operations(769, 768, 11) + embedding) / 1e9 == pytest.approx(140.6, abs=0.2)


def test_numbers_of_a_plan() -> None:
    texts = [rounded(each) for each in (0.0123, 1.26, 13.4, 12_345.0, 0)]
    assert texts == ["0.012", "1.3", "13", "12,000", "0"]
    assert [bytes_text(each) for each in (12, 3_279e4, 3.6e14)] == ["12 B", "33 MB", "360 TB"]
