"""Automatic mutants of sound models: one fault each, at a random place.

calls.py      what every module computes, as calls of torch functions that can be changed one by one
rewrites.py   faults in one such call: a mask dropped, a branch detached, an axis mistaken
surgery.py    faults in modules and weights: hidden from registration, stuck in a mode, filled with a constant
bases.py      the sound models
mutant.py     draws mutants: an operator, a model, a place, and how rarely the fault shows
oracle/       which promises a mutant breaks, found by brute force against the sound model, without the checks under test
"""
