"""Which promises of the catalogue a mutant breaks, by brute force.

Each promise is looked for in the plainest way there is, in float64, over many inputs, and without a line of the checks that the benchmark
measures. What looks broken in the sound model too is not the mutant's fault: only what is new counts.

    promise.py    a promise: how its violations are listed
    side.py       a model to look at, with its inputs
    outputs.py    shapes, finiteness, vocabulary, dtypes, memory layout
    leaks.py      rows, later tokens, padding
    influence.py  what the output must depend on
    life.py       randomness, memory, modes, inputs, copies
    learning.py   gradients, first loss, symmetry, scale
    verdict.py    a mutant beside its sound model
"""
