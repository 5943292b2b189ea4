"""Bridges to other libraries; each needs its own extra, such as ``plugip[deepinv]``."""
