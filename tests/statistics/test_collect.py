"""One pass over text, against every activation written down and counted the slow way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lnbench.model.describe import weights_fingerprint
from lnbench.model.locate import locate
from lnbench.statistics import LEVELS, Statistics, collect_statistics, describe_model
from lnbench.statistics.layer_accumulator import CALIBRATION
from tests.support.messages import refused
from tests.support.samples import rank_error
from tests.support.tiny import VOCABULARY, WIDTH, build

Blocks = list[Tensor | tuple[Tensor, Tensor]]


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def padded(rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """A block whose rows are padded at random: left, right, in the middle, or all of it."""
    mask = (torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) < 0.7).long()
    mask[0] = 0
    mask[-1, : length // 2] = 0
    return ids(rows, length, seed=seed), mask


def activations(model: nn.Module, blocks: Blocks, skip: int) -> dict[str, np.ndarray]:
    """Site → every counted activation, ``[tokens, layers, width]``, in float64."""
    seen: dict[str, list[list[Tensor]]] = {"pre": [], "post": []}
    sites = locate(model)
    kept: list[tuple[Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _m, args, out: kept.append((args[0].clone(), out.clone())))
        for module in sites.activations
    ]
    for block in blocks:
        inputs, mask = block if isinstance(block, tuple) else (block, torch.ones_like(block))
        kept.clear()
        with torch.no_grad():
            given = mask if isinstance(block, tuple) else None
            sites.model.base_model(input_ids=inputs, attention_mask=given, use_cache=False)
        for row in range(inputs.shape[0]):
            real = 0
            for position in range(inputs.shape[1]):
                if mask[row, position]:
                    real += 1
                    if real > skip:
                        place = row * inputs.shape[1] + position
                        for number, site in enumerate(("pre", "post")):
                            layers = [pair[number].reshape(-1, sites.width)[place].double() for pair in kept]
                            seen[site].append(layers)
    for hook in hooks:
        hook.remove()
    return {site: np.array([[layer.numpy() for layer in token] for token in tokens]) for site, tokens in seen.items()}


def check(statistics: Statistics, wanted: dict[str, np.ndarray], *, rank: float = 0.0) -> None:
    """Compare with the activations themselves: exactly, but for the rounding of sums (and quantiles' ``rank``)."""
    for site, values in wanted.items():
        seen = statistics.at(site)
        assert seen.tokens == len(values)
        assert torch.equal(seen.positive_rate, torch.from_numpy((values > 0).mean(0)))
        np.testing.assert_array_equal(seen.min.double().numpy(), values.min(0))
        np.testing.assert_array_equal(seen.max.double().numpy(), values.max(0))
        scale = np.abs(values).max(0)
        assert (np.abs(seen.mean.numpy() - values.mean(0)) <= 1e-6 * scale).all()
        assert (np.abs(seen.std.numpy() - values.std(0)) <= 1e-6 * scale).all()
        for q in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95):
            if rank:
                flat = torch.from_numpy(values).flatten(1)
                assert rank_error(flat, seen.quantile(q).double().flatten(), q) <= rank
            else:
                np.testing.assert_allclose(seen.quantile(q).numpy(), np.quantile(values, q, axis=0), atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "opt", "bloom", "phi3", "falcon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_equals_counting_every_activation(kind, dtype):
    model = build(kind).to(dtype)
    blocks: Blocks = [ids(2, 9), padded(3, 12, seed=1), ids(1, 1), ids(1, 5, seed=2)]
    check(collect_statistics(model, blocks, language="en"), activations(model, blocks, 1))


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_padding_and_skipped_positions_never_count(skip):
    model = build("llama")
    blocks: Blocks = [padded(4, 10, seed=seed) for seed in range(3)]
    wanted = activations(model, blocks, skip)
    statistics = collect_statistics(model, blocks, language="en", skip=skip)
    check(statistics, wanted)
    changed = [(torch.where(mask.bool(), tokens, 7), mask) for tokens, mask in blocks]
    again = collect_statistics(model, changed, language="en", skip=skip)
    assert torch.equal(again.mean, statistics.mean)


def test_a_long_text_goes_through_the_histogram():
    model = build("llama")
    blocks: Blocks = [ids(4, 128, seed=seed) for seed in range(10)]
    statistics = collect_statistics(model, blocks, language="en")
    assert statistics.tokens == 10 * 4 * 127 > 2 * CALIBRATION
    check(statistics, activations(model, blocks, 1), rank=0.002)


def test_the_split_into_batches_does_not_matter():
    model = build("gemma3_text")
    text = ids(12, 128)
    whole = collect_statistics(model, [text], language="en")
    for parts in (text.split(1), text.split(5)):
        split = collect_statistics(model, parts, language="en")
        assert split.tokens == whole.tokens
        torch.testing.assert_close(split.positive_rate, whole.positive_rate, rtol=0, atol=2 / whole.tokens)
        for name in ("mean", "std", "min", "max"):
            torch.testing.assert_close(getattr(split, name), getattr(whole, name), rtol=1e-4, atol=1e-5)
        spread = (whole.max - whole.min).unsqueeze(0)
        assert ((split.values.quantiles - whole.values.quantiles).abs() <= 0.05 * spread).all()


def test_other_sites_share_the_pass():
    model = build("llama")
    post = collect_statistics(model, [ids(2, 20)], language="en")
    pre = collect_statistics(model, [ids(2, 20)], language="en", site="pre")
    assert (post.site, pre.site) == ("post", "pre")
    assert torch.equal(post.at("pre").mean, pre.mean)
    assert pre.at("post").at("pre").fingerprint == pre.fingerprint != post.fingerprint


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_leaves_the_model_as_it_was():
    model = build("llama").train()
    model.model.layers[1].eval()
    flags = [module.training for module in model.modules()]
    before = hooks(model)
    collect_statistics(model, [ids(2, 8)], language="en")

    def broken() -> Iterator[Tensor]:
        yield ids(2, 8)
        raise OSError("the text ended")

    with refused("the text ended", error=OSError):
        collect_statistics(model, broken(), language="en")
    assert [module.training for module in model.modules()] == flags
    assert hooks(model) == before
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_sees_the_adapter_of_a_peft_model():
    base = build("llama")
    blocks: Blocks = [ids(3, 10)]
    plain = collect_statistics(base, blocks, language="en")
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "gate_proj"], init_lora_weights=False)
    model = get_peft_model(base, config)
    adapted = collect_statistics(model, blocks, language="en")
    check(adapted, activations(model, blocks, 1))
    assert not torch.equal(adapted.mean, plain.mean)
    assert adapted.provenance["weights"] != plain.provenance["weights"]


