"""``lnbench eval``."""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False)
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASSED_ON, add_help_option=False)
def eval(context: typer.Context) -> None:  # noqa: A001
    """Run lm_eval with lnbench's tasks included and --model lnbench; everything is passed on to it.

    The tasks are found beside those of your own --include_path. A {lang} in a word becomes *, because lm-eval takes a
    brace for JSON. lnbench eval --help is lm-eval's help.

    Example: lnbench eval --model_args 'intervention=p10,corpus=data/{lang}.jsonl.gz' --tasks lnbench_xnli_hi --limit 50
    """
    from lnbench.model_arguments import check_command

    named = {word.partition("=")[0] for word in context.args} & {"--model", "-M", "--config", "-C"}
    check_command([*([] if named else ["--model", "lnbench"]), *context.args], shows_own_tasks=True)

    from lnbench.lm.command_line import run

    run(context.args)
