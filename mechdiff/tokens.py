"""From a prompt's text to the token ids that both models see, cut at the decision token."""

from dataclasses import dataclass

from mechdiff.errors import UserError
from mechdiff.pairs import Pair


@dataclass
class Tokenizers:
    """A pair's two tokenizers. shared: whether they have one vocabulary, so that distributions can be compared."""

    pair: Pair
    base: object
    tuned: object

    @property
    def shared(self) -> bool:
        return self.base is self.tuned or self.base.get_vocab() == self.tuned.get_vocab()

    def render(self, text: str) -> str:
        """The prompt as both models see it: the tuned model's chat template, else the base's, else the plain text."""
        if self.pair.chat_template == "none":
            return text
        for tokenizer in (self.tuned, self.base):
            if tokenizer.chat_template:
                turn = [{"role": "user", "content": text}]
                return tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        return text

    def encode(self, text: str, side: str) -> list[int]:
        """Token ids up to and with the decision token: the last that is not special. side: base or tuned.

        Raises UserError if the prompt itself has no content token.
        """
        tokenizer = getattr(self, side)
        special = special_ids(tokenizer)
        if all(token in special for token in tokenizer(text, add_special_tokens=False).input_ids):
            raise UserError(f"The prompt {text!r} has no content token: nothing but special tokens. Write some words.")
        ids = tokenizer(self.render(text), add_special_tokens=False).input_ids
        if adds_bos(tokenizer) and ids[0] != tokenizer.bos_token_id:
            ids = [tokenizer.bos_token_id, *ids]
        while ids[-1] in special:
            ids = ids[:-1]
        return ids

    def token_id(self, text: str, side: str) -> int:
        """The one token that a target or foil stands for. Raises UserError if the text is not one token."""
        ids = getattr(self, side)(text, add_special_tokens=False).input_ids
        if len(ids) != 1:
            pieces = [getattr(self, side).decode([i]) for i in ids]
            raise UserError(f"The target {text!r} is {len(ids)} tokens: {pieces}. Name one, often with a leading space: ' yes'")
        return ids[0]

    def label(self, token: int, side: str) -> str:
        """A token as one can read it: its text, with visible spaces and line ends; its raw piece if it is part of a letter."""
        text = getattr(self, side).decode([token])
        if "\ufffd" in text or not text:
            return f"<{getattr(self, side).convert_ids_to_tokens(token)}>"
        return repr(text)[1:-1].replace(" ", "␣")


def special_ids(tokenizer) -> set[int]:
    """All special tokens, with those that only the added-token table marks (a GGUF tokenizer's list can omit some)."""
    marked = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return marked | set(tokenizer.all_special_ids)


def adds_bos(tokenizer) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]


def load_tokenizers(pair: Pair) -> Tokenizers:
    from transformers import AutoTokenizer

    def load(folder):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=pair.trust_remote_code)

    base = load(pair.base.local())
    adapter = pair.tuned.adapter_folder()
    if adapter is not None and (adapter / "tokenizer_config.json").exists():
        return Tokenizers(pair, base, load(adapter))
    return Tokenizers(pair, base, base if pair.tuned.local() == pair.base.local() else load(pair.tuned.local()))
