"""Masks keep what is largest within their pattern, a better order keeps more, and masked networks run masked."""

from itertools import permutations

import numpy as np
import pytest
import torch
from small_networks import (
    Concat,
    DataDependent,
    Depthwise,
    FlattenLinear,
    Plain,
    Residual,
    Signal,
    Volume,
    images,
    network,
)
from torch import Tensor, nn

from nacdeploy.base.precision import Precision
from nacdeploy.network.attachments import fake_quant
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.attachments.sparsity import (
    Masks,
    Sparsity,
    best_order,
    kept_fraction,
    mask,
    sparsity_of,
    stored_bits,
)
from nacdeploy.network.network import masked_weight
from nacdeploy.network.plain import masked_backbone

TWO_FOUR = Sparsity("2:4")


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_two_four_keeps_the_two_largest_of_every_four_inputs() -> None:
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.5, 0.0, -0.1, 0.2]])
    assert mask(weight, TWO_FOUR).int().tolist() == [[0, 1, 1, 0, 1, 0, 0, 1]]


def test_two_four_of_a_convolution_runs_along_its_inputs_at_every_position() -> None:
    weight = drawn(6, 8, 3, 3)
    kept = mask(weight, TWO_FOUR)
    assert (kept.unflatten(1, (2, 4)).sum(2) == 2).all()
    largest = (weight.abs() * kept).unflatten(1, (2, 4)).sum(2)
    assert torch.equal(largest, weight.abs().unflatten(1, (2, 4)).topk(2, dim=2).values.sum(2))


@pytest.mark.parametrize(("n_inputs", "n_kept"), [(4, 2), (5, 3), (6, 4), (7, 4), (8, 4)])
def test_last_part_of_fewer_than_four_keeps_at_most_two(n_inputs: int, n_kept: int) -> None:
    assert mask(drawn(3, n_inputs), TWO_FOUR).sum(1).tolist() == [n_kept] * 3


def test_equal_magnitudes_are_masked_alike_every_time() -> None:
    assert mask(torch.ones(1, 4), TWO_FOUR).int().tolist() == [[1, 1, 0, 0]]
    assert mask(torch.ones(1, 4), Sparsity("element", 0.25)).int().tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize(("pattern", "axes"), [("element", ()), ("kernel", (2, 3)), ("filter", (1, 2, 3))])
def test_share_of_granules_is_masked_whole_least_first(pattern: str, axes: tuple[int, ...]) -> None:
    weight = drawn(8, 4, 3, 3)
    kept = mask(weight, Sparsity(pattern, 0.3))
    whole, none = (kept.all(axes), ~kept.any(axes)) if axes else (kept, ~kept)
    assert torch.equal(whole, ~none)
    assert int(none.sum()) == int(0.3 * none.numel())
    scores = weight.abs().sum(axes) if axes else weight.abs()
    assert scores[none].max() <= scores[whole].min()


@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("pattern", ["element", "kernel", "filter"])
def test_something_is_always_kept(pattern: str, ratio: float) -> None:
    assert mask(drawn(2, 1, 3, 3), Sparsity(pattern, ratio)).any()


# Source of the numbers: golden/nncompression.json, prune (counts rounded up), of randn(16, 8, 3, 3) from seed 0.
@pytest.mark.parametrize(
    ("pattern", "ratio", "n_masked"),
    [("element", 0.1, 116), ("element", 0.5, 576), ("element", 0.9, 1037), ("kernel", 0.5, 576), ("filter", 0.5, 576)],
)
def test_counts_rounded_up_equal_deep_compression(pattern: str, ratio: float, n_masked: int) -> None:
    kept = mask(drawn(16, 8, 3, 3), Sparsity(pattern, ratio, rounding="ceil"))
    assert int((~kept).sum()) == n_masked


def test_level_of_ninety_percent_leaves_the_known_sum() -> None:
    """golden/auptimizer.json, masks_known, level_tf: W[r][c] = c + r / 10."""
    weight = torch.arange(10.0)[None, :] + torch.arange(10.0)[:, None] / 10
    assert float((weight * mask(weight, Sparsity("element", 0.9))).sum()) == pytest.approx(94.5)


