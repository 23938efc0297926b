"""Gradient descent in deep linear networks with several pathways (Kim & Lee 2026).

- :class:`MultiPathway` and :func:`train`: the matrix network and gradient descent on it
- :func:`simulate_modes`: the same dynamics on single modes, for many runs at once
- :func:`gradient_flow` and :func:`flow_limit`: the limit of small steps, and where it ends
- :func:`pair_hessian` and :func:`floquet_exponent`: whether two modes stay apart
- :mod:`flatmin.pathways.theory`: what the theory says in closed form
"""

from flatmin.pathways import theory
from flatmin.pathways.floquet import floquet_exponent, pair_hessian
from flatmin.pathways.flow import FlowHistory, flow_limit, gradient_flow
from flatmin.pathways.modes import ModeHistory, simulate_modes
from flatmin.pathways.network import MultiPathway, TrainingHistory, train

__all__ = [
    "FlowHistory",
    "ModeHistory",
    "MultiPathway",
    "TrainingHistory",
    "floquet_exponent",
    "flow_limit",
    "gradient_flow",
    "pair_hessian",
    "simulate_modes",
    "theory",
    "train",
]
