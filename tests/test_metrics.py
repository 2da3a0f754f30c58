"""CKA and KL against plain textbook forms, on small random tensors."""

import itertools

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from torch.testing import assert_close

from mechdiff.common.errors import UserError
from mechdiff.maths.similarity import (
    TemplateGrams,
    cka_with_interval,
    grams,
    hsic_debiased,
    jackknife_subsets,
    kl,
    linear_cka,
    own_scale,
)


@pytest.fixture(autouse=True)
def seeded_on_one_thread():
    """Threads only get in each other's way on tensors this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def related(n, d=6, noise=1.0, sites=1):
    """x, and y that is x turned and stretched with noise on top. [sites, n, d] each."""
    turn = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    stretch = torch.linspace(0.5, 2, d, dtype=torch.float64)
    x = normal(sites, n, d) * stretch
    return x, x @ turn + noise * normal(sites, n, d)


def textbook_cka(x, y):
    """Kornblith et al. 2019, equation 4, with H = I - 11'/n written out."""
    n = len(x)
    h = torch.eye(n, dtype=x.dtype) - torch.ones(n, n, dtype=x.dtype) / n

    def hsic(a, b):
        return torch.trace(h @ (a @ a.T) @ h @ (b @ b.T)) / (n - 1) ** 2

    return (hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()).item()


def song_loop(k, l):
    """Song et al. 2012, equation 5, entry by entry: sums over pairs, triples and quadruples of matrix entries, i != j."""
    n = len(k)
    k, l = k.tolist(), l.tolist()
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    trace = sum(k[i][j] * l[j][i] for i, j in pairs)
    product = sum(k[i][j] for i, j in pairs) * sum(l[i][j] for i, j in pairs)
    middle = sum(k[i][j] * l[j][m] for i, j in pairs for m in range(n) if m != j)
    return (trace + product / ((n - 1) * (n - 2)) - 2 / (n - 2) * middle) / (n * (n - 3))


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_ignores_rotation_isotropic_scale_and_translation(debiased):
    x, y = (side[0] for side in related(30))
    turn = torch.linalg.qr(normal(6, 6)).Q
    moved = 3.7 * (x @ turn) + 100 * normal(6)
    assert linear_cka(moved, y, debiased) == pytest.approx(linear_cka(x, y, debiased), abs=1e-9)
    assert linear_cka(x, moved, debiased) == pytest.approx(1, abs=1e-9)


def test_cka_notices_a_stretch_of_one_dimension():
    x = normal(30, 6)
    assert linear_cka(x, x * torch.tensor([20, 1, 1, 1, 1, 1])) < 0.7


@pytest.mark.parametrize(("n", "p", "q"), [(20, 5, 9), (7, 40, 3)])
def test_cka_is_the_textbook_formula(n, p, q):
    x, y = normal(n, p), normal(n, q) + 3
    assert linear_cka(x, y) == pytest.approx(textbook_cka(x, y), abs=1e-10)


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_is_symmetric(debiased):
    x, y = normal(12, 5), normal(12, 8)
    assert linear_cka(x, y, debiased) == pytest.approx(linear_cka(y, x, debiased), abs=1e-12)


def test_cka_of_a_constant_side_says_that_nothing_is_defined():
    with pytest.raises(UserError, match="same state for every prompt"):
        linear_cka(normal(8, 5), torch.full((8, 5), 0.1))


def test_cka_of_three_prompts_says_how_many_it_needs():
    with pytest.raises(UserError, match="at least 4 prompts; there are 3"):
        linear_cka(normal(3, 5), normal(3, 5))


def test_debiased_cka_of_independent_states_is_near_zero_where_plain_cka_is_not():
    x, y = normal(40, 2000), normal(40, 2000)
    assert linear_cka(x, y) > 0.9
    assert abs(linear_cka(x, y, debiased=True)) < 0.1


