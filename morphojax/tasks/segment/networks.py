"""The networks of one training step of a segmentation: the student, which learns, and the teacher,
which gives pseudo-labels.
"""

from typing import Any

import jax

from morphojax.models.towers import Segmenter
from morphojax.train import rng
from morphojax.train.state import TrainState

PyTree = Any


class Networks:
    """Student and teacher at one step, for images [N,H,W,1] in 0..1.

    `collections` are the state's variable collections (running statistics), updated by each
    training pass of the student.
    """

    def __init__(self, model: Segmenter, params: PyTree, state: TrainState, seed: int, train_encoder: bool):
        self.collections = state.collections
        self._model, self._params, self._state = model, params, state
        self._seed, self._train_encoder, self._passes = seed, train_encoder, 0

    def student(self, image: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Logits [N,H,W,classes] and predicted columns [N,M].

        train: normalise by batch statistics and update the running ones. Otherwise the running
            statistics of the last step are used and stay: batch statistics of a stack would come
            from a single heart, which never happens at test time.
        """
        if not train:
            variables = {"params": self._params, **self._state.collections}
            return self._model.apply(variables, image, train=False, train_encoder=self._train_encoder)  # pyrefly: ignore
        name = "draws" if not self._passes else f"draws{self._passes}"
        output, updated = self._model.apply(
            {"params": self._params, **self.collections},
            image,
            train=True,
            train_encoder=self._train_encoder,
            mutable=list(self.collections),
            rngs={"draws": rng.key(self._seed, name, self._state.step)},
        )
        # A frozen encoder returns the statistics that it was given, so the tree stays complete.
        self.collections, self._passes = dict(updated), self._passes + 1
        return output

    def teacher(self, image: jax.Array) -> jax.Array:
        """Logits [N,H,W,classes] in evaluation mode, without gradient: by the EMA weights where the
        run keeps them, else by the student's own.
        """
        variables = self._state.ema or self._state.variables
        return jax.lax.stop_gradient(self._model.apply(variables, image, train=False)[0])  # pyrefly: ignore
