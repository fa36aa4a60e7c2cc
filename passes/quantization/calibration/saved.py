"""The state of a long calibration in a folder, so that it goes on where it was stopped.

A save writes the arrays under a new name and then replaces the manifest that points to them, so at
every instant the folder holds one whole state, also when the process is killed. The manifest
carries what the state depends on; for anything else it is not used.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .files import write_whole

MANIFEST = "calibration.json"
VERSION = 1


class SavedState:
    """One folder's state for one key: fingerprints of the graph, the samples, the statistics."""

    def __init__(self, folder: str | Path, key: Mapping[str, str]) -> None:
        self.folder = Path(folder)
        self.key = dict(key)
        self.notes: list[str] = []

    def load(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """(position, arrays) of the last save for this key, or None with a note if unusable."""
        path = self.folder / MANIFEST
        if not path.is_file():
            return None
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            changed = [k for k, v in self.key.items() if manifest["key"].get(k) != v]
            if manifest["version"] != VERSION or changed:
                self.notes.append(
                    f"the calibration state in {self.folder} was made for another "
                    f"{' and '.join(changed) or 'version'}: started anew"
                )
                return None
            with np.load(self.folder / manifest["arrays"], allow_pickle=False) as file:
                return int(manifest["position"]), {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile):
            self.notes.append(f"the calibration state in {self.folder} is damaged: started anew")
            return None

    def save(self, position: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the state.

        Raises:
            InvalidInput: the folder cannot be written to.
        """
        name = f"calibration-{position}.npz"
        write_whole(self.folder / name, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
        manifest = {"version": VERSION, "key": self.key, "position": position, "arrays": name}
        text = json.dumps(manifest, indent=1) + "\n"
        write_whole(self.folder / MANIFEST, lambda file: file.write(text.encode()))
        for old in self.folder.glob("calibration-*.npz"):
            if old.name != name:
                old.unlink(missing_ok=True)