@pytest.mark.parametrize("n", [4, 5, 8])
def test_debiased_hsic_is_song_2012_equation_5(n):
    k, l = grams(normal(1, n, 6))[0], grams(normal(1, n, 3))[0]
    assert hsic_debiased(k, l).item() == pytest.approx(song_loop(k, l), rel=1e-9, abs=1e-12)


def test_a_batch_of_sites_equals_site_by_site():
    x, y = related(24, sites=3)
    clusters = [str(i % 12) for i in range(24)]
    batch = cka_with_interval(x, y, clusters)
    for site in range(3):
        for name, value in cka_with_interval(x[site : site + 1], y[site : site + 1], clusters).items():
            assert_close(batch[name][site], value[0])
        assert batch["cka"][site].item() == pytest.approx(linear_cka(x[site], y[site]))
        assert batch["cka_debiased"][site].item() == pytest.approx(linear_cka(x[site], y[site], debiased=True))


def test_a_constant_site_is_nan_and_leaves_the_other_sites_alone():
    x, y = related(20, sites=3)
    clusters = [str(i) for i in range(20)]
    untouched = cka_with_interval(x, y, clusters)
    x[1] = 0.1
    result = cka_with_interval(x, y, clusters)
    for name, value in result.items():
        assert value[1].isnan(), name
        assert_close(value[[0, 2]], untouched[name][[0, 2]])


@pytest.mark.slow
def test_intervals_are_wider_with_fewer_prompts():
    results = [cka_with_interval(*related(n, sites=8), [str(i) for i in range(n)]) for n in (16, 64)]
    for suffix in ("", "_debiased"):
        few, many = ((r[f"high{suffix}"] - r[f"low{suffix}"]).mean().item() for r in results)
        assert few > 1.5 * many > 0


@pytest.mark.slow
def test_the_interval_covers_the_population_value():
    x, y = related(4000)
    truth = textbook_features(x[0], y[0])
    result = cka_with_interval(*related(40, sites=60), [str(i) for i in range(40)])
    covered = (result["low_debiased"] < truth) & (truth < result["high_debiased"])
    assert covered.double().mean() >= 0.85
    assert abs(result["cka_debiased"].mean().item() - truth) < 0.02


