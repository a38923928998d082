"""Which language a model answers in: what generated text is scored by, and the texts that tasks of the kind ask for.

One module per rule: :mod:`~lnbench.language_control.lcb` has those of the Language Confusion Benchmark.
"""
