"""Names by which checkpoints and weights are chosen. Commands need them before JAX is imported."""

CHECKPOINTS = ("best", "last")
ALL = "all"  # checkpoints that a run keeps, as members of an ensemble
WEIGHTS = ("model", "ema")  # as the optimizer left them; their exponential moving average
