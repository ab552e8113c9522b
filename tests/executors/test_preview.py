"""The dry run of gangs: every segment with its script, and the most that they can cost."""

from pathlib import Path

import pytest
from entries import lab_site

from tokenmill.executors.job import Job, Part, Recipe, Resources
from tokenmill.executors.preview import preview_recipe
from tokenmill.executors.slurm import SlurmExecutor

PARTS = (Part(ranks=1, cpus=4), Part(ranks=3, cpus=2))


@pytest.mark.parametrize(
    ("resources", "scripts", "core_hours"),
    [
        (Resources(tasks=4, cpus=2, time_seconds=1800), 1, 4.0),
        (Resources(tasks=4, cpus=2, time_seconds=1800, segments=3), 3, 12.0),
        (Resources(tasks=4, parts=PARTS, time_seconds=3600, segments=2), 2, 20.0),
    ],
)
def test_segments_and_parts_are_shown(
    resources: Resources, scripts: int, core_hours: float, text_folder: Path, tmp_path: Path
) -> None:
    gang = Job(name="g", entry="entries.gang", inputs={"lines": "text"}, layout="gang", resources=resources)
    recipe = Recipe(name="r", inputs={"text": (str(text_folder),)}, jobs=(gang,))
    executor = SlurmExecutor(lab_site())
    executor.__dict__["max_array_size"] = 11
    (found,) = preview_recipe(recipe, str(tmp_path / "run"), executor)
    assert (len(found.scripts), found.core_hours, found.tasks) == (scripts, core_hours, 4)
    assert sum("#SBATCH hetjob" in script for script in found.scripts) == scripts * bool(resources.parts)
