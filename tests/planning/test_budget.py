"""What a budget chooses, and what a run costs by counts from its settings."""

from collections.abc import Mapping
from typing import Any

import pytest

from clipstill.planning.budget import choose_settings
from clipstill.planning.cost import Cost, cost_of
from clipstill.planning.timings import Timings
from clipstill.workflow.settings import Settings

TIMINGS = Timings(
    image=0.0,
    image_step=0.02,
    view=0.003,
    photo=0.004,
    training_view=0.011,
    text=0.01,
    prompt_step=0.0,
    image_bytes=1e6,
    training_bytes=1e6,
    feature_bytes=10_000,
    base_bytes=10**8,
    image_size=96,
)
DEFAULT = Settings()


def cost(settings: Mapping[str, Any], classes: int = 5, **photos: int) -> Cost:
    return cost_of(DEFAULT.changed(**settings), TIMINGS, classes=classes, templates=1, **photos)


def choose(budget: float, *fixed: str) -> dict[str, Any]:
    return choose_settings(DEFAULT, budget, fixed, lambda settings: cost(settings).seconds)


def test_work_is_counted_from_the_settings() -> None:
    base = cost({}, 7, photos=280)
    assert (base.images, base.image_steps) == (168, (168 + 14) * 20)
    assert base.stages["near_misses"] == pytest.approx(14 * 20 * 0.02 + 300 * 0.01)
    assert base.stages["evaluation"] == pytest.approx(280 * 0.004)
    views = 168 * DEFAULT.distillation.views
    assert base.stages["student"] == pytest.approx(views * 0.003 + 1000 * 0.0035, abs=0.01)
    freed = cost({"distillation.freeze": "bn", "distillation.head_steps": 300}, 7)
    all_weights = 1000 * DEFAULT.distillation.batch * 0.011
    assert freed.stages["student"] == pytest.approx(views * 0.003 + 300 * 0.0035 + all_weights, abs=0.01)
    meta = cost({"distillation.freeze": "none", "distillation.meta": "exact"}, 7)
    assert meta.stages["student"] == pytest.approx(3.3 * all_weights, abs=0.01)


def test_cost_is_the_sum_of_its_stages_and_grows_with_images_and_steps() -> None:
    base = cost({})
    assert base.seconds == pytest.approx(sum(base.stages.values()), abs=0.1)
    assert base.stages["surrogate"] == pytest.approx(5 * 24 * 20 * 0.02)
    assert cost({"prompts.images_per_class": 48}).stages["surrogate"] == 2 * base.stages["surrogate"]
    assert cost({"synthesis.image_size": 192}).stages["surrogate"] == 4 * base.stages["surrogate"]
    assert cost({"distillation.minutes": 3}).stages["student"] == 180
    assert cost({"synthesis.group_size": 14}).memory_bytes < base.memory_bytes


def test_photos_take_no_more_memory_than_their_cache_and_features() -> None:
    streamed = {"distillation.freeze": "bn", "reading.cache_mb": 500}
    bare = cost(streamed).memory_bytes
    few, many = (cost(streamed, unlabelled=count).memory_bytes - bare for count in (300, 1_000_000))
    assert 0 < few < many == 500_000_000
    # A head alone learns from features, which are kept of every view.
    cached = {"reading.cache_mb": 0, "distillation.views": 3}
    views = 3 * 1_000_000
    assert cost(cached, unlabelled=1_000_000).memory_bytes - cost(cached).memory_bytes == views * 10_000


def test_a_larger_budget_never_chooses_less() -> None:
    budgets = [20, 60, 100, 200, 300, 500, 1000, 2000, 8000]
    seconds = [cost(choose(budget)).seconds for budget in budgets]
    assert seconds == sorted(seconds)
    assert len(set(seconds)) > 5
    assert seconds[0] < cost({}).seconds < seconds[-1]
    assert all(took <= budget for took, budget in zip(seconds[2:], budgets[2:], strict=True))


def test_a_budget_leaves_alone_what_was_given_and_what_fits() -> None:
    assert choose(cost({}).seconds + 1) == {}
    assert "prompts.images_per_class" in choose(60)
    assert "prompts.images_per_class" not in choose(60, "prompts.images_per_class")
    rich = choose(1e9)
    assert rich["distillation.freeze"] == "bn"
    assert not {"distillation.freeze", "distillation.head_steps"} & choose(1e9, "distillation.freeze").keys()
