"""What local inconsistency says about generalisation: a PAC-Bayes bound, and Johnson and Zhang.

:func:`generalization_bound` evaluates, term by term, the informal bound of Kim et al. 2026
(Theorem 4.1), which follows Foret et al. 2021 and Luo et al. 2024. :func:`disagreement` is the
inconsistency C_P of Johnson and Zhang 2023, between independently trained networks;
:func:`inconsistency_range` the limits it sets to S_ρ of one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from flatmin._check import check_rho, real, require

__all__ = ["GeneralizationBound", "disagreement", "generalization_bound", "inconsistency_range"]


@dataclass(frozen=True)
class GeneralizationBound:
    """The terms that :func:`generalization_bound` adds up.

    Attributes:
        loss: L(θ), the training loss.
        inconsistency: S_ρ(θ).
        residual: ε_R = ½ρ²‖H − F‖₂, the price of S_ρ in place of the Hessian.
        complexity: the PAC-Bayes term.
        noise: s, standard deviation of each weight's noise in the posterior N(θ, s²I), of which
            all but a share 1/√n lies in the ball of radius ρ.
    """

    loss: float
    inconsistency: float
    residual: float
    complexity: float
    noise: float

    @property
    def total(self) -> float:
        """What the bound allows for the expected loss, the sum of the first four."""
        return self.loss + self.inconsistency + self.residual + self.complexity


def generalization_bound(
    loss: float,
    inconsistency: float,
    *,
    norm: float,
    parameters: int,
    examples: int,
    rho: float,
    residual_norm: float = 0.0,
    xi: float = 0.05,
) -> GeneralizationBound:
    """Evaluates the bound of Kim et al. 2026, Theorem 4.1, in its informal version.

    With probability 1 − ξ over n training examples, near interpolation,

        L_D(θ) ≲ L(θ) + S_ρ(θ) + ε_R
                 + sqrt( [ m log(1 + (‖θ‖²/ρ²)(1 + sqrt(log n / m))²) + 4 log(n/ξ) ] / (n − 1) )

    The theorem's O~(1) is taken as 0 and the loss as bounded by 1, both in the bound's favour: for
    a loss bounded by B, multiply the last term by B.

    Args:
        loss: L(θ) ≥ 0.
        inconsistency: S_ρ(θ) ≥ 0 at this ``rho``.
        norm: ‖θ‖₂ ≥ 0.
        parameters: m ≥ 1.
        examples: n ≥ 2.
        rho: ρ > 0; fixed before seeing the data, else the bound needs a union over its values.
        residual_norm: ‖H(θ) − F(θ)‖₂ ≥ 0; 0 is its value at interpolation.
        xi: probability ξ in (0, 1) that the bound fails.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> bound = generalization_bound(
        ...     0.01, 0.02, norm=10.0, parameters=371, examples=300, rho=0.1)
        >>> f"{bound.total:.2f} = 0.03 + {bound.complexity:.2f}"       # guessing costs log 3 = 1.10
        '3.47 = 0.03 + 3.44'
    """
    for name, value in [
        *[("loss", loss), ("inconsistency", inconsistency)],
        *[("norm", norm), ("residual_norm", residual_norm)],
    ]:
        require(0 <= real(value) < math.inf, f"{name} must be finite and >= 0, got {value!r:.80}")
    for name, value, least in [("parameters", parameters, 1), ("examples", examples, 2)]:
        allowed = least <= real(value) < math.inf
        require(allowed, f"{name} must be finite and >= {least}, got {value!r:.80}")
    check_rho(rho)
    require(0 < real(xi) < 1, f"xi must lie between 0 and 1, got {xi!r:.80}")
    noise = rho / (math.sqrt(parameters) + math.sqrt(math.log(examples)))
    # m s² (1 + sqrt(log n / m))² = ρ²: the theorem's ratio is that of ‖θ‖² to the noise's.
    try:
        residual, ratio = 0.5 * rho**2 * residual_norm, norm**2 / (parameters * noise**2)
    except (OverflowError, ZeroDivisionError):
        ratio = math.inf
    require(
        ratio < math.inf,
        f"norm, rho and norm / rho must have finite squares, got norm={norm} and rho={rho}",
    )
    divergence = parameters * math.log1p(ratio)
    return GeneralizationBound(
        loss=loss,
        inconsistency=inconsistency,
        residual=residual,
        complexity=math.sqrt((divergence + 4 * math.log(examples / xi)) / (examples - 1)),
        noise=noise,
    )


def disagreement(logits: Tensor) -> float:
    """Computes C_P = E KL( f(x, θ) ‖ f(x, θ′) ) over pairs of different networks.

    Johnson and Zhang 2023 call it the inconsistency of a training procedure P: θ and θ′ come from
    independent runs on the same data.

    Args:
        logits: the outputs of r ≥ 2 networks on the same n examples, (r, n, C).

    Returns:
        The mean over all ordered pairs and examples, in nats. A logit of −∞ masks a class; one that
        a single network masks makes it infinite.

    Raises:
        ValueError: logits that are not (r ≥ 2, n, C), empty, or not real.

    Example:
        >>> import torch
        >>> f"{disagreement(torch.tensor([[[0.0, 0.0]], [[0.0, 1.0]]])):.4f}"
        '0.1155'
    """
    shape = tuple(logits.shape)
    require(len(shape) == 3 and shape[0] >= 2, f"logits must be (r >= 2, n, C), got {shape}")
    require(logits.numel() > 0, f"logits must not be empty, got {shape}")
    require(not logits.is_complex(), f"logits must be real, got {logits.dtype}")
    log_f = logits.detach().double().log_softmax(2)
    # The sum of f_i (log f_i − log f_j) over all j needs only the mean of log f_j.
    divergence = log_f.exp() * (log_f - log_f.mean(0))
    divergence = divergence.masked_fill(log_f == -math.inf, 0.0)  # the limit of f log f at f = 0
    return float(divergence.sum()) / ((len(log_f) - 1) * shape[1])


def inconsistency_range(
    disagreement: float,
    *,
    parameters: int,
    dominant: int | None = None,
    spread: tuple[float, float] = (1.0, 1.0),
) -> tuple[float, float]:
    """Computes the limits that C_P sets to S_ρ (Kim et al. 2026, Section 4).

    If θ, θ′ ~ N(θ̂, s²I) with s² = ρ²/m, then C_P = s² Tr F and S_ρ = ½ρ² λ_max(F) to second
    order, and Tr F / m ≤ λ_max ≤ Tr F gives

        ½ C_P ≤ S_ρ ≤ (m/2) C_P;    (m/2C) C_P ≲ S_ρ  if C eigenvalues of F carry its trace.

    A covariance s²Σ divides the lower limit by λ_max(Σ) and the upper by λ_min(Σ).

    Args:
        disagreement: C_P ≥ 0.
        parameters: m ≥ 1.
        dominant: C, from 1 to m, if that many eigenvalues carry the trace; by default m.
        spread: the extreme eigenvalues of Σ, 0 < λ_min ≤ λ_max.

    Returns:
        The lower and the upper limit.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> inconsistency_range(0.02, parameters=100)
        (0.01, 1.0)
        >>> inconsistency_range(0.02, parameters=100, dominant=4)
        (0.25, 1.0)
    """
    rank = parameters if dominant is None else dominant
    low, high = spread
    for name, value, least in [("disagreement", disagreement, 0), ("parameters", parameters, 1)]:
        allowed = least <= real(value) < math.inf
        require(allowed, f"{name} must be finite and >= {least}, got {value!r:.80}")
    allowed = 1 <= real(rank) <= parameters
    require(allowed, f"dominant must be from 1 to {parameters}, got {dominant!r:.80}")
    allowed = 0 < real(low) <= real(high) < math.inf
    require(allowed, f"spread must be 0 < low <= high, got {spread}")
    upper = parameters / 2 * disagreement
    return upper / rank / high, upper / low
