"""Side-by-side measurements: ours against the field's documented way, interleaved in one run, told as ratios."""
