"""Gradient descent in deep linear networks with several pathways (Kim & Lee 2026).

- :class:`MultiPathway` and :func:`train`: the matrix network and gradient descent on it
- :func:`simulate_modes`: the same dynamics on single modes, for many runs at once
- :func:`gradient_flow`: the limit of small steps; :func:`flow_potential`, what it conserves;
  :func:`flow_landing`, where it ends
- :func:`pair_hessian` and :func:`floquet_exponent`: whether two modes stay apart
- :func:`recovery_ratio`: the step up to which overshoots set no pathway back
- :mod:`flatmin.pathways.theory`: what the theory says in closed form
"""

from flatmin.pathways import theory
from flatmin.pathways.floquet import floquet_exponent, pair_hessian
from flatmin.pathways.flow import FlowHistory, flow_landing, flow_potential, gradient_flow
from flatmin.pathways.modes import ModeHistory, simulate_modes
from flatmin.pathways.network import MultiPathway, TrainingHistory, train
from flatmin.pathways.recovery import recovery_ratio

__all__ = [
    "FlowHistory",
    "ModeHistory",
    "MultiPathway",
    "TrainingHistory",
    "floquet_exponent",
    "flow_landing",
    "flow_potential",
    "gradient_flow",
    "pair_hessian",
    "recovery_ratio",
    "simulate_modes",
    "theory",
    "train",
]
