"""Flat minima, measured and sought: the library under the book of two executable papers.

Import the modules you need, nothing is loaded before:

- :mod:`flatmin.inconsistency`: local inconsistency S_ρ
- :mod:`flatmin.penalty`: inconsistency as a penalty on any loss
- :mod:`flatmin.optim`: IAM-S, IAM-D, SAM and ASAM
- :mod:`flatmin.curvature`: the Fisher matrix and the Hessian, matrix-free
- :mod:`flatmin.pathways`: multi-pathway deep linear networks
"""

__version__ = "0.1.0"
