"""Records: what was measured, and what is known of it. Frozen, lazy, without files."""
