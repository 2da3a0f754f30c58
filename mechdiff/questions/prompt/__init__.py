"""Views of a single prompt: its tokens, its next tokens, a continuation, and where in it a patch matters."""
