"""The languages of every group of tasks, from the folder of tasks."""

from __future__ import annotations

from lm_eval.tasks import TaskManager

from docs.generator.markdown import code, paragraphs, table
from lnbench.files import tasks_dir

_PREFIX = "members_of_"


def members() -> dict[str, list[str]]:
    """Return each group's languages; a group of one language's tasks has none."""
    index = TaskManager(include_path=str(tasks_dir()), include_defaults=False).task_index
    return {
        (group := tag.removeprefix(_PREFIX)): sorted(task.removeprefix(f"{group}_") for task in entry.tags)
        for tag, entry in sorted(index.items())
        if tag.startswith(_PREFIX)
        if all(task.startswith(f"{tag.removeprefix(_PREFIX)}_") for task in entry.tags)
    }


def body() -> str:
    """Return the page below its title."""
    rows = [(code(group), code(f"{group}_{{lang}}"), " ".join(map(code, of))) for group, of in members().items()]
    return paragraphs(
        "The languages of [lnbench's tasks](../topics/tasks.md): a group runs its task in all of them. A file in "
        "`tasks/` adds a language; the group, this table and the tests find it there.",
        table(("group", "task", "languages"), rows),
    )
