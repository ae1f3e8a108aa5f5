"""The item response models that are known: the parameters of each, and its names in catalogues and in files."""

from typing import Literal, NamedTuple

Model = Literal["rasch", "2pl", "3pl", "4pl", "graded", "gpcm", "pcm"]
# As catalogues, and the protocols that bring items, name them.
CatalogueModel = Literal["1PL", "2PL", "3PL", "4PL", "graded", "GPCM", "PCM"]


class ItemModel(NamedTuple):
    """A model of items.

    `file_names` are what files call it, in small letters. `parameters` stand in the order in which files without names
    for them have them; `thresholds` are as many as an item has steps. Without the `optional` ones an item has the
    usual: a is 1. With `partial_credit` they are the difficulties of steps, in any order, not boundaries that increase.
    """

    name: Model
    catalogue_name: CatalogueModel
    file_names: tuple[str, ...]
    parameters: tuple[str, ...]
    optional: tuple[str, ...] = ()
    partial_credit: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        """The parameters that every item of the model has."""
        return tuple(name for name in self.parameters if name not in self.optional)


ITEM_MODELS = (
    ItemModel("rasch", "1PL", ("1pl", "rasch"), ("b",)),
    ItemModel("2pl", "2PL", ("2pl",), ("a", "b")),
    ItemModel("3pl", "3PL", ("3pl",), ("a", "b", "c")),
    ItemModel("4pl", "4PL", ("4pl",), ("a", "b", "c", "d")),
    ItemModel("graded", "graded", ("gr", "grm", "graded"), ("a", "thresholds"), optional=("a",)),
    ItemModel("gpcm", "GPCM", ("gpc", "gpcm"), ("a", "thresholds"), optional=("a",), partial_credit=True),
    ItemModel("pcm", "PCM", ("pc", "pcm"), ("thresholds",), partial_credit=True),
)
MODELS: tuple[Model, ...] = tuple(model.name for model in ITEM_MODELS)
BINARY: tuple[Model, ...] = tuple(model.name for model in ITEM_MODELS if "thresholds" not in model.parameters)
COMMON_SLOPE: tuple[Model, ...] = tuple(model.name for model in ITEM_MODELS if "a" not in model.parameters)
ASYMPTOTIC: tuple[Model, ...] = tuple(model.name for model in ITEM_MODELS if "c" in model.parameters)
BY_NAME = {model.name: model for model in ITEM_MODELS}
BY_CATALOGUE_NAME: dict[str, ItemModel] = {model.catalogue_name: model for model in ITEM_MODELS}
BY_FILE_NAME = {name: model for model in ITEM_MODELS for name in model.file_names}
