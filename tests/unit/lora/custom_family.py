"""A language model that transformers does not know, in the style of InternLM 2: config and model classes of its own."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class OddConfig(PreTrainedConfig):
    model_type = "odd_lm"

    def __init__(self, vocab_size=97, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        super().__init__(**kwargs)


class Attention(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.wqkv, self.wo = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        q, k, v = self.wqkv(x).chunk(3, -1)
        return self.wo(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))


class FeedForward(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.w1, self.w3, self.w2 = nn.Linear(d, 2 * d), nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.router = nn.Linear(d, 1)

    def forward(self, x):
        return self.w2(torch.sigmoid(self.w1(x)) * self.w3(x)) * self.router(x)


class Layer(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(d), FeedForward(d)

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class Trunk(nn.Module):
    def __init__(self, config: OddConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config.hidden_size) for _ in range(config.num_hidden_layers))

    def forward(self, ids):
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return x


class OddForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = OddConfig

    def __init__(self, config: OddConfig) -> None:
        super().__init__(config)
        self.model = Trunk(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.output

    def forward(self, input_ids, **_):
        return CausalLMOutput(logits=self.output(self.model(input_ids)))


AutoConfig.register(OddConfig.model_type, OddConfig, exist_ok=True)
AutoModelForCausalLM.register(OddConfig, OddForCausalLM, exist_ok=True)
