"""Shapes of models: all that the timing model needs to know of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A dense decoder-only transformer with grouped-query attention.

    ``params`` are all parameters, embeddings and output head included.
    """

    name: str
    params: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_len_tokens: int
    source: str
    tied_embeddings: bool = False

    @property
    def head_params(self) -> int:
        """Of the output head: computed for each sampled token, not for each token."""
        return self.vocab_size * self.hidden

    @property
    def layer_params(self) -> int:
        """Multiplied with every token. The input embedding is a look-up."""
        return self.params - self.head_params * (1 if self.tied_embeddings else 2)

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * element_bytes


SHAPES = {
    shape.name: shape
    for shape in (
        ModelShape(
            "llama-3.1-8b", 8_030_261_248, 32, 4096, 32, 8, 128, 128_256, 131_072, "meta-llama/Llama-3.1-8B config.json"
        ),
        ModelShape(
            "llama-3.1-70b",
            70_553_706_496,
            80,
            8192,
            64,
            8,
            128,
            128_256,
            131_072,
            "meta-llama/Llama-3.1-70B config.json",
        ),
        ModelShape(
            "llama-3.1-405b",
            405_853_388_800,
            126,
            16_384,
            128,
            8,
            128,
            128_256,
            131_072,
            "meta-llama/Llama-3.1-405B config.json",
        ),
        ModelShape(
            "llama-3.2-1b",
            1_235_814_400,
            16,
            2048,
            32,
            8,
            64,
            128_256,
            131_072,
            "meta-llama/Llama-3.2-1B config.json",
            tied_embeddings=True,
        ),
        ModelShape(
            "qwen2.5-7b", 7_615_616_512, 28, 3584, 28, 4, 128, 152_064, 32_768, "Qwen/Qwen2.5-7B-Instruct config.json"
        ),
        ModelShape("tiny", 3_770_624, 4, 256, 4, 2, 64, 2048, 4096, "Segue's embedded model"),
    )
}
