"""Names by which checkpoints and weights are chosen. Commands need them before JAX is imported."""

CHECKPOINTS = ("best", "last")
WEIGHTS = ("model", "ema")  # as the optimizer left them; their exponential moving average
