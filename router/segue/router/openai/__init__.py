"""The OpenAI HTTP API, as a translation of ``segue.v1.Inference``."""
