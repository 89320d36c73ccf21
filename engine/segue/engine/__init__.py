"""What runs the model: one Protocol, and its adapters. Only ``vllm_*`` and ``embedded_model`` import vLLM or torch."""
