"""What a chapter imports besides :mod:`flatmin`: verdicts, figure data, one look for figures."""

from flatmin._extras import extra

with extra("chapter"):
    from flatbook.claims import claim
    from flatbook.figures import COLORS, figure_data, use_style

__all__ = ["COLORS", "claim", "figure_data", "use_style"]
