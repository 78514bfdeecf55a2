"""The loop: an image that breaks begins again, what does not fit is made in chunks, and no image moves another."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.cli.terminal import terminal
from clipstill.core.errors import ConfigError
from clipstill.core.protocols import Provenance
from clipstill.core.seeds import generator_for
from clipstill.generators.pixels import Pixels
from clipstill.synthesis.engine import GroupSpec, SynthesisedGroup, Synthesiser
from clipstill.synthesis.inversion import _Adam, learning_rates
from clipstill.synthesis.settings import SynthesisSettings
from synthesis_fixtures import TinyTeacher, units

CPU = torch.device("cpu")
IMAGES = 7
SETTINGS = SynthesisSettings(
    steps=20, views=2, image_size=32, group_size=IMAGES, bn_weight=0.0, natural_weight=0.0, tv_weight=0.0, lr=0.1
)
VECTORS = units(3, "classes")
CLASSES = [0, 1, 2, 0, 1, 2, 0]


GROUP = GroupSpec(0, range(50, 50 + IMAGES), CLASSES, VECTORS[CLASSES])


def made(generator: object | None = None, **changed: object) -> SynthesisedGroup:
    settings = SETTINGS.changed(**changed)
    parts = [generator or Pixels(CPU)]
    return Synthesiser(TinyTeacher(), parts, VECTORS, settings, CPU).group(GROUP)  # type: ignore[arg-type]


def assert_same_images(one: SynthesisedGroup, other: SynthesisedGroup) -> None:
    assert one.members == other.members
    # Batches of different sizes round differently; one grey level is the most that is left.
    assert int(np.abs(one.pixels_NHW3.astype(int) - other.pixels_NHW3.astype(int)).max()) <= 1
    assert one.losses == pytest.approx(other.losses, abs=1e-3)
    assert one.steps == other.steps


def test_adam_is_that_of_torch_while_no_image_begins_again() -> None:
    draw = generator_for("adam")
    ours = [torch.randn(3, 4, generator=draw), torch.randn(3, 2, 2, generator=draw)]
    theirs = [latent.clone().requires_grad_() for latent in ours]
    reference = torch.optim.Adam(theirs, lr=0.05, betas=(0.9, 0.99))
    adam = _Adam(ours, (0.9, 0.99))
    for _ in range(6):
        gradients = [torch.randn(latent.shape, generator=draw) for latent in ours]
        adam.step_(ours, gradients, torch.tensor(0.05))
        for latent, gradient in zip(theirs, gradients, strict=True):
            latent.grad = gradient
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-5, atol=1e-6)


def test_an_image_that_begins_again_is_as_if_it_had_begun_alone_with_half_the_step() -> None:
    draw = generator_for("late")
    gradients = torch.randn(5, 2, 4, generator=draw)
    together, alone = [torch.zeros(2, 4)], [torch.zeros(1, 4)]
    adam, single = _Adam(together, (0.9, 0.99)), _Adam(alone, (0.9, 0.99))
    for step in range(5):
        if step == 2:
            adam.restart(1)
            together[0][1] = 0
        adam.step_(together, [gradients[step]], torch.tensor(0.1))
        if step >= 2:
            single.step_(alone, [gradients[step, 1:]], torch.tensor(0.05))
    torch.testing.assert_close(together[0][1:], alone[0], rtol=0, atol=1e-7)


def test_a_coarse_start_ends_at_the_size_asked_for_and_goes_on_where_it_was() -> None:
    group = made(image_size=64, coarse_share=0.5)
    assert group.pixels_NHW3.shape == (IMAGES, 64, 64, 3)
    assert group.steps == 20
    losses = [entry["loss"] for entry in group.history]
    fresh = made(image_size=64).history[0]["loss"]
    # Enlarged, it is another image to this teacher of fixed filters, and still nearer to its target than a new one.
    assert losses[10] < fresh
    assert losses[-1] < losses[10]


class Breaking(Pixels):
    """Gives no numbers for images of some seeds, a given number of times each."""

    name = "breaking"

    def __init__(self, broken: dict[int, int]) -> None:
        super().__init__(CPU)
        self._broken = broken
        self._seen: dict[float, int] = {}

    def init(self, seeds: Sequence[int], size: int) -> list[Tensor]:
        latents = super().init(seeds, size)
        for row, seed in enumerate(seeds):
            self._seen[float(latents[0][row].flatten()[0])] = seed
        return latents

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        x_N3HW = super().decode(latents)
        hurt = torch.zeros(len(x_N3HW), 1, 1, 1)
        for row in range(len(x_N3HW)):
            seed = self._seen.get(float(latents[0][row].detach().flatten()[0]))
            if seed in self._broken and self._broken[seed] > 0:
                self._broken[seed] -= 1
                hurt[row] = float("nan")
        return x_N3HW + hurt * x_N3HW


@pytest.mark.parametrize("bn_weight", [0.0, 1.0])
def test_an_image_that_breaks_once_begins_again_and_harms_nobody(bn_weight: float) -> None:
    group = made(Breaking({52: 1}), bn_weight=bn_weight)
    assert group.members == list(range(IMAGES))
    assert group.restarts == 1
    assert np.isfinite(group.losses).all()
    if bn_weight == 0:
        whole = made()
        others = [n for n in range(IMAGES) if n != 2]
        assert np.array_equal(group.pixels_NHW3[others], whole.pixels_NHW3[others])
        assert not np.array_equal(group.pixels_NHW3[2], whole.pixels_NHW3[2])


class AlwaysBroken(Pixels):
    """Gives no numbers for its images with one seed, and for those that follow it."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(CPU)
        self._rows = list(rows)

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        x_N3HW = super().decode(latents)
        broken = torch.zeros(len(x_N3HW), 1, 1, 1)
        broken[self._rows] = float("nan")
        return x_N3HW + broken


