"""How a KV cache changes hands: the hand-off's states, tickets, offers, digests, and the connectors that move blocks.

Everything but ``vllm_*`` is free of vLLM and torch.
"""