@pytest.mark.parametrize(
    ("ratio", "rounding", "n_masked"),
    [
        (0.29, "floor", 29),
        (0.7, "floor", 70),
        (0.295, "floor", 29),
        (0.295, "ceil", 30),
        (0.07, "ceil", 7),
        (1 - 1e-6, "floor", 99),
        (1 - 1e-6, "ceil", 100),
    ],
)
def test_count_is_exact_among_equal_magnitudes(ratio: float, rounding: str, n_masked: int) -> None:
    kept = mask(torch.ones(4, 25), Sparsity("element", ratio, rounding=rounding)).flatten()
    assert (~kept).nonzero().flatten().tolist() == list(range(n_masked))


def test_l2_ranks_blocks_by_their_norm() -> None:
    weight = torch.tensor([[[3.0, 0.0]], [[2.0, 2.0]]])[..., None]  # sums 3 and 4, norms 3 and 2.83
    assert mask(weight, Sparsity("filter", 0.5)).flatten(1).any(1).tolist() == [False, True]
    assert mask(weight, Sparsity("filter", 0.5, importance="l2")).flatten(1).any(1).tolist() == [True, False]


def test_hidden_values_stay_hidden_though_others_are_zero() -> None:
    weight = torch.tensor([[0.0, 0.0, 5.0, 1.0]])
    former = torch.tensor([[True, True, False, True]])
    assert mask(weight, Sparsity("element", 0.5), "", former).int().tolist() == [[0, 1, 0, 1]]


def test_share_below_what_is_hidden_shows_nothing() -> None:
    weight, former = drawn(4, 8), mask(drawn(4, 8), Sparsity("element", 0.75))
    assert torch.equal(mask(weight, Sparsity("element", 0.25), "", former), former)


@pytest.mark.parametrize(
    ("pattern", "bits"),
    [
        ("2:4", 288 * (8 + 2)),
        ("element", 288 * 8 + 576),
        ("kernel", 288 * 8 + 64),
        ("filter", 288 * 8 + 8),
    ],
)
def test_stored_bits_are_those_of_the_formula(pattern: str, bits: int) -> None:
    assert stored_bits(mask(drawn(8, 8, 3, 3), Sparsity(pattern, 0.5)), pattern, 8) == bits


def kept_in(columns: Tensor, order: tuple[int, ...]) -> float:
    return kept_fraction(columns[:, [*order]], mask(columns[:, [*order]], TWO_FOUR))


def test_best_order_finds_the_order_that_loses_nothing() -> None:
    """Large columns side by side lose half of themselves; two in each four lose nothing but the small ones."""
    columns = torch.tensor([9.0, 8, 7, 6, 0, 0, 0, 0]).expand(3, -1)
    assert kept_in(columns, tuple(range(8))) < 0.6
    assert kept_in(columns, best_order([columns])) == 1.0


def test_best_order_is_near_the_best_of_all_orders() -> None:
    columns = drawn(5, 8).abs()
    halves = ({*order[:4]} for order in permutations(range(8)))
    orders = {(*sorted(half), *sorted({*range(8)} - half)) for half in halves}
    best = max(kept_in(columns, order) for order in orders)
    assert kept_in(columns, best_order([columns])) >= kept_in(columns, tuple(range(8)))
    assert kept_in(columns, best_order([columns])) > 0.98 * best


@pytest.mark.parametrize("n_channels", [5, 8, 30])
def test_best_order_is_a_permutation_and_repeats(n_channels: int) -> None:
    readers = [drawn(40, n_channels).abs(), 100 * drawn(9, n_channels).abs()]
    order = best_order(readers)
    assert sorted(order) == list(range(n_channels))
    assert best_order(readers) == order


def test_readers_count_alike_whatever_their_scale() -> None:
    small, large = drawn(6, 12).abs(), drawn(7, 12).abs() + 0.1
    assert best_order([small, large]) == best_order([small, 1000 * large])


@pytest.mark.parametrize(
    ("weight", "zeros", "is_two_four"),
    [
        (np.array([[1, 0, 2, 0, 0, 0, 5, 0]], np.int8), 5 / 8, True),
        (np.array([[1, 0, 2, 3, 0, 0, 0, 0]], np.int8), 5 / 8, False),
        (np.zeros((4, 8, 3, 3), np.float32), 1.0, True),
        (np.ones((4, 6, 3, 3), np.float32), 0.0, False),
        (np.array([[1, 1, 0, 0, 1, 1]], np.int8), 1 / 3, True),
        (np.array([[1, 1, 0, 0, 1, 1, 1]], np.int8), 2 / 7, False),
        (np.ones((8, 1, 3, 3), np.int8), 0.0, False),
    ],
    ids=["2:4", "three in a four", "zeros", "dense", "tail of two", "tail of three", "one input"],
)
def test_values_show_their_sparsity(weight: np.ndarray, zeros: float, is_two_four: bool) -> None:
    found = sparsity_of(weight)
    assert found.zero_fraction == pytest.approx(zeros)
    assert found.is_two_four == is_two_four


