"""Rules that translate parameter names, ours and those of other libraries, to the names in
transformers' weight files.

In the rules our numbers (`stage1`) count from 0, as in transformers. Dots are literal. N stands for
a number, P for the name of a parameter.
"""

import dataclasses
import re

Rules = tuple[tuple[str, str], ...]
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@dataclasses.dataclass(frozen=True)
class Naming:
    """The parameter names of one library for one family of encoders.

    anchor: a name that is in every file with this naming and in no other.
    """

    title: str
    anchor: str
    rules: Rules = ()  # empty: the names are already those of transformers
    counted: str = ""  # words whose numbers count from 1


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of encoders and its names.

    stem: our kernel that is applied to the image. required: our names that identify the family.
    ours: rules for our names. own: our modules that published encoders do not have.
    """

    title: str
    stem: str
    required: tuple[str, ...]
    ours: Rules
    namings: tuple[Naming, ...]
    own: tuple[str, ...] = ()

    def published(self, name: str) -> str | None:
        """Our name (`stage1_block1/conv1/kernel`) as transformers has it; None if it has no such
        parameter.
        """
        module, _, leaf = name.rpartition("/")
        dotted = ".".join(filter(None, (module.replace("/", "."), _LEAVES.get(leaf, leaf))))
        renamed = rename(_count_from_zero(dotted, "stage|block|conv|norm"), self.ours)
        return renamed and downsampling(renamed)


def rename(name: str, rules: Rules) -> str | None:
    """The name translated by the first rule whose pattern matches all of it; None without a
    match.
    """
    for pattern, template in rules:
        regex = re.escape(pattern).replace("N", r"(\d+)").replace("P", r"(\w+)")
        if match := re.fullmatch(regex, name):
            numbered = re.sub("[NP]", "{}", template)
            return numbered.format(*match.groups())
    return None


def by_naming(name: str, naming: Naming) -> str | None:
    """A name from a file, without its prefix, as transformers has it; None if it is not part of the
    encoder.
    """
    return rename(_count_from_zero(name, naming.counted), naming.rules) if naming.rules else name


def downsampling(name: str) -> str:
    """Swin's patch merging: our name says the next stage, transformers names it as the end of the
    previous one.
    """
    return re.sub(r"(encoder\.layers)\.(\d+)\.(downsample)", lambda m: f"{m[1]}.{int(m[2]) - 1}.{m[3]}", name)


def each(before: str, after: str, parts: dict[str, str]) -> Rules:
    """Rules for the parts of a module."""
    return tuple((before + a, after + b) for a, b in parts.items())


def _count_from_zero(name: str, words: str) -> str:
    return re.sub(rf"({words})(\d+)", lambda m: f"{m[1]}{int(m[2]) - 1}", name) if words else name
