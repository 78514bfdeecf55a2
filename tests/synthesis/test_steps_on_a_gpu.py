"""What a GPU is kept busy by, as far as a CPU can tell: no reading between steps, one shape, the same result."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from clipstill.cli.terminal import terminal
from clipstill.core import compiled
from clipstill.core.protocols import NetworkGenerator
from clipstill.generators.embedded import EmbeddedGenerator
from clipstill.generators.pixels import Pixels
from clipstill.synthesis import engine
from clipstill.synthesis.engine import GroupSpec, SynthesisedGroup, Synthesiser
from clipstill.synthesis.inversion import Inversion
from clipstill.synthesis.settings import SynthesisSettings
from synthesis_fixtures import TinyTeacher, units

CPU, META = torch.device("cpu"), torch.device("meta")
VECTORS = units(3, "classes")
# All that a step may contain.
SETTINGS = SynthesisSettings(
    steps=20,
    views=2,
    image_size=32,
    group_size=4,
    noise=0.1,
    erasing=0.3,
    perspective=0.3,
    coarse_share=0.4,
    bn_weight=0.0,
    natural_weight=0.0,
)


def spec(images: int) -> GroupSpec:
    class_ids = [n % 3 for n in range(images)]
    return GroupSpec(0, range(70, 70 + images), class_ids, VECTORS[class_ids])


def synthesiser(generator: object | None = None, **changed: object) -> Synthesiser:
    settings = SETTINGS.changed(**changed)
    return Synthesiser(TinyTeacher(), [generator or Pixels(CPU)], VECTORS, settings, CPU)  # type: ignore[list-item]


class BreaksForSomeSeeds(Pixels):
    """Marks the first number of an image's latent, and gives no numbers where the mark is that of a given seed."""

    def init(self, seeds: Sequence[int], size: int) -> list[Tensor]:
        latents = super().init(seeds, size)
        self._marks = {seed: float(latents[0][row].flatten()[0]) for row, seed in enumerate(seeds)}
        self._broken = [self._marks[seed] for seed in seeds if seed == 72]
        return latents

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        x_N3HW = super().decode(latents)
        # The mean of the finest level passes a limit after some steps.
        late_N = latents[-1].detach().flatten(1).std(1) > 0.45
        return torch.where(late_N[:, None, None, None], math.nan, x_N3HW)


@pytest.mark.parametrize("bn_weight", [0.0, 2.0])
def test_reading_rarely_changes_no_bit_also_where_images_break(
    bn_weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> SynthesisedGroup:
        return synthesiser(BreaksForSomeSeeds(CPU), bn_weight=bn_weight, steps=30).group(spec(4))

    often = made()
    monkeypatch.setitem(engine.READ_EVERY, "cpu", 8)
    rarely = made()
    assert often.restarts > 0
    assert (often.restarts, often.members, often.losses) == (rarely.restarts, rarely.members, rarely.losses)
    assert often.history == rarely.history
    assert np.array_equal(often.pixels_NHW3, rarely.pixels_NHW3)


@pytest.mark.slow
@pytest.mark.parametrize("bn_weight", [0.0, 2.0])
def test_nothing_is_read_from_the_device_between_two_readings(
    bn_weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on ``meta`` hold no numbers: whatever would wait for a device, ``item`` or ``nonzero``, raises there."""
    readings: list[int] = []

    def tolist(tensor: Tensor) -> Any:
        assert tensor.device == META
        readings.append(tensor.numel())
        return [True] * tensor.numel()

    teacher = TinyTeacher()
    teacher.network.to(META)
    settings = SETTINGS.changed(steps=40, bn_weight=bn_weight)
    generator = Pixels(META)
    made = Synthesiser(teacher, [generator], VECTORS, settings, META)
    step_of = made._steps(generator, spec(4))
    monkeypatch.setattr(Tensor, "tolist", tolist)
    Inversion(generator, spec(4).seeds, settings, step_of=step_of, count=4, read_every=16).run()
    # 16 coarse steps, 24 fine ones, and the losses at the end.
    assert readings == [4, 4, 4, 4]


@pytest.mark.slow
def test_an_item_on_meta_raises() -> None:
    with pytest.raises(RuntimeError, match="meta tensors"):
        torch.ones(2, device=META).sum().item()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
    """Compile on the CPU too, from the first step, without generating code; and count the graphs."""
    counter = CompileCounterWithBackend("aot_eager")
    real: Callable[..., Any] = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda function, **how: real(function, backend=counter, **how))
    monkeypatch.setattr(compiled, "can_compile", lambda device: True)
    monkeypatch.setattr(compiled, "COMPILE_AFTER_S", 0.0)
    torch.compiler.reset()
    yield counter
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("bn_weight", [0.0, 2.0])
def test_compiled_steps_are_one_graph_and_end_at_the_same_images(
    bn_weight: float, counted: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = synthesiser(EmbeddedGenerator(CPU), bn_weight=bn_weight, coarse_share=0.0)
    with monkeypatch.context() as eager:
        eager.setattr(compiled, "COMPILE_AFTER_S", math.inf)
        expected = made.group(spec(4))
    assert counted.frame_count == 0
    group = made.group(spec(4))
    assert counted.frame_count == 1
    assert int(np.abs(group.pixels_NHW3.astype(int) - expected.pixels_NHW3.astype(int)).max()) <= 1
    assert group.losses == pytest.approx(expected.losses, abs=1e-4)
    assert [entry["loss"] for entry in group.history] == pytest.approx(
        [entry["loss"] for entry in expected.history], abs=1e-4
    )


@pytest.mark.slow
def test_a_smaller_group_keeps_the_shape_and_its_images(counted: CompileCounterWithBackend) -> None:
    made = synthesiser(coarse_share=0.0)
    made.group(spec(4))
    small = made.group(spec(3))
    assert counted.frame_count == 1
    assert len(small.pixels_NHW3) == len(small.losses) == 3
    alone = synthesiser(coarse_share=0.0).group(spec(3))
    assert int(np.abs(small.pixels_NHW3.astype(int) - alone.pixels_NHW3.astype(int)).max()) <= 1
    assert small.history[-1]["loss"] == pytest.approx(alone.history[-1]["loss"], abs=1e-4)


def test_where_a_compiler_fails_the_step_goes_on_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = synthesiser().group(spec(4))

    def refuse(*args: object) -> object:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiled.torch, "compile", lambda function, **how: refuse)
    monkeypatch.setattr(compiled, "can_compile", lambda device: True)
    monkeypatch.setattr(compiled, "COMPILE_AFTER_S", 0.0)
    with terminal():
        group = synthesiser().group(spec(4))
    assert capsys.readouterr().err.count("without compiled kernels, which is slower (no compiler here)") == 1
    assert np.array_equal(group.pixels_NHW3, expected.pixels_NHW3)


def test_half_precision_holds_the_weights_once_and_casts_none_of_them_in_a_step() -> None:
    generator = EmbeddedGenerator(CPU)
    assert isinstance(generator, NetworkGenerator)
    made = synthesiser(generator, precision="bf16", steps=2)
    weights = list(generator.network.parameters())
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    sizes = {tuple(weight.shape) for weight in weights if weight.ndim == 4}
    casts = []

    class Casts(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._to_copy.default and tuple(args[0].shape) in sizes:
                casts.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    step_of, latents = made._steps(generator, spec(4)), generator.init(spec(4).seeds, 32)
    with Casts():
        step_of(latents, 0, 32)
    assert casts == []
