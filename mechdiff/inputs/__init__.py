"""What is compared, read from files: pairs, configurations, tokenizers, prompts and weights."""
