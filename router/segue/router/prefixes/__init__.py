"""Which worker has which blocks of which prompts, or soon will: in bounded memory, a bit per worker."""
