"""The gate: is a candidate worse than a baseline, by scores of the same samples?"""
