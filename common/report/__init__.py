"""Figures and HTML pages of a run."""

import logging

# where the user has no home, matplotlib warns that its cache is a temporary folder, which is of no interest here
logging.getLogger("matplotlib").setLevel(logging.ERROR)
