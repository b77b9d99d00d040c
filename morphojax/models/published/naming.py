"""Names of encoders' parameters, ours and others', as rules to one naming: that of the weight files of Hugging Face transformers.

In the rules our numbers (`stage1`) count from 0, as theirs do. The dots of other names are literal, so they are written as they are
in files, with N for a number and P for the name of a parameter.
"""

import dataclasses
import re

Rules = tuple[tuple[str, str], ...]
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@dataclasses.dataclass(frozen=True)
class Naming:
    """How somebody names the parameters of a family. anchor: a name that every file of it has, and no other naming."""

    title: str
    anchor: str
    rules: Rules = ()  # none: the names are those of the weight files of transformers
    counted: str = ""  # words before numbers that count from 1


@dataclasses.dataclass(frozen=True)
class Family:
    """stem: our kernel that reads the image. required: our names that tell it from other families. own: our modules that published
    encoders do not have."""

    title: str
    stem: str
    required: tuple[str, ...]
    ours: Rules
    namings: tuple[Naming, ...]
    own: tuple[str, ...] = ()

    def published(self, name: str) -> str | None:
        """Our name (`stage1_block1/conv1/kernel`) in the naming of transformers; None for one that it does not have."""
        module, _, leaf = name.rpartition("/")
        dotted = ".".join(filter(None, (module.replace("/", "."), _LEAVES.get(leaf, leaf))))
        found = rename(_count_from_zero(dotted, "stage|block|conv|norm"), self.ours)
        return found and downsampling(found)


def rename(name: str, rules: Rules) -> str | None:
    """The first rule whose pattern is the whole name."""
    for pattern, template in rules:
        regex = re.escape(pattern).replace("N", r"(\d+)").replace("P", r"(\w+)")
        if found := re.fullmatch(regex, name):
            numbered = re.sub("[NP]", "{}", template)
            return numbered.format(*found.groups())
    return None


def by_naming(name: str, naming: Naming) -> str | None:
    """A name of a file, without its prefix, as transformers' files have it; None for what is no part of the encoder."""
    return rename(_count_from_zero(name, naming.counted), naming.rules) if naming.rules else name


def downsampling(name: str) -> str:
    """Swin merges patches between stages: named by the stage after as the end of the stage before."""
    return re.sub(r"(encoder\.layers)\.(\d+)\.(downsample)", lambda m: f"{m[1]}.{int(m[2]) - 1}.{m[3]}", name)


def each(before: str, after: str, parts: dict[str, str]) -> Rules:
    """Rules for the parts of a module."""
    return tuple((before + a, after + b) for a, b in parts.items())


def _count_from_zero(name: str, words: str) -> str:
    return re.sub(rf"({words})(\d+)", lambda m: f"{m[1]}{int(m[2]) - 1}", name) if words else name
