"""The prefill worker: a worker whose engine computes prompts and offers their KV cache."""
