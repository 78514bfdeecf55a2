"""Meta knowledge distillation: what is learned from some styles shall help on the others.

Styles are the tasks. In every iteration they are split anew into those that are learned from (X_tr) and those that the
step is tried on (X_te):

    theta_c   = theta - alpha * grad L(X_tr; theta)
    L_outer   = L(X_tr; theta) + L(X_te; theta_c)

Its gradient, with H the Hessian of L(X_tr) and v = grad L(X_te; theta_c), is

    grad L(X_tr; theta) + v - alpha * H v

which is how it is computed here: three plain backward passes, none of which goes through the inner step, so that a
group may come in parts, from several processes too, whose gradients are added up.

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
# Weights by name -> a part's share of its group's mean loss: its pictures' losses over the number of the whole group's.
Loss = Callable[[Weights], Tensor]
# Gradients of this process's pictures -> those of all processes' pictures, summed.
Together = Callable[[Weights], Weights]


@dataclass(frozen=True)
class MetaGradient:
    """One step's direction.

    Attributes:
        losses: of each group, at the weights that it was tried with; of this process's pictures.
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
    mode: MetaMode,
    weights: Mapping[str, Tensor],
    groups: Sequence[Sequence[Loss]],
    alpha: float,
    together: Together = dict,
) -> MetaGradient:
    """The gradient of the outer loss.

    Args:
        mode: ``"none"`` is the plain sum of the groups' losses; ``"exact"`` the gradient above; ``"first_order"``
            leaves its Hessian out; ``"reptile"`` takes one inner step a group, one after the other, and sums what they
            went, which needs no more than first order for any number of groups.
        weights: that are trained, by name; they are not changed.
        groups: X_tr and X_te in this order, each in parts that go through memory one after the other. ``"exact"`` and
            ``"first_order"`` take two groups. An ``"exact"`` group in several parts goes through the network once more.
        alpha: size of the inner step, at least 0.
        together: sums gradients over processes.
    """
    start: Weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
    if mode == "exact":
        return _exact(start, groups, alpha, together)
    at, values, gradients = start, [], []
    for parts in groups:
        value, gradient = _summed(parts, at)
        gradients.append(together(gradient))
        values.append(value)
        if mode != "none":
            at = _moved(at, gradients[-1], alpha)
    return MetaGradient(tuple(values), _sum(gradients), alignment(gradients))


def _exact(start: Weights, groups: Sequence[Sequence[Loss]], alpha: float, together: Together) -> MetaGradient:
    parts_tr, parts_te = groups
    if len(parts_tr) == 1:
        loss = parts_tr[0](start)
        own, value_tr = [_gradient(loss, start, create_graph=True)], float(loss.detach())
        tr = together({name: each.detach() for name, each in own[0].items()})
    else:
        value_tr, gradient = _summed(parts_tr, start)
        own, tr = [], together(gradient)
    at = _moved(start, tr, alpha)
    value_te, gradient = _summed(parts_te, at)
    te = together(gradient)
    curved = {name: torch.zeros_like(value) for name, value in start.items()}
    for place, part in enumerate(parts_tr):
        graph = own[place] if own else _gradient(part(start), start, create_graph=True)
        # H v as the gradient of g . v: v comes from all pictures, H from this part's.
        product = torch.stack([(graph[name] * te[name]).sum() for name in start]).sum()
        if product.requires_grad:  # Else the loss is linear in the weights.
            curved = _sum([curved, _gradient(product, start)])
    curved = together(curved)
    whole = {name: tr[name] + te[name] - alpha * curved[name] for name in start}
    return MetaGradient((value_tr, value_te), whole, alignment([tr, te]))


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


def _summed(parts: Sequence[Loss], at: Weights) -> tuple[float, Weights]:
    """Value and gradient of a group, part by part."""
    values, gradients = [], []
    for part in parts:
        value = part(at)
        values.append(float(value.detach()))
        gradients.append(_gradient(value, at))
    return sum(values), _sum(gradients)


def _gradient(value: Tensor, at: Weights, create_graph: bool = False) -> Weights:
    found = torch.autograd.grad(value, list(at.values()), create_graph=create_graph, allow_unused=True)
    return {
        name: torch.zeros_like(each) if grad is None else grad
        for (name, each), grad in zip(at.items(), found, strict=True)
    }


def _moved(at: Weights, gradient: Weights, alpha: float) -> Weights:
    return {name: (value.detach() - alpha * gradient[name]).requires_grad_() for name, value in at.items()}


def _sum(gradients: Sequence[Weights]) -> Weights:
    if len(gradients) == 1:
        return gradients[0]
    return {name: torch.stack([each[name] for each in gradients]).sum(0) for name in gradients[0]}
