"""What the commands do; imported after their flags are parsed, so that --help answers at once."""
