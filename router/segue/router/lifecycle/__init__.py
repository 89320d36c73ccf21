"""A request between admission and its last token: answers as state machines, and who carries out what they decide."""
