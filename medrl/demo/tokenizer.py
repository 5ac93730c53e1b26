"""The demo's tokenizer: byte-level BPE trained on its own corpus, with medical terms as whole tokens and ChatML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BPE_VOCAB_SIZE = 2880
PAD, TURN_START, TURN_END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str], terms: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train on `texts`; each of `terms` becomes one token, as when a vocabulary is extended for a domain.

    A model this small learns to copy one token from a question into its answer long before it can copy several in a
    row. Any text survives encode and decode: all 256 bytes are in the vocabulary.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_VOCAB_SIZE,
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    between_terms = re.compile("|".join(re.escape(term) for term in sorted(terms, key=len, reverse=True)))
    bpe.train_from_iterator((part for text in texts for part in between_terms.split(text)), trainer)
    bpe.add_tokens([AddedToken(term, normalized=False) for term in terms])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