def test_an_image_that_always_breaks_is_left_out_and_the_others_are_made() -> None:
    group = made(AlwaysBroken([3]), bn_weight=1.0)
    assert group.members == [0, 1, 2, 4, 5, 6]
    assert len(group.pixels_NHW3) == len(group.losses) == len(group.scores) == IMAGES - 1
    assert np.isfinite(group.losses).all()


def test_a_group_without_one_image_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"Lower synthesis\.lr"):
        made(AlwaysBroken(range(IMAGES)), bn_weight=1.0)


class Hungry(Pixels):
    """Fits only so many images."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__(CPU)
        self._most, self._error = most, error

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        if len(latents[0]) > self._most:
            raise self._error
        return super().decode(latents)


def exhausted_cpu() -> RuntimeError:
    """What torch raises where no memory is left."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("too many"), exhausted_cpu(), MemoryError()], ids=type)
def test_what_does_not_fit_is_made_in_smaller_batches(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal():
        assert_same_images(made(Hungry(2, error)), made())
    assert "continuing with 1" in capsys.readouterr().err


def test_a_coupled_group_that_does_not_fit_is_not_split() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        made(Hungry(2, torch.OutOfMemoryError("too many")), bn_weight=1.0)


def test_another_error_is_not_taken_for_exhausted_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        made(Hungry(2, RuntimeError("shapes do not fit")))


def test_the_rate_falls_to_a_tenth_along_a_cosine_or_stays() -> None:
    cosine = learning_rates(SynthesisSettings(steps=100, lr=0.2), 2.0)
    assert cosine[0] == pytest.approx(0.4)
    assert cosine[50] == pytest.approx(0.4 * 0.55)
    assert 0.04 < float(cosine[-1]) < 0.041
    constant = learning_rates(SynthesisSettings(steps=100, lr=0.2, schedule="constant"), 2.0)
    assert constant.tolist() == pytest.approx([0.4] * 100)


def test_the_decays_of_the_means_reach_the_optimiser() -> None:
    assert made(betas=(0.9, 0.999)).losses != made().losses


def test_half_precision_ends_near_the_full_one() -> None:
    half, full = made(precision="bf16"), made()
    assert half.losses == pytest.approx(full.losses, rel=0.3, abs=0.05)
    assert half.history[-1]["loss"] < half.history[0]["loss"]
    assert half.losses != full.losses


class Painter:
    """Draws a flat colour from its seed."""

    name = "painter"
    provenance: Sequence[Provenance] = ()

    def __init__(self) -> None:
        self.asked: list[str] = []

    def sample(self, texts: Sequence[str], seeds: Sequence[int], size: int) -> Tensor:
        self.asked += texts
        colours = torch.stack([torch.rand(3, 1, 1, generator=generator_for(seed)) for seed in seeds])
        return colours.expand(-1, -1, size, size)


def test_a_sampler_fills_the_set_from_the_same_prompts_without_inversion() -> None:
    painter = Painter()
    engine = Synthesiser(TinyTeacher(), [painter], VECTORS, SETTINGS, CPU)
    texts = [f"text {n}" for n in range(IMAGES)]
    group = engine.group(replace(GROUP, texts=texts))
    assert painter.asked == texts
    assert group.steps == 0
    assert group.generator == "painter"
    x_N3HW = torch.from_numpy(group.pixels_NHW3).permute(0, 3, 1, 2).float() / 255
    logits_NC = 10.0 * F.normalize(TinyTeacher().encode_image(x_N3HW), dim=-1) @ VECTORS.T
    assert group.scores == pytest.approx(logits_NC.softmax(1)[range(IMAGES), CLASSES].tolist(), abs=1e-4)


def test_who_watches_sees_the_images_at_work() -> None:
    seen: list[tuple[int, ...]] = []
    engine = Synthesiser(TinyTeacher(), [Pixels(CPU)], VECTORS, SETTINGS, CPU)
    engine.group(GROUP, lambda x_N3HW: seen.append(tuple(x_N3HW.shape)))
    assert seen == [(IMAGES, 3, 32, 32)] * 20
