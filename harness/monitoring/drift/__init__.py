"""Drift: do two profiles, or two sets of rows, come from the same distribution, and does the difference matter?"""
