"""What `push_tokens` is made of: which positions are read, where a mask drops some, and clones."""
