"""Results as notebooks show them: HTML with a small heatmap, and tables of pandas. Importing it registers both."""

from lnbench.notebook import frames, views

__all__ = ["frames", "views"]
