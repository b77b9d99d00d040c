"""The contact sheet of a prepared dataset."""

from pathlib import Path

from morphojax.data.inspection import survey
from morphojax.data.store.dataset import Dataset
from morphojax.evaluation import figures


def draw_contact_sheet(folder: Path) -> None:
    """Writes contact_sheet.png to the folder of a dataset."""
    tiles = survey.tiles(Dataset.open(folder))
    figures.contact_sheet(folder / "contact_sheet.png", tiles, columns=survey.SHEET_COLUMNS)
