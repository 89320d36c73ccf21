"""Text to token ids and back: tokenizer, chat template, incremental detokenisation, stop strings."""
