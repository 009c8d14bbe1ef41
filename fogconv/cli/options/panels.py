"""The groups of options in ``--help``, the same for all commands."""

WHAT = "What"
WHERE = "Where"
HOW = "How"
STAR = "Star only"
TROUBLE = "Trouble"
OUTPUT = "Output"
