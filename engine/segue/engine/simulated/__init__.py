"""An engine without a model: real scheduling, block accounting and hand-offs, with a timing model for the computing.

Hundreds of them run in a few processes, so that a fleet can be tried out on a laptop. ``docs/simulation.md`` says what
is modelled, from which figures, and what isn't.
"""
