"""Faults that users of such tools report: one table per kind, each row an instance, and what lnbench does now.

Every row fails on the code before its kind was mended (``2ae8dc9``, with these files and ``tests/support`` copied
there), but those of :data:`RIGHT_BEFORE`: what was right beside the fault, and must not be lost by mending it.
"""

from __future__ import annotations

RIGHT_BEFORE: dict[str, str] = {
    "test_commands.py::test_the_version_is_printed[words1]": "before a command",
    "test_contents.py::test_published_neurons_are_read_in_every_layout[lists of index tensors-.pth]": "as before",
    "test_contents.py::test_code_in_a_published_file_is_refused": "more layouts must not run more code",
    "test_corpora.py::test_a_clone_that_is_missing_is_not_looked_for_on_the_hub": "clones are read, missing ones not",
    "test_corpora.py::test_other_faults_are_final": "only passing faults are tried again",
    "test_loading.py::test_an_adapter_is_loaded_as_peft_loads_it[llama-as many]": "as many rows as words",
    "test_loading.py::test_an_adapter_is_loaded_as_peft_loads_it[gemma3_text-as many]": "as many rows as words",
    "test_loading.py::test_what_needs_no_special_token_works_without[no padding]": "EOS is padded with",
    "test_loading.py::test_what_needs_no_special_token_works_without[EOS alone]": "EOS is padded with",
    "test_plugins.py::test_what_an_intervention_returns[no such layer]": "beside layers that are no numbers",
    "test_plugins.py::test_what_an_intervention_returns[an operation that is no name]": "beside unknown names",
    "test_plugins.py::test_an_architecture_that_is_none": "beside plugins that were not checked",
    "test_plugins.py::test_what_a_fine_tuner_returns[nothing]": "beside folders that do not exist",
    "test_plugins.py::test_what_a_fine_tuner_returns[the model]": "beside folders that do not exist",
    "test_processes.py::test_a_fine_tuning_started_twice_at_once_is_done_once": "never lost work",
    "test_scoring.py::test_a_rolling_likelihood_begins_with_one_prefix_token[no BOS]": "beside a second BOS",
    "test_strangers_files.py::test_a_good_file_is_read[head]": "beside damaged ones",
    "test_strangers_files.py::test_a_good_file_is_read[sweep]": "beside damaged ones",
    "test_strangers_files.py::test_a_good_file_is_read[corpus: jsonl]": "beside damaged ones",
    "test_strangers_files.py::test_a_good_file_is_read[corpus: jsonl.gz]": "beside damaged ones",
    "test_strangers_files.py::test_a_good_file_is_read[corpus: txt]": "beside damaged ones",
    "test_walk.py::test_pages_that_compare_two_languages_say_what_that_means[howto/install.md]": "said there already",
    "test_walk.py::test_pages_that_compare_two_languages_say_what_that_means[howto/offline.md]": "said there already",
    "test_walk.py::test_pages_that_compare_two_languages_say_what_that_means[howto/own-task.md]": "said there already",
}
"""Test, or a row of one → what it guards."""
