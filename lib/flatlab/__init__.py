"""The experiments of the book: what they train, on what, and the runner of the papers' recipes.

- :mod:`flatlab.models`, :mod:`flatlab.data`: networks and images
- :class:`flatlab.run.Run` with the loops of :mod:`flatlab.loops`: one model of any size, resumable
- :func:`flatlab.ensemble.train_ensemble`: many small models of one architecture at once, for the
  same result
- :func:`stream`, :func:`shuffled`: randomness by name, which both draw from
- ``python -m flatlab <recipe>``: train what a recipe lists
"""

from flatlab.streams import shuffled, stream

__all__ = ["shuffled", "stream"]
