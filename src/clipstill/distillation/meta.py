"""Meta knowledge distillation: what is learned from some styles must help on the others.

Every step splits the styles anew into a group to learn from (X_tr) and a group to test on (X_te). With H the Hessian of
L(X_tr) and v = grad L(X_te; theta_c), the outer loss and its gradient are

    theta_c      = theta - alpha * grad L(X_tr; theta)
    L_outer      = L(X_tr; theta) + L(X_te; theta_c)
    grad L_outer = grad L(X_tr; theta) + v - alpha * H v

Three backward passes compute it. None goes through the inner step, so gradients from several processes can be added up.

Source: Wei et al., ICLR 2025, meta knowledge distillation and its first-order expansion
g_tr + g_te - alpha * grad(g_tr . g_te) + O(alpha^2); Li et al., Learning to Generalize, AAAI 2018 (MLDG); Nichol et
al., On First-Order Meta-Learning Algorithms, 2018 (Reptile).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import generator_for
from clipstill.distillation import parallel
from clipstill.distillation.optimisation import Gradient, Loss, Weights, detached, gradient_of, loss_and_gradient
from clipstill.distillation.settings import DistilSettings, MetaMode

if TYPE_CHECKING:
    from clipstill.distillation.phases import Phase

# Share of the styles in X_te.
_TEST_SHARE = 0.25
# Inner steps of reptile, each on styles of its own.
_REPTILE_GROUPS = 4


class MetaDistillation:
    """Finds the gradient of each step from groups of styles; a ``FindGradient`` for one phase."""

    def __init__(self, phase: Phase, settings: DistilSettings) -> None:
        self._phase, self._settings = phase, settings
        self._styles = torch.unique(phase.style_M[phase.style_M >= 0]).tolist()
        self._groups = min(len(self._styles), _REPTILE_GROUPS if settings.meta == "reptile" else 2)
        if self._groups < 2:
            raise ConfigError(
                f"meta distillation needs pictures of two styles or more, and there is {len(self._styles)}. Choose a "
                f"prompt strategy with styles, or set distillation.meta to 'none'."
            )

    def __call__(self, weights: Mapping[str, Tensor], step: int, lr_share: float) -> Gradient:
        """The gradient of the outer loss; the inner step has the size of the head's learning rate."""
        losses = []
        for place, rows in enumerate(self._rows(step)):
            loss = self._phase.loss(rows, (step, place) if place else (step,))
            losses.append(partial(self._inner_loss, loss) if place else loss)
        return meta_gradient(self._settings.meta, weights, losses, self._settings.head_lr * lr_share)

    def _rows(self, step: int) -> list[Tensor]:
        """Rows of each group of styles. Images without a style go with the first."""
        settings, style_M = self._settings, self._phase.style_M
        parts = (self._phase.setup.seed, "meta", self._phase.name, step)
        subsets = split_styles(self._styles, self._groups, _TEST_SHARE, *parts)
        subsets[0].append(-1)
        rows = []
        for place, subset in enumerate(subsets):
            pool = torch.isin(style_M, torch.tensor(subset)).nonzero().flatten()
            size = max(2, round(settings.batch * len(pool) / len(style_M)))
            order = torch.randperm(len(pool), generator=generator_for(*parts, place))
            rows.append(pool[order[:size]])
        return rows

    def _inner_loss(self, loss: Loss, weights: Weights) -> Tensor:
        # The student never has the weights of an inner step, so its statistics must not follow them.
        with statistics_kept(self._phase.learner):
            return loss(weights)


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """BatchNorm still normalises by the batch, but its running statistics do not change."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    kept = [(layer, layer.momentum) for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in kept:
            layer.momentum = momentum


def split_styles(styles: Sequence[int], groups: int, test_share: float, *seed_parts: int | str) -> list[list[int]]:
    """Split the styles at random: into X_tr and X_te for two groups, into subsets of about equal size for more.

    X_te has a share ``test_share`` of the styles, at least one and never all.
    """
    order = torch.randperm(len(styles), generator=generator_for(*seed_parts)).tolist()
    shuffled = [styles[place] for place in order]
    if groups == 2:
        test = min(len(shuffled) - 1, max(1, round(len(shuffled) * test_share)))
        return [shuffled[test:], shuffled[:test]]
    return [shuffled[group::groups] for group in range(groups)]


def meta_gradient(mode: MetaMode, weights: Mapping[str, Tensor], losses: Sequence[Loss], alpha: float) -> Gradient:
    """The gradient of the outer loss, and the mean of the groups' losses at the weights of their inner steps.

    Args:
        mode: ``"exact"`` is the gradient above; ``"first_order"`` leaves the Hessian out; ``"reptile"`` takes one inner
            step per group, one after the other, and adds up their gradients.
        weights: Weights that are trained, by name; they are not changed.
        losses: Losses of X_tr and X_te; for ``"reptile"`` of any number of groups.
        alpha: Size of the inner step, at least 0.
    """
    at = detached(weights)
    if mode == "exact":
        return _exact(at, losses, alpha)
    values, gradients = [], []
    for loss in losses:
        value, own = loss_and_gradient(loss, at)
        values.append(value)
        gradients.append(parallel.summed(own))
        at = _moved(at, gradients[-1], alpha)
    summed = {name: torch.stack([each[name] for each in gradients]).sum(0) for name in at}
    return Gradient(parallel.total(sum(values[1:], values[0])) / len(values), summed, alignment(gradients))


def _exact(start: Weights, losses: Sequence[Loss], alpha: float) -> Gradient:
    loss_tr = losses[0](start)
    graph = gradient_of(loss_tr, start, create_graph=True)
    tr = parallel.summed({name: value.detach() for name, value in graph.items()})
    loss_te, own_te = loss_and_gradient(losses[1], _moved(start, tr, alpha))
    te = parallel.summed(own_te)
    # H v as the gradient of g . v: v comes from all processes, H from this one's images.
    gv = torch.stack([(graph[name] * te[name]).sum() for name in start]).sum()
    own_Hv = {name: torch.zeros_like(value) for name, value in start.items()}
    if gv.requires_grad:  # Otherwise the loss is linear in the weights.
        own_Hv = gradient_of(gv, start)
    product_Hv = parallel.summed(own_Hv)
    values = {name: tr[name] + te[name] - alpha * product_Hv[name] for name in start}
    return Gradient(parallel.total(loss_tr.detach().double() + loss_te) / 2, values, alignment([tr, te]))


def alignment(gradients: Sequence[Mapping[str, Tensor]]) -> float | None:
    """Mean cosine of all pairs of gradients, two or more, in [-1, 1]; None if one of them is zero.

    A positive value means that what helps one group helps the others; minimising the outer loss raises it.
    """
    flat = torch.stack([torch.cat([value.flatten().double() for value in each.values()]) for each in gradients])
    norms = torch.linalg.vector_norm(flat, dim=1)
    if not bool((norms > 0).all()):
        return None
    unit = flat / norms[:, None]
    cosines = unit @ unit.T
    count = len(gradients)
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))


def _moved(at: Weights, gradient: Weights, alpha: float) -> Weights:
    return {name: (value.detach() - alpha * gradient[name]).requires_grad_() for name, value in at.items()}
