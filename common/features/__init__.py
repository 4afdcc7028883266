"""Feature maps: from the pixels of an image to the numbers that a ridge classifier is fitted to.

`feature_map.py` says what a map must supply, `registry.py` names the maps there are, and each map has a module of
its own.
"""
