"""The groups in which ``--help`` lists options, the same for every command."""

WHAT = "What"
WHERE = "Where"
HOW = "How"
STAR = "Star only"
TROUBLE = "Trouble"
OUTPUT = "Output"
