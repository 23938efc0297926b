"""What a chapter imports besides :mod:`flatmin`: verdicts, figure data and one look for all figures."""
