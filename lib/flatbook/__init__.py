"""What a chapter imports besides :mod:`flatmin`: verdicts, intervals, data and look of figures."""

from flatmin._extras import extra

with extra("chapter"):
    from flatbook.claims import claim
    from flatbook.figures import COLORS, figure_data, use_style
    from flatbook.intervals import interval, seeds_needed, told

__all__ = ["COLORS", "claim", "figure_data", "interval", "seeds_needed", "told", "use_style"]
