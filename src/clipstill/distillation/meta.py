"""Meta knowledge distillation: what is learned from some styles shall help on the others.

Styles are the tasks. In every iteration they are split anew into those that are learned from (X_tr) and those that the
step is tried on (X_te):

    theta_c   = theta - alpha * grad L(X_tr; theta)
    L_outer   = L(X_tr; theta) + L(X_te; theta_c)

Its gradient, with H the Hessian of L(X_tr) and v = grad L(X_te; theta_c), is

    grad L(X_tr; theta) + v - alpha * H v

which is how it is computed here: three plain backward passes, none of which goes through another one's graph, so that
several processes can each take their share of the images and add up.

Source: Wei et al., ICLR 2025, meta knowledge distillation and its first-order expansion
g_tr + g_te - alpha * grad(g_tr . g_te) + O(alpha^2); Li et al., Learning to Generalize, AAAI 2018 (MLDG); Nichol et
al., On First-Order Meta-Learning Algorithms, 2018 (Reptile).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipstill.core.seeds import generator_for
from clipstill.distillation.settings import MetaMode

Weights = dict[str, Tensor]
# Weights by name -> mean loss of one group of pictures, a scalar with gradient to the weights.
Loss = Callable[[Weights], Tensor]
# Gradients of this process -> the mean over all processes.
Together = Callable[[Weights], Weights]


@dataclass(frozen=True)
class MetaGradient:
    """One step's direction.

    Attributes:
        losses: of each group, at the weights that the group was tried with.
        gradient: of the outer loss, by weight's name.
        alignment: mean cosine between the gradients of different groups; None where there is one group, or a gradient
            is zero.
    """

    losses: tuple[float, ...]
    gradient: Weights
    alignment: float | None


def split_styles(styles: Sequence[int], groups: int, test_share: float, *seed_parts: int | str) -> list[list[int]]:
    """Disjoint style subsets of one iteration, drawn anew for each.

    Args:
        styles: ids, each once, at least as many as groups.
        groups: 2 for X_tr and X_te; more for ``reptile``, of equal size.
        test_share: of X_te in the styles, with two groups; at least one style, and never all.
        seed_parts: name the draw.
    """
    order = torch.randperm(len(styles), generator=generator_for(*seed_parts)).tolist()
    drawn = [styles[place] for place in order]
    if groups == 2:
        test = min(len(drawn) - 1, max(1, round(len(drawn) * test_share)))
        return [drawn[test:], drawn[:test]]
    return [drawn[group::groups] for group in range(groups)]


def meta_gradient(
    mode: MetaMode, weights: Mapping[str, Tensor], losses: Sequence[Loss], alpha: float, together: Together = dict
) -> MetaGradient:
    """The gradient of the outer loss.

    Args:
        mode: ``"none"`` is the plain sum of the groups' losses; ``"exact"`` the gradient above; ``"first_order"``
            leaves its Hessian out; ``"reptile"`` takes one inner step a group, one after the other, and sums what they
            went, which needs no more than first order for any number of groups.
        weights: that are trained, by name; they are not changed.
        losses: one a group; X_tr and X_te in this order. ``"exact"`` and ``"first_order"`` take two.
        alpha: size of the inner step, at least 0.
        together: averages gradients over processes.
    """
    start: Weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
    if mode == "exact":
        return _exact(start, losses, alpha, together)
    at, values, gradients = start, [], []
    for loss in losses:
        value = loss(at)
        gradients.append(together(_gradient(value, at)))
        values.append(float(value.detach()))
        if mode != "none":
            at = _moved(at, gradients[-1], alpha)
    return MetaGradient(tuple(values), _sum(gradients), alignment(gradients))


def _exact(start: Weights, losses: Sequence[Loss], alpha: float, together: Together) -> MetaGradient:
    loss_tr, loss_te = losses
    value_tr = loss_tr(start)
    own = dict(zip(start, _backward(value_tr, list(start.values()), create_graph=True), strict=True))
    tr = together({name: value.detach() for name, value in own.items()})
    at = _moved(start, tr, alpha)
    value_te = loss_te(at)
    te = together(_gradient(value_te, at))
    # H v as the gradient of g . v: v comes from all processes, H from this one's pictures.
    product = torch.stack([(own[name] * te[name]).sum() for name in start]).sum()
    if product.requires_grad:
        curved = together(dict(zip(start, _backward(product, list(start.values())), strict=True)))
    else:  # The loss is linear in the weights.
        curved = {name: torch.zeros_like(value) for name, value in start.items()}
    whole = {name: tr[name] + te[name] - alpha * curved[name] for name in start}
    return MetaGradient((float(value_tr.detach()), float(value_te.detach())), whole, alignment([tr, te]))


def alignment(gradients: Sequence[Mapping[str, Tensor]]) -> float | None:
    """Mean cosine of all pairs of gradients, in [-1, 1]; None for fewer than two, or where one is zero.

    Positive: what helps one group helps the other. The outer loss of ``"exact"`` raises it, by its expansion.
    """
    if len(gradients) < 2:
        return None
    flat = torch.stack([torch.cat([value.flatten().double() for value in each.values()]) for each in gradients])
    norms = torch.linalg.vector_norm(flat, dim=1)
    if not bool((norms > 0).all()):
        return None
    unit = flat / norms[:, None]
    cosines = unit @ unit.T
    count = len(gradients)
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))


def _gradient(value: Tensor, at: Weights) -> Weights:
    return dict(zip(at, _backward(value, list(at.values())), strict=True))


def _backward(value: Tensor, to: list[Tensor], create_graph: bool = False) -> list[Tensor]:
    found = torch.autograd.grad(value, to, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(each) if grad is None else grad for grad, each in zip(found, to, strict=True)]


def _moved(at: Weights, gradient: Weights, alpha: float) -> Weights:
    return {name: (value.detach() - alpha * gradient[name]).requires_grad_() for name, value in at.items()}


def _sum(gradients: Sequence[Weights]) -> Weights:
    return {name: torch.stack([each[name] for each in gradients]).sum(0) for name in gradients[0]}
