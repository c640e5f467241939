"""What turns prepared samples into embeddings; `modalities.registry.encoder` finds them by name."""
