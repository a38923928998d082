"""What ``lnbench reproduce`` is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lnbench.reproduce.scale_settings import Preset, Scale
from lnbench.settings import DrawsOfControls, Limit, ModelArgsMapping, Names, OutFolder, Pairs, Settings, Tokens

ALL = "all"


class ReproductionRequest(Settings):
    """What is to be measured again, and how; :func:`plan` makes steps of it."""

    names: tuple[str, ...] = Field(description="tables and figures, or all")
    out: OutFolder | None = Field(default=None, description="folder for all results; in runs/reproduce by default")
    model: str | None = Field(default=None, description="in place of the paper's: packaged model, hub name or folder")
    model_args: ModelArgsMapping = Field(default={})
    scale: Scale = Field(default="paper", description="as much text and training as in the paper, or for two CPU cores")
    preset: Preset = Field(default="corrected", description="lnbench's choices, or those of the paper's code")
    corpus: str | None = Field(
        default=None, description="corpus pattern; small: that in LNBENCH_DATA, else the embedded text"
    )
    languages: Names = Field(
        default=(), description="compared by every selector in place of the paper's sets, as en+hi+zh"
    )
    tokens: Tokens | None = Field(default=None, description="tokens of text per language, for Statistics")
    limit: Limit = None
    controls: DrawsOfControls | None = Field(
        default=None,
        description="draws of random neurons beside every cell; by default none in tables, one in perplexity "
        "matrices, as many in the selector bench as its scale says",
    )
    tables: Names = Field(
        default=(), description="of paper-vs-corrected: the tables to compare, as table1+table3+table8"
    )
    width: Literal["column", "page"] = Field(
        default="page", description="of figures in print: a page's text, or a column of two; text is as large in both"
    )
    settings: Pairs = Field(default={}, description="any other setting of scale or preset")

    @property
    def folder(self) -> Path:
        """Where all results go."""
        name = f"{Path(self.model).name if self.model else 'paper'}-{self.scale}"
        return self.out or Path("runs") / "reproduce" / name

    @property
    def replaced(self) -> dict[str, Any]:
        """``--set`` key → value, of all that replaces a setting of the scale or the preset."""
        named = {
            "corpus": self.corpus,
            "tokens": self.tokens,
            "controls": self.controls,
            "ppl.controls": self.controls,
            "bench.controls": self.controls,
            "bench.counted": self.tokens,
            "xnli.limit": self.limit,
            "xquad.limit": self.limit,
        }
        of_model = {f"model_args.{name}": value for name, value in self.model_args.items()}
        return {key: value for key, value in named.items() if value is not None} | of_model | self.settings
