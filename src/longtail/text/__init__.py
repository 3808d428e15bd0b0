"""Text to vectors: prompts from templates, text encoders behind one interface, and a cache that never embeds twice."""
