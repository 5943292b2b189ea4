"""The plug-in engine: an objective in seed space, where it starts, and what minimises it.

A plug-in method is four small values: a seed space and start (``start``), a generator
(``plugip.reverse.Generator``), a loss scale (``objective``) and a solver (``adam``, ``lbfgs``).
"""
