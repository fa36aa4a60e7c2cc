"""What `prune_tokens` is made of: layers of a residual stream, scores of their tokens, masks."""