@pytest.mark.parametrize(
    "blocks",
    [[], [ids(2, 1)], [(ids(2, 6), torch.zeros(2, 6, dtype=torch.long))], [torch.zeros(2, 0, dtype=torch.long)]],
    ids=["no block", "short", "padding", "no token"],
)
def test_nothing_to_count(blocks):
    with refused("'hi'"):
        collect_statistics(build("llama"), blocks, language="hi")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("length", [8, 600], ids=["sample", "histogram"])
def test_activations_that_are_not_numbers(value, length):
    model = build("llama", max_position_embeddings=1024)
    locate(model)  # whose own check would refuse it
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[3, 2] = value
    with refused("layer 1", "finite", "'en'", "float32"):
        collect_statistics(model, [ids(2, length)], language="en")
    assert hooks(model) == hooks(build("llama"))


def test_numbers_that_go_wrong_late():
    model = build("llama")

    def blocks() -> Iterator[Tensor]:
        yield ids(12, 128)
        with torch.no_grad():
            model.model.layers[2].mlp.gate_proj.weight[0, 0] = float("nan")
        yield ids(2, 128)

    with refused("layer 2", "finite"):
        collect_statistics(model, blocks(), language="en")


def test_a_layer_that_does_not_run():
    model = build("llama")
    locate(model)
    model.config.num_hidden_layers = 2
    with refused("layer 2", "0 tokens", "14"):
        collect_statistics(model, [ids(2, 8)], language="en")


def test_unknown_site_is_told_before_the_pass():
    with refused("gate", "pre, post"):
        collect_statistics(build("llama"), iter(lambda: pytest.fail("text was read"), None), language="en", site="gate")


def test_batch_levels_are_means_of_the_batches_own_quantiles():
    model = build("llama")
    blocks: Blocks = [ids(2, 9, seed=1), padded(3, 12, seed=1), ids(1, 1), ids(1, 5, seed=2)]
    statistics = collect_statistics(model, blocks, language="en", batch_levels=(0.9, 0.123456789))
    for site in ("pre", "post"):
        for level in (0.9, 0.123456789):
            each = [
                np.quantile(values[site], level, axis=0)
                for block in blocks
                if len((values := activations(model, [block], 1))[site])
            ]
            assert len(each) == 3
            kept = statistics.batch_quantiles[site][level]
            np.testing.assert_allclose(kept.numpy(), np.mean(each, axis=0), atol=1e-6)
    assert collect_statistics(model, blocks, language="en").batch_quantiles == {}


def test_provenance_names_the_model_and_what_was_given():
    model = build("llama")
    statistics = collect_statistics(model, [ids(2, 8)], language="en", provenance={"corpus": "c"})
    assert statistics.provenance["corpus"] == "c"
    assert statistics.provenance["dtype"] == "float32"
    assert statistics.model == "LlamaForCausalLM"
    assert (statistics.layers, statistics.width) == (3, WIDTH)
    assert statistics.values.quantiles.shape == (len(LEVELS), 3, WIDTH)


def test_weights_fingerprint_follows_the_weights_alone():
    model = build("llama")
    known = weights_fingerprint(model)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert weights_fingerprint(model) == known
    finally:
        torch.set_num_threads(threads)
    assert weights_fingerprint(build("llama")) == known == describe_model(nn.DataParallel(model))["weights"]
    assert weights_fingerprint(build("llama").bfloat16()) != known
    weight = model.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        weight[5, 5] = torch.nextafter(weight[5, 5], torch.tensor(10.0))
    assert weights_fingerprint(model) != known
    large = nn.Linear(1000, 700)
    first = weights_fingerprint(large)
    with torch.no_grad():
        large.weight[123, 456] += 1e-3
    assert weights_fingerprint(large) != first
