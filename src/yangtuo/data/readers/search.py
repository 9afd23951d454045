"""Which files of a folder are read, and what of it is left out: said, never silently."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from yangtuo.config.words import of_missing_path
from yangtuo.data.readers.decode import PACKED
from yangtuo.errors import DataError
from yangtuo.i18n import Listed, Message, shortened

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", ".tsv", ".xlsx")
_HELD_OUT = {"test", "dev", "valid", "val", "validation", "eval", "evaluation"}
# Files of `datasets.save_to_disk`, which say what lies beside them.
_OF_SAVE_TO_DISK = {"dataset_info.json", "state.json", "dataset_dict.json"}
_NO_DATA = {".md", ".rst", ".py", ".sh", ".yaml", ".yml", ".toml", ".pdf", ".png", ".jpg", ".html", ".ipynb"}
_MOST_TOLD = 8


def find_files(
    places: str, *, exclude: Sequence[Path] = (), option: str = "dataset_dir", recursive: bool = False
) -> list[Path]:
    """The data files of a folder in sorted order, or the files given (separated by commas), without `exclude`.

    `option` is the option that the places came from, for messages. Of folders are left out: names that begin with a
    dot, and with `--dataset_dir` what is named test or the like beside something named train; see `left_out`.

    Raises:
        DataError: nothing there, or no data file in it.
    """
    unwanted = {path.resolve() for path in exclude}
    found: list[Path] = []
    for place in _places(places, option):
        if os.path.isdir(place):  # os.path: says no where Path raises, as for a name that is too long
            found += _files_in(place, unwanted, option, recursive=recursive)
        elif os.path.isfile(place):
            found.append(place)
        elif os.path.exists(place):
            raise DataError(
                "--{option} {place}: neither a folder nor a plain file; write the data into a file",
                option=option,
                place=place,
            )
        else:
            told = Message(
                "--{option} {place}: no such folder or file; give a folder with data files, or files",
                option=option,
                place=place,
            )
            raise DataError(of_missing_path(told, str(place)))
    return list(dict.fromkeys(path for path in found if path.resolve() not in unwanted))


def _places(places: str, option: str) -> list[Path]:
    names = [Path(name.strip()) for name in places.split(",") if name.strip()]
    if os.path.exists(places):  # also where its name has a comma in it
        names = [Path(places)]
    if not names:
        raise DataError(
            "--{option} {places}: names no file; give a folder with data files, or files", option=option, places=places
        )
    return names


def left_out(places: str, *, exclude: Sequence[Path] = (), recursive: bool = False) -> Iterator[str]:
    """What of the folders of `--dataset_dir` is not read, a sentence each: held-out parts, other files, sub-folders."""
    excluded = {path.resolve() for path in exclude}
    for place in _places(places, "dataset_dir"):
        if not os.path.isdir(place):
            continue
        inside = _inside(place, "dataset_dir", recursive=recursive)
        files = [path for path in inside if _is_data(path)]
        aside = [path for path in _held_out(place, files) if path.resolve() not in excluded]
        if aside:
            yield Message(
                "{place}: not trained on, as their names say: {aside}; evaluate on them with "
                "--validation_file, or name all files with --train_file",
                place=place,
                aside=_listed(place, aside),
            )
        others = [path for path in inside if not _is_data(path) and _looks_like_data(path)]
        broken = [path for path in others if not path.exists()]
        if broken:
            yield Message(
                "{place}: not read: {broken}: links to files that are not there",
                place=place,
                broken=_listed(place, broken),
            )
        if unknown := [path for path in others if path not in broken]:
            yield Message(
                "{place}: not read: {unknown}; files are known by {suffixes}",
                place=place,
                unknown=_listed(place, unknown),
                suffixes=", ".join(SUFFIXES),
            )
        if not recursive and (
            folders := [path for path in inside if os.path.isdir(path) and _holds_data(path, inside)]
        ):
            yield Message(
                "{place}: sub-folders not read: {folders}; --include_subfolders reads them",
                place=place,
                folders=_listed(place, folders),
            )


def _files_in(folder: Path, unwanted: set[Path], option: str, *, recursive: bool) -> list[Path]:
    inside = _inside(folder, option, recursive=recursive)
    files = [path for path in inside if _is_data(path)]
    if option == "dataset_dir":
        aside = _held_out(folder, files)
        files = [path for path in files if path not in aside]
    if not any(path.resolve() not in unwanted for path in files):
        none = Message("no data file in it besides the validation file") if files else Message("no data file in it")
        told = Message(
            "--{option} {folder}: {none} (found: {others}); expected {suffixes}, also with {packed}",
            option=option,
            folder=folder,
            none=none,
            others=", ".join(path.name for path in inside[:5]) or Message("nothing"),
            suffixes=", ".join(SUFFIXES),
            packed=Listed(PACKED, " or "),
        )
        if not recursive and any(map(os.path.isdir, inside)):
            raise DataError("{told}; files in sub-folders are read with --include_subfolders", told=told)
        raise DataError(told)
    return sorted(files)


def _inside(folder: Path, option: str, *, recursive: bool) -> list[Path]:
    """All of a folder but hidden names; below it what was asked for, and the parts of a saved DatasetDict."""
    inside: list[Path] = []
    seen: set[str] = set()  # folders, since a link may lead back

    def look_into(place: Path) -> None:
        try:
            there = sorted(place.iterdir())
        except OSError as error:
            raise DataError(
                "--{option} {place}: the folder cannot be read: {strerror}",
                option=option,
                place=place,
                strerror=error.strerror,
            ) from error
        seen.add(os.path.realpath(place))
        is_dict = os.path.isfile(place / "dataset_dict.json")
        for path in there:
            if path.name[0] == ".":
                continue
            inside.append(path)
            if os.path.isdir(path) and (recursive or is_dict) and os.path.realpath(path) not in seen:
                look_into(path)

    look_into(folder)
    return inside


def _is_data(path: Path) -> bool:
    """Whether a file is read, by its name."""
    if kind_of(path) not in SUFFIXES or not os.path.isfile(path):
        return False
    if path.name not in _OF_SAVE_TO_DISK:
        return True
    return not (path.with_name("state.json").is_file() or path.with_name("dataset_dict.json").is_file())


def _held_out(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Files named test, dev and the like, where others beside them are named train."""
    words = {path: _words_of(path.relative_to(folder)) for path in files}
    if not any("train" in of_path for of_path in words.values()):
        return []
    return [path for path, of_path in words.items() if of_path & _HELD_OUT and "train" not in of_path]


def _words_of(path: Path) -> set[str]:
    return set(re.findall(r"[a-z]+", str(path).lower()))


def _looks_like_data(path: Path) -> bool:
    if path.name in _OF_SAVE_TO_DISK or os.path.isdir(path):
        return False
    return path.suffix.lower() not in _NO_DATA and not path.name.upper().startswith(("README", "LICENSE"))


def _holds_data(folder: Path, inside: Sequence[Path]) -> bool:
    """Whether a sub-folder that was not looked into has a data file somewhere."""
    if any(folder in path.parents for path in inside):
        return False
    return any(_is_data(Path(place) / name) for place, _, names in os.walk(folder) for name in names)


def _listed(folder: Path, paths: Sequence[Path]) -> str:
    return shortened([str(path.relative_to(folder)) for path in paths], _MOST_TOLD, ", ")


def kind_of(path: Path) -> str:
    """The suffix that tells what is in a file, without that of its packing."""
    name = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return name.suffix.lower()
