"""The mutants, as data: file → (text, text in its place), and the tests that must fail."""

from __future__ import annotations

SIGNIFICANCE = ("tests/test_number_guards.py", "tests/test_significance.py")
SCORING = ("tests/test_number_guards.py", "tests/lm/test_scoring.py")
OVERRIDES = ("tests/overrides/test_parts.py", "tests/faults/test_plugins.py", "tests/overrides")
STATISTICS = (
    "tests/statistics/test_language_statistics.py",
    "tests/statistics/test_collect.py",
    "tests/statistics/test_merge.py",
    "tests/statistics/test_sketch.py",
)

MUTANTS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = {
    "lnbench/significance.py": (
        SIGNIFICANCE,
        (
            ("difference = second - first.mean(axis=0)", "difference = first.mean(axis=0) - second"),
            (
                "int((difference > 0).sum()), int((difference < 0).sum())",
                "int((difference < 0).sum()), int((difference > 0).sum())",
            ),
            ("2 * (bits.astype(float) @ values[active].T) - total[active]", "bits.astype(float) @ values[active].T"),
            ("gained + lost, 0.5).pvalue", "gained + lost, 0.5, 'greater').pvalue"),
            ("if gained + lost else 1.0", "if gained + lost else 0.0"),
            ("p_values: _Floats = (extreme + 1) / (flips + 1)", "p_values: _Floats = extreme / flips"),
            ("np.abs(values.sum(axis=-1)) * (1 - 1e-9) - 1e-12", "np.abs(values.sum(axis=-1)) * (1 + 1e-9) + 1e-12"),
            ("(np.abs(sums) >= _threshold(changed)).mean()", "(sums >= _threshold(changed)).mean()"),
            (
                "extreme[active] += (np.abs(sums) >= threshold[active])",
                "extreme[active] += (sums >= threshold[active])",
            ),
            ("sums - value])", "sums])"),
            ("np.arange(len(order), 0, -1)", "np.arange(1, len(order) + 1)"),
            ("np.minimum(np.maximum.accumulate(steps), 1)", "np.minimum(steps, 1)"),
            ("np.minimum(np.maximum.accumulate(steps), 1)", "np.maximum.accumulate(steps)"),
            ("confidence_level=1 - 2 * widened_tail(n)", "confidence_level=1 - widened_tail(n)"),
            ("math.sqrt(n / (n - 1)) * stats.t.ppf", "stats.t.ppf"),
            ("(2 * n - gained + lost) * delta - gained - lost", "(2 * n + gained - lost) * delta - gained - lost"),
            ("8 * n * lost * delta", "8 * n * gained * delta"),
            ("stats.norm.ppf(1 - LEVEL / 2)", "stats.norm.ppf(1 - LEVEL)"),
            ("stats.t.ppf(1 - LEVEL / 2, n - 1) + stats.t.ppf(POWER, n - 1)", "stats.t.ppf(1 - LEVEL / 2, n - 1)"),
            ("difference.std(ddof=1)", "difference.std()"),
            ("(discordance - delta) / (2 * discordance)", "(discordance + delta) / (2 * discordance)"),
            ("stats.binom.cdf(most, changed, 0.5) > LEVEL / 2", "stats.binom.cdf(most, changed, 0.5) > LEVEL"),
        ),
    ),
    "lnbench/lm/scoring.py": (
        SCORING,
        (
            (
                "cut_left(context + continuation, max_length + 1, prefix)[:-1]",
                "cut_left(context + continuation, max_length, prefix)[:-1]",
            ),
            (
                "cut_left(context + continuation, max_length + 1, prefix)[:-1]",
                "(context + continuation)[: max_length + 1][:-1]",
            ),
            ("len(self.tokens) - self.scored + 1", "len(self.tokens) - self.scored"),
            ("[end - row.scored for end, row in", "[end - row.scored + 1 for end, row in"),
            ("(places >= low) & (places < high)", "(places > low) & (places < high)"),
            ("(places >= low) & (places < high)", "(places >= low) & (places <= high)"),
            ("log_softmax(unscaled, dim=-1, dtype=softmax_dtype)", "softmax(unscaled, dim=-1, dtype=softmax_dtype)"),
            ("float(likelihood.sum())", "float(likelihood.mean())"),
            (
                "(scaled.argmax(-1)[-len(target) :] == target).all()",
                "(scaled.argmax(-1)[-len(target) :] == target).any()",
            ),
        ),
    ),
    "lnbench/override_values.py": (
        OVERRIDES,
        (
            ('"scale": lambda old, values: old * values', '"scale": lambda old, values: old + values'),
            ('"add": lambda old, values: old + values', '"add": lambda old, values: old - values'),
            ('"set": lambda _, values: values', '"set": lambda old, values: old + 0 * values'),
            ("old.clamp(values[0], values[1])", "old.clamp(values[1], values[0])"),
            ("_repeat([self.indices]) or (self.indices < 0).any()", "(self.indices < 0).any()"),
            (
                "if not 0 <= layer < layers or least < 0 or greatest >= width:",
                "if not 0 <= layer <= layers or least < 0 or greatest > width:",
            ),
            ("values[layer, indices.cpu()] for layer", "values[0, indices.cpu()] for layer"),
            ("values[~torch.isfinite(values.to(dtype))]", "values[~torch.isfinite(values)]"),
            ("return new.to(old.device, old.dtype)", "return old"),
        ),
    ),
    "lnbench/overrides.py": (
        OVERRIDES,
        (
            ("torch.where(mask, new, old)", "torch.where(~mask, new, old)"),
            ("torch.where(mask, new, old)", "new"),
            ("((values < low) | (values > high)).sum()", "((values < low) & (values > high)).sum()"),
            ('applied._add("values", tokens * self.indices.numel()', 'applied._add("values", self.indices.numel()'),
            ("self._constant_outside * tokens", "self._constant_outside"),
            (
                "(values.min[layer].flatten()[in_layer], values.max[layer].flatten()[in_layer])",
                "(values.min[0].flatten()[in_layer], values.max[0].flatten()[in_layer])",
            ),
            ("self._active, before = False, self._active", "self._active, before = True, self._active"),
            ("self._check_finite(output, current.mask)", "None"),
            ("self.applied.tokens += current.counted", "self.applied.tokens += current.tokens + 1"),
        ),
    ),
    "lnbench/model/forward_passes.py": (
        OVERRIDES,
        (
            (
                'return (generated if position == "generated" else ~generated).expand(shape)',
                'return (~generated if position == "generated" else generated).expand(shape)',
            ),
            ('return ~place if position == "not_first" else place', "return place"),
        ),
    ),
    "lnbench/statistics/language_statistics.py": (
        STATISTICS,
        (
            ("(q - low) / (high - low)", "(high - q) / (high - low)"),
            ("if abs(high - q) < 1e-9 or upper == 0:", "if upper >= 0:"),
            ("> (1 - q) * there", "> q * there"),
            ("torch.searchsorted(grid, point, right=True)", "torch.searchsorted(grid, point, right=False)"),
            ("share = (1 - below).squeeze(-1)", "share = below.squeeze(-1)"),
            ("torch.where(point == 0, exact, share)", "share"),
            ("torch.where(point >= 0, torch.minimum(share, exact), torch.maximum(share, exact))", "share"),
            ('axes = (1,) if scope == "layer" else (0, 1)', 'axes = (0,) if scope == "layer" else (0, 1)'),
        ),
    ),
    "lnbench/statistics/layer_accumulator.py": (
        STATISTICS,
        (
            ("mean = self.moments.sums / self.tokens", "mean = self.moments.sums / (self.tokens - 1)"),
            ("self.moments.squares / self.tokens - mean.square()", "self.moments.squares / self.tokens - mean"),
            ("self.moments.positive[site].double().cpu()", "self.moments.positive[0].double().cpu()"),
            ("values[0], values[-1] = low, high", "values[0], values[-1] = high, low"),
            (
                "levels.to(ordered.device, torch.float64) * (ordered.shape[1] - 1)",
                "levels.to(ordered.device, torch.float64) * ordered.shape[1]",
            ),
            ("self.tokens += other.tokens", "self.tokens = other.tokens"),
            (
                "alike[0].counts += histogram.counts.to(self.device)",
                "alike[0].counts = histogram.counts.to(self.device)",
            ),
            ("torch.where(alone, passed, post)", "passed"),
            ("rows = rows[room:]", "rows = rows"),
        ),
    ),
    "lnbench/statistics/quantiles.py": (
        STATISTICS,
        (
            ("rise[upper] -= held / abs(spread)", "rise[upper] += held / abs(spread)"),
            ("quantile[neuron, level] = before + share * (value - before)", "quantile[neuron, level] = before"),
            ("upto = below + jump[here]", "upto = below"),
            ("wanted = levels[level] * total", "wanted = levels[level] * (total - 1)"),
        ),
    ),
    "lnbench/statistics/bins.py": (
        STATISTICS,
        (
            ("torch.where(offset < 0, self.below, self.above)", "torch.where(offset > 0, self.below, self.above)"),
            ("x = u / (1 - u.abs())", "x = u"),
        ),
    ),
}
"""The text that a mutant replaces occurs once in its file."""
