"""The Hessian of a loss, by its products with vectors, which are tensors (m,)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatmin._check import require
from flatmin._function import Batches, Function, Outputs

__all__ = ["HessianOperator"]


class HessianOperator:
    """H(θ), the Hessian of a loss, as a linear operator.

    A product is a gradient of a gradient, in reverse mode both times: slower than forward over
    reverse mode, but right for layer norm too, whose derivatives PyTorch 2.14 gets wrong under
    ``torch.func.jvp`` of ``torch.func.jacrev``.

    Args:
        model: network f(·, θ), see :mod:`flatmin.inconsistency`.
        loss_fn: ``(outputs, targets) -> scalar``, the mean over all targets of a batch, each
            weighted alike, or their sum if ``loss_fn.reduction``, or the keyword of that name of a
            ``functools.partial``, says so.
        inputs: a batch, or a re-iterable of batches.
        targets: its targets (n, …), or a list of as many targets as there are batches.
        params: the parameters that make up θ, by default all trainable ones.
        outputs: ``(what the model returns, batch) -> tensor``, by default its tensor or logits.

    Attributes:
        size: m.
        like: an empty tensor of the parameters' dtype and device.

    Raises:
        ValueError: no trainable parameter, inputs that can be read once only; inputs and targets of
            different lengths; a reduction that is neither mean nor sum; several batches with a mean
            in which examples count differently; on multiplying also for an empty batch.

    Examples:
        >>> x, y = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1)
        >>> H = HessianOperator(nn.Linear(2, 1, bias=False), nn.MSELoss(), x, y)
        >>> H @ torch.tensor([1.0, 2.0])
        tensor([9., 2.])
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Tensor, Any], Tensor],
        inputs: Any,
        targets: Any,
        *,
        params: Iterable[Tensor] | None = None,
        outputs: Outputs | None = None,
    ) -> None:
        self._function, self._loss_fn = Function(model, params, outputs), loss_fn
        self.size = self._function.size
        self.like = self._function.params[0].detach().new_empty(0)
        batches = [*Batches(inputs, self.like.device)]
        labels = [*Batches(targets, self.like.device)]
        require(
            len(batches) == len(labels),
            f"inputs hold {len(batches)} batches, but targets {len(labels)}",
        )
        self._pairs = [*zip(batches, map(_content, labels), strict=True)]
        reduction = _setting(loss_fn, "reduction", "mean")
        require(
            reduction in ("mean", "sum"),
            f"loss_fn must have reduction 'mean' or 'sum', not {reduction!r}",
        )
        self._mean = reduction == "mean"
        require(
            not self._mean or len(labels) == 1 or all(_alike(loss_fn, y) for _, y in self._pairs),
            "loss_fn weights examples by class or ignores some, so that the mean over batches is "
            "not the mean over all: give one batch, or a loss_fn with reduction='sum'",
        )

    def __matmul__(self, vector: Tensor) -> Tensor:
        """H v, (m,), for v (m,)."""
        function, n = self._function, 0
        # The fused attention kernels have no second derivative.
        with function.measured(), sdpa_kernel(SDPBackend.MATH):
            pieces = zip(function.split(vector), function.params, strict=True)
            tangents = [v.to(p.dtype) for v, p in pieces]
            leaves = function.leaves()
            product = torch.zeros_like(vector, device=self.like.device)
            for batch, target in self._pairs:
                with function.at(leaves):
                    outputs = function(batch)
                    require(len(outputs) > 0, "the batch must not be empty")
                    slope = _gradient(self._loss_fn(outputs, target), leaves, create_graph=True)
                    # A slope without a graph is constant, as where a loss is linear in the outputs.
                    pairs = [p for p in zip(slope, tangents, strict=True) if p[0].requires_grad]
                    curved = _gradient([s for s, _ in pairs], leaves, [v for _, v in pairs])
                entries = target.numel() if isinstance(target, Tensor) else len(outputs)
                weight = entries if self._mean else 1
                product += weight * torch.cat([c.reshape(-1) for c in curved])
                n += weight
        return product / n if self._mean else product

    def quadratic(self, vector: Tensor) -> Tensor:
        """vᵀ H v, a scalar, for v (m,)."""
        return vector @ (self @ vector)


def _gradient(
    outputs: Any, leaves: list[Tensor], cotangents: Any = None, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """torch.autograd.grad, zero for the leaves that the outputs do not depend on."""
    options = {"allow_unused": True, "materialize_grads": True, "create_graph": create_graph}
    return torch.autograd.grad(outputs, leaves, cotangents, **options)


def _content(targets: Any) -> Any:
    return targets[0] if isinstance(targets, list) else targets


def _alike(loss_fn: Any, targets: Any) -> bool:
    """Whether a mean over these targets divides by their number."""
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return True
    ignored = (targets == _setting(loss_fn, "ignore_index", -100)).any()
    return _setting(loss_fn, "weight", None) is None and not ignored


def _setting(loss_fn: Any, name: str, default: Any) -> Any:
    """What a loss has been set to: by a keyword of ``functools.partial``, or an attribute."""
    if isinstance(loss_fn, partial):
        return loss_fn.keywords.get(name, _setting(loss_fn.func, name, default))
    return getattr(loss_fn, name, default)
