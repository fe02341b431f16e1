"""Planted bugs of all tiers: each breaks one property, beside a sound twin that differs in a few lines.

register.py   what an entry says, and the register
setups.py     models with what a tier needs to judge them: a task, data, a training, exported files
tester.py     one tester for all: the bug is caught by the right property with the right blame, its twin is quiet
tasks.py      tasks and sizes that small models share
tier1/ ...    the bugs and their twins, a file a family
"""
