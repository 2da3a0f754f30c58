"""A tokenizer of single bytes, which can be less than a character."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Begins every sequence with <s>."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    single = Tokenizer(models.BPE(vocabulary, []))
    single.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    single.decoder = decoders.ByteLevel()
    single.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=single, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