def textbook_features(x, y):
    """CKA by feature covariances, for an n that is too large for n by n."""
    x, y = x - x.mean(0), y - y.mean(0)
    return ((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def hsic_by_enumeration(k, l, clusters) -> float:
    """The U-statistic over templates, every choice of different templates and of prompts in them written out."""
    names = sorted(set(clusters))
    rows = {name: [i for i, cluster in enumerate(clusters) if cluster == name] for name in names}

    def average(size, term):
        return np.mean([term(*(rows[name] for name in chosen)) for chosen in itertools.permutations(names, size)])

    def means(gram, left, right):
        return np.mean([[gram[a, b].item() for b in right] for a in left])

    def sharing(i, j, m):
        return np.mean([np.mean([k[a, b].item() for b in j]) * np.mean([l[a, c].item() for c in m]) for a in i])

    one = average(2, lambda i, j: np.mean([(k[a, b] * l[a, b]).item() for a in i for b in j]))
    return one - 2 * average(3, sharing) + average(4, lambda i, j, m, q: means(k, i, j) * means(l, m, q))


@pytest.mark.parametrize("clusters", ["aabbbcddeff", "abcdefghijk"])
def test_hsic_over_templates_is_the_u_statistic(clusters):
    x, y = related(len(clusters))
    k, l = grams(x), grams(y)
    everything = torch.ones(1, len(set(clusters)), dtype=torch.float64)
    found = TemplateGrams(k, l, list(clusters)).hsic(everything).item()
    assert found == pytest.approx(hsic_by_enumeration(k[0], l[0], clusters), rel=1e-9)
    if len(set(clusters)) == len(clusters):
        assert found == pytest.approx(hsic_debiased(k[0], l[0]).item(), rel=1e-9)


def cka(x, y, clusters, masks):
    """CKA over the templates of each mask, at the only site."""
    k, l = grams(x), grams(y)
    return (TemplateGrams(k, l, clusters).hsic(masks) / own_scale(k, l, clusters, masks))[0]


def test_a_subset_of_templates_is_what_those_prompts_alone_give():
    x, y = related(20)
    clusters = [chr(97 + i // 2) for i in range(20)]
    masks = torch.ones(2, 10, dtype=torch.float64)
    masks[1, [2, 7]] = 0
    some = torch.tensor([i for i, cluster in enumerate(clusters) if cluster not in "ch"])
    both = cka(x, y, clusters, masks)
    alone = cka(x[:, some], y[:, some], [clusters[i] for i in some], masks[:1, :8])
    assert both[1].item() == pytest.approx(alone.item(), rel=1e-9)


def test_near_copies_within_a_template_are_no_agreement():
    """Unrelated states whose templates' prompts are near copies on both sides: prompts agree, templates do not."""
    which = torch.arange(90) // 3
    x, y = (normal(1, 30, 40)[:, which] + 0.3 * normal(1, 90, 40) for _ in range(2))
    result = cka_with_interval(x, y, [str(i) for i in which.tolist()])
    assert result["cka_debiased"].item() > 0.1
    assert abs(result["cka_templates"].item()) < 0.06 and abs(result["cka_null"].item()) < 0.03
    assert result["low_templates"].item() < 0 < result["high_templates"].item()


def test_agreement_of_templates_stays():
    x, y = related(60)
    result = cka_with_interval(x, y, [str(i // 2) for i in range(60)])
    assert result["cka_templates"].item() == pytest.approx(result["cka_debiased"].item(), abs=0.05)
    assert result["low_templates"] < result["cka_templates"] < result["high_templates"]
    assert result["cka_null"].abs() < 0.1 < result["cka_templates"]


def test_fewer_than_five_templates_leave_no_interval():
    result = cka_with_interval(*related(20), ["a", "b", "c", "d"] * 5)
    assert result["low"].isnan().all() and result["high_debiased"].isnan().all()
    assert not result["cka"].isnan().any()


def test_the_jackknife_leaves_out_whole_templates():
    clusters = ["a"] * 5 + ["b", "c", "d", "e", "f", "g"] * 2
    subsets, factor = jackknife_subsets(clusters, subsets=50)
    for subset in subsets:
        names = {clusters[i] for i in subset}
        assert subset.tolist() == [i for i, name in enumerate(clusters) if name in names]
        assert len(names) == 4  # 7 templates, sqrt(7) + 1 = 3 left out
    assert factor == pytest.approx(4 / 3)
    assert {name for subset in subsets for name in set(clusters) - {clusters[i] for i in subset}} == set(clusters)


def test_kl_of_equal_distributions_is_zero():
    p = torch.randn(5, 40).log_softmax(-1)
    assert (kl(p, p) == 0).all()


def test_kl_is_that_of_torch():
    p, q, r = (torch.distributions.Categorical(logits=3 * normal(*shape)) for shape in ((6, 40), (6, 40), (40,)))
    assert_close(kl(p.logits, q.logits), torch.distributions.kl_divergence(p, q))
    assert_close(kl(p.logits, r.logits), torch.distributions.kl_divergence(p, r))


def test_kl_is_never_negative():
    p = torch.randn(200, 5000).log_softmax(-1)
    q = (p + 1e-7 * torch.randn_like(p)).log_softmax(-1)
    assert (kl(p, q) >= 0).all()


def test_a_small_kl_keeps_its_digits_in_float32():
    p = torch.randn(20, 5000).log_softmax(-1)
    q = p + 1e-3 * torch.randn_like(p) * (torch.arange(5000) < 50)
    exact = (p.double().exp() * (p.double() - q.double())).sum(-1)
    assert_close(kl(p, q).double(), exact.clamp(min=0), rtol=1e-3, atol=1e-9)


def test_every_call_in_the_tests_is_checked_against_its_shapes():
    with pytest.raises(TypeCheckError, match="sites n q"):
        cka_with_interval(normal(1, 5, 3), normal(1, 6, 3), ["a"] * 5)
