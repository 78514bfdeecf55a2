"""Losses, views, hold-out, order, optimiser and checkpoint files, each against something independent."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from clipstill.core.errors import ArtifactError, ConfigError
from clipstill.core.seeds import generator_for
from clipstill.core.tensors import tensor_digest
from clipstill.distillation import randomness
from clipstill.distillation.checkpoint import load_state, save_state
from clipstill.distillation.losses import agreement, kd_loss
from clipstill.distillation.optimisation import MovingAverage, Optimiser, epoch_rate, learned_state, rate
from clipstill.distillation.randomness import batch_rows
from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.training_data import held_out_mask
from clipstill.distillation.views import Kernel, Views, crops, plain_view
from clipstill.workflow.recipes import load_settings


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=generator_for("test", *shape))


def test_kd_loss_of_two_classes_is_the_closed_form() -> None:
    student, teacher, temperature = torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, -1.0]]), 2.0
    p = 1 / (1 + math.exp(-4 / temperature))
    q = 1 / (1 + math.exp(1 / temperature))
    expected = temperature**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert float(kd_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-5)


def test_kd_loss_is_zero_for_equal_distributions_and_ignores_a_common_shift() -> None:
    logits = random(5, 4) * 10
    torch.testing.assert_close(kd_loss(logits + 7, logits, 3.0), torch.zeros(5), atol=1e-5, rtol=0)


def test_kd_loss_is_per_image() -> None:
    student, teacher = random(3, 4), random(3, 4) * 5
    changed = teacher.clone()
    changed[2] = changed[2].flip(0)
    assert torch.equal(kd_loss(student, teacher, 2.0)[:2], kd_loss(student, changed, 2.0)[:2])


def test_kd_loss_has_the_softmax_gradient() -> None:
    student, teacher = random(2, 3).requires_grad_(), random(2, 3) * 4
    kd_loss(student, teacher, 2.0).sum().backward()
    expected = 2.0 * (torch.softmax(student.detach() / 2, 1) - torch.softmax(teacher / 2, 1))
    torch.testing.assert_close(student.grad, expected)


def test_kd_loss_stays_finite_for_a_peaky_teacher() -> None:
    student = torch.zeros(1, 3, requires_grad=True)
    loss = kd_loss(student, torch.tensor([[1e4, 0.0, -1e4]]), 1.0)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(math.log(3), rel=1e-5)
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_agreement_counts_equal_first_places() -> None:
    assert agreement(torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]) == 0.5


def test_views_depend_on_their_seed_and_not_on_the_global_generator() -> None:
    views, x_N3HW = Views(32, 0.3, 0.4), random(6, 3, 40, 40)
    first = views(x_N3HW, 0, "step", 5)
    torch.rand(11)
    state = torch.get_rng_state()
    again = Views(32, 0.3, 0.4)(x_N3HW, 0, "step", 5)
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, views(x_N3HW, 0, "step", 6))


def test_views_stay_in_range_and_differ_between_equal_pictures() -> None:
    x_N3HW = random(1, 3, 48, 48).expand(8, 3, 48, 48).contiguous()
    view_N3SS = Views(32, 0.2, 0.8)(x_N3HW, 1)
    assert view_N3SS.shape == (8, 3, 32, 32)
    assert 0 <= float(view_N3SS.min()) <= float(view_N3SS.max()) <= 1
    for other in range(1, 8):
        assert not torch.allclose(view_N3SS[0], view_N3SS[other])


def test_views_keep_a_plain_picture_plain_without_colour_changes() -> None:
    x_N3HW = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(4, 3, 40, 40).contiguous()
    torch.testing.assert_close(Views(32, 0.3, 0.0)(x_N3HW, 2), x_N3HW[:, :, :32, :32])


def test_crops_cover_at_least_the_least_area() -> None:
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(32, 3, 64, 64).contiguous()
    view_N3SS = Views(32, 0.8, 0.0)(ramp, 3)
    widths = view_N3SS.amax((1, 2, 3)) - view_N3SS.amin((1, 2, 3))
    # Area 0.8 at a ratio of 3 / 4 is the narrowest crop.
    assert float(widths.min()) > math.sqrt(0.8 * 3 / 4) - 0.06


@pytest.mark.parametrize("size", [12, 32, 90])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_crops_of_all_pictures_are_those_that_torch_makes_of_each(size: int, kernel: Kernel) -> None:
    x_N3HW = random(3, 3, 40, 52)
    first_N2, end_N2 = torch.tensor([[0, 0], [7, 3], [30, 39]]), torch.tensor([[52, 40], [20, 31], [31, 40]])
    by_itself = [
        interpolate(x_N3HW[i : i + 1, :, top:bottom, left:right], (size, size), mode=kernel, antialias=True)
        for i, ((left, top), (right, bottom)) in enumerate(zip(first_N2.tolist(), end_N2.tolist(), strict=True))
    ]
    torch.testing.assert_close(crops(x_N3HW, first_N2, end_N2, size, kernel), torch.cat(by_itself), atol=1e-5, rtol=0)


def test_the_published_schedule_goes_by_epochs_and_ends_at_2_4_percent_of_its_peak() -> None:
    shares = [epoch_rate(epoch, 20, first=0.002) for epoch in range(20)]
    assert shares[:2] == [0.002, 1.0]
    assert shares[-1] == pytest.approx(0.024, abs=5e-4)
    assert shares[1:] == sorted(shares[1:], reverse=True)
    by_step = Optimiser(nn.Linear(2, 2), DistilSettings(schedule="epochs", epochs=20), steps=60)
    assert [by_step.rate(step) for step in range(60)] == [share for share in shares for _ in range(3)]
    with pytest.raises(ConfigError, match="Set how many there are"):
        DistilSettings(schedule="epochs")


def test_momentum_is_sgd_without_nesterovs_step() -> None:
    module = nn.Linear(2, 1, bias=False)
    start, gradient = module.weight.detach().clone(), {"weight": torch.tensor([[1.0, -2.0]])}
    settings = DistilSettings(optimiser="momentum", head_lr=0.1, weight_decay=0.0, warmup_steps=0)
    optimiser = Optimiser(module, settings, steps=1_000_000)
    optimiser.step(gradient, 0)
    optimiser.step(gradient, 1)
    # 1, then 0.9 of it and the new one.
    torch.testing.assert_close(module.weight.detach(), start - 0.1 * (1 + 1.9) * gradient["weight"])


def test_a_moving_average_shares_what_does_not_train() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    average = MovingAverage(module, 0.5)
    assert average.module[0].weight is module[0].weight
    assert average.module[1].weight is not module[1].weight
    assert set(learned_state(module)) == {"1.weight", "1.bias"}


def test_plain_view_of_the_right_size_is_the_picture() -> None:
    x_N3HW = random(2, 3, 32, 32)
    assert torch.equal(plain_view(x_N3HW, 32), x_N3HW)
    torch.testing.assert_close(
        plain_view(random(1, 3, 64, 64), 32).mean(), random(1, 3, 64, 64).mean(), atol=5e-3, rtol=0
    )


def test_whole_styles_are_held_out_and_pictures_without_class_never() -> None:
    class_id = torch.arange(60) % 3
    class_id[48:] = -1
    style_id = torch.arange(60) // 3 % 4
    mask = held_out_mask(class_id, style_id, styles=2, seed=0)
    held = set(style_id[mask].tolist())
    assert len(held) == 2
    assert bool((mask == (torch.isin(style_id, torch.tensor(sorted(held))) & (class_id >= 0))).all())


def test_every_tenth_picture_is_held_out_where_styles_are_too_few() -> None:
    class_id = torch.arange(60) % 3
    mask = held_out_mask(class_id, torch.zeros(60, dtype=torch.long), styles=2, seed=0)
    assert torch.bincount(class_id[mask]).tolist() == [2, 2, 2]
    assert int(held_out_mask(class_id, torch.zeros(60, dtype=torch.long), styles=0, seed=0).sum()) == 0


def test_order_visits_every_sample_once_an_epoch_in_full_batches() -> None:
    batches = [batch_rows(step, 10, 4, ("seed",)) for step in range(5)]
    assert all(len(batch) == 4 for batch in batches)
    walk = torch.cat(batches)
    assert sorted(walk[:10].tolist()) == sorted(walk[10:].tolist()) == list(range(10))


def test_order_can_be_entered_at_any_step() -> None:
    for step in range(4):
        last = batch_rows(step, 7, 16, ("seed",))
    randomness._permutation.cache_clear()
    assert torch.equal(last, batch_rows(3, 7, 16, ("seed",)))


def test_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate(step, 100, 10) for step in range(100)]
    assert rates[0] > 0
    assert max(rates) == rates[10] == 1.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rate(100, 100, 10) == pytest.approx(0)
    assert all(rate(step, 3, 50) > 0 for step in range(3))


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_restored_optimiser_goes_on_to_the_bit(kind: str) -> None:
    def network() -> nn.Module:
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        with torch.no_grad():
            for name, value in module.named_parameters():
                value.copy_(torch.randn(value.shape, generator=generator_for(name)))
        return module.to(memory_format=torch.channels_last)

    def walk(module: nn.Module, optimiser: Optimiser, first: int, last: int) -> None:
        for step in range(first, last):
            loss = module(random(2, 3, 4, 4) + step / 10).square().mean()
            gradients = torch.autograd.grad(loss, list(optimiser.named.values()))
            optimiser.step(dict(zip(optimiser.named, gradients, strict=True)), step)

    settings = DistilSettings(optimiser="adamw" if kind == "adamw" else "sgd", lr=1e-2, head_lr=1e-2)
    straight, broken, resumed = network(), network(), network()
    walk(straight, Optimiser(straight, settings, 8), 0, 8)
    before = Optimiser(broken, settings, 8)
    walk(broken, before, 0, 5)
    resumed.load_state_dict(broken.state_dict())
    after = Optimiser(resumed, settings, 8)
    after.restore({key: value.clone(memory_format=torch.contiguous_format) for key, value in before.state().items()})
    walk(resumed, after, 5, 8)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])


def test_vectors_do_not_decay_and_the_head_has_its_own_rate() -> None:
    module = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    groups = Optimiser(module, DistilSettings(lr=1.0, head_lr=2.0, weight_decay=0.5), 4).torch.param_groups
    found = {id(value): (group["peak"], group["weight_decay"]) for group in groups for value in group["params"]}
    assert found[id(module["backbone"].weight)] == (1.0, 0.5)
    assert found[id(module["backbone"].bias)] == (1.0, 0.0)
    assert found[id(module["head"].weight)] == (2.0, 0.5)


def test_moving_average_without_decay_is_the_module_and_its_counters_follow() -> None:
    module = nn.BatchNorm1d(2)
    average = MovingAverage(module, 0.0)
    module(random(4, 2))
    average.update(module, 50)
    for key, value in module.state_dict().items():
        assert torch.equal(value, average.module.state_dict()[key])


def test_moving_average_follows_the_recursion() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    average, expected = MovingAverage(module, 0.5), 0.0
    for step in range(20):
        with torch.no_grad():
            module.weight.fill_(float(step))
        average.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.module.weight) == pytest.approx(expected, rel=1e-5)


def test_state_comes_back_as_written(tmp_path: Path) -> None:
    laid_out = random(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tensors = {"a.x": random(3, 2), "a.y": torch.tensor(5), "b": laid_out}
    save_state(tmp_path / "state.safetensors", tensors, {"key": "k", "step": 3, "loss": 0.1 + 0.2})
    saved = load_state(tmp_path / "state.safetensors", "k")
    assert saved is not None
    assert saved.facts == {"key": "k", "step": 3, "loss": 0.1 + 0.2}
    assert set(saved.group("a")) == {"x", "y"}
    assert all(torch.equal(value, saved.tensors[name]) for name, value in tensors.items())
    assert load_state(tmp_path / "absent.safetensors", "k") is None
    assert load_state(tmp_path / "state.safetensors", "another") is None


def test_damaged_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"a": random(100)}, {"step": 1})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match="state.safetensors cannot be read"):
        load_state(path, "k")


def test_digest_sees_values_names_and_shapes_and_not_the_memory_layout() -> None:
    x = random(2, 3, 4, 4)
    digest = tensor_digest({"x": x})
    assert digest == tensor_digest({"x": x.to(memory_format=torch.channels_last)})
    assert digest != tensor_digest({"y": x})
    assert digest != tensor_digest({"x": x.reshape(4, 3, 2, 4)})
    assert digest != tensor_digest({"x": x + 1e-6})


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", 1), ("freeze", "heads"), ("temperature", 0.0), ("ema", 1.0), ("keep", "first"), ("steps", 0)],
)
def test_impossible_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"distillation.{name} is"):
        load_settings(overrides=[f"distillation.{name}={value}"])
