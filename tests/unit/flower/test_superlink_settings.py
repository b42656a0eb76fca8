"""Strings reach an app through Flower's command line as they are."""

from flwr.common.config import parse_config_args
from hypothesis import example, given
from hypothesis import strategies as st

from fedrac.flower.superlink import toml_string

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts)
@example("", "method=fedavg \"a b\"='c' x={d: [1, 2]} \\n\t\n y.toml")
def test_run_config_reads_back_what_was_written(preset: str, overrides: str) -> None:
    argument = f"preset={toml_string(preset)} overrides={toml_string(overrides)}"
    assert parse_config_args([argument]) == {"preset": preset, "overrides": overrides}