@pytest.mark.parametrize(
    ("rule", "layer", "reason"),
    [
        (TWO_FOUR, nn.Conv2d(8, 8, 3), None),
        (TWO_FOUR, nn.Conv2d(6, 8, 3), None),
        (TWO_FOUR, nn.Conv2d(3, 8, 3), "fewer than 4 input channels"),
        (TWO_FOUR, nn.Conv2d(8, 8, 3, groups=8), "depthwise or grouped"),
        (TWO_FOUR, nn.Conv2d(8, 8, 3, groups=2), "depthwise or grouped"),
        (Sparsity("2:4", exclude=("stage",)), nn.Linear(8, 8), "excluded"),
        (Sparsity("2:4", min_channels=16), nn.Linear(16, 8), "fewer than 16 channels"),
        (Sparsity("element"), nn.Conv2d(3, 8, 3), None),
        (Sparsity("filter"), nn.Linear(8, 8), "no convolution"),
    ],
)
def test_layer_is_left_dense_with_the_reason(rule: Sparsity, layer: nn.Module, reason: str | None) -> None:
    assert rule.why_dense("stage.layer", layer) == reason


def test_masks_take_any_layer_name() -> None:
    """A buffer's name holds no dot, and none that modules use themselves."""
    names = ("a.b", "a_b", "float", "get", "layers.0")
    masks = Masks({name: torch.ones(1, dtype=torch.bool) for name in names})
    assert len(masks.state_dict()) == len(names)
    assert all(masks.get(name) is not None for name in names)
    assert masks.get("other") is None


@pytest.mark.parametrize("kind", [Plain, Residual, Concat, Depthwise, FlattenLinear, DataDependent, Signal, Volume])
@pytest.mark.parametrize("pattern", ["2:4", "element", "kernel", "filter"])
def test_masked_network_answers_as_one_with_zeros(kind: type[nn.Module], pattern: str) -> None:
    made = network(kind())
    plain = made(images())
    made.sparsify(Sparsity(pattern, every_convolution=True))
    assert torch.allclose(made(images()), masked_backbone(made)(images()), atol=1e-6)
    assert not torch.allclose(made(images()), plain, atol=1e-3)
    assert torch.equal(made.backbone(images()), plain), "the backbone keeps what the masks hide"


@pytest.mark.parametrize("kind", [Residual, DataDependent])
@pytest.mark.parametrize("quantized", [False, True])
def test_hidden_weights_get_no_gradient(kind: type[nn.Module], quantized: bool) -> None:
    made = network(kind())
    made.sparsify(TWO_FOUR)
    if quantized:
        made.quantize(Rule(Precision(8, 8)))
    made(images()).square().sum().backward()
    for name in made.masks.layers:
        kept, gradient = made.masks.get(name), made.backbone.get_submodule(name).weight.grad
        assert kept is not None
        assert (gradient[~kept] == 0).all()  # type: ignore[index]
        assert (gradient[kept] != 0).any()  # type: ignore[index]


def test_quantized_masked_weights_are_zero_where_masked() -> None:
    made = network(Residual())
    made.sparsify(TWO_FOUR)
    for name in made.masks.layers:
        layer = made.backbone.get_submodule(name)
        integers, _ = fake_quant.integers(masked_weight(made, name, layer), 127)
        assert sparsity_of(integers.numpy()).is_two_four
        assert not sparsity_of(fake_quant.integers(layer.weight, 127)[0].numpy()).is_two_four  # type: ignore[arg-type]


def test_higher_share_hides_what_was_hidden_before() -> None:
    made = network(Plain())
    made.sparsify(Sparsity("element", 0.5))
    before = {name: made.masks.get(name) for name in made.masks.layers}
    with torch.no_grad():
        for layer in made.layers.values():
            layer.weight.abs_().reciprocal_()  # type: ignore[operator]
    made.sparsify(Sparsity("element", 0.8))
    for name, kept in before.items():
        now = made.masks.get(name)
        assert kept is not None and now is not None
        assert not (now & ~kept).any()
