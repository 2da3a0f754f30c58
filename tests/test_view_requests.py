"""What a page asks is what the pure functions say of its selection: for `talk prepare`, and for a bundle of the page."""

import pandas as pd
import pytest
from support.app_page import fine, open_page
from views.where import transplants

import mechdiff
from mechdiff.inputs.pair_file import shipped_pairs
from mechdiff.reporting import view_requests
from mechdiff.reporting.selection import DEFAULTS, ON_REQUEST, Selection, of_its_day

pytestmark = pytest.mark.usefixtures("patient")
PLACE = {"layer": 1, "stream": "mlp_out", "fit": "ridge", "rank": "4", "complement": "own", "heads": [1, 3], "blend": 0.5}
SWITCH = {"transport": "curve", "rank": "ranks", "patching": "transplants", "heads": "coverage", "weights": "overlap"}
PAGES = {"drift": 1, "patching": 4, "transport": 2, "rank": 2, "heads": 5, "weights": 2}  # how many requests each asks


def view(shared: dict, values: dict) -> Selection:
    """A selection on the tiny pair."""
    values = {name: tuple(value) if name == "heads" else value for name, value in values.items()}
    return Selection(**shared, **values, switches=frozenset(ON_REQUEST))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_asks_what_its_requests_say(page, tiny):
    query = {name: [str(part) for part in value] if name == "heads" else str(value) for name, value in PLACE.items()}
    at = open_page(page, **query, **{SWITCH.get(page, "curve"): "true"})
    while at.session_state["_pending"]:
        fine(at.run())
    expected = view_requests.requests(page, view(tiny, PLACE))
    assert list(at.session_state["_page_record"].answers) == expected and len(expected) == PAGES[page]


def test_every_request_takes_its_own_part_of_the_selection(tiny):
    """No part is a default, and the two maps differ."""
    selection = Selection(
        **tiny, **PLACE | {"heads": (1, 3), "fit": "procrustes", "map": "zscore", "alpha": "1.0", "basis": "map"}
    )
    transport, rank, overlap = (view(selection) for view in (view_requests.transport, view_requests.rank, view_requests.overlap))
    for run in (transport, rank):
        assert (run.map, run.alpha, run.layers, run.streams) == ("procrustes", ("1.0",), (1,), ("mlp_out",))
    assert (rank.ranks, rank.complement) == (("4",), ("own",))
    assert (overlap.run.map, overlap.run.layers) == ("procrustes", (1,))
    patch, heads = view_requests.patch(selection), view_requests.heads_together(selection)
    assert (patch.map, patch.streams, patch.layers) == ("zscore", ("mlp_out",), None)
    assert (heads.layers, heads.head_sets, heads.blend) == ((1,), "1,3", 0.5)


def test_a_link_is_read_as_the_widgets_read_it():
    first = Selection.from_link({})
    assert first.pair == shipped_pairs()[0] and first.domain == first.spec.domain and first.limit == DEFAULTS["prompts"]
    other = Selection.from_link({"pair": "demo-cognitive", "domain": "cultural", "prompts": 8, "heads": [2, 0], "curve": True})
    assert (other.domain, other.limit, other.heads, other.switches) == ("cultural", 8, (2, 0), {"curve"})
    run = view_requests.behaviour(other)
    assert (run.pair, run.domain, run.limit, run.direction) == ("demo-cognitive", "cultural", 8, "base-to-tuned")


def test_a_place_that_the_pair_does_not_have_becomes_one_that_it_has(tiny):
    far = Selection(**tiny, layer=99, heads=(0, 99))
    assert far.chosen_layer == far.spec.layers - 1 and far.chosen_heads == [0]
    assert Selection(**tiny).chosen_layer == 2 * (far.spec.layers - 1) // 3


def test_what_a_sweep_holds_is_not_computed_again(tiny):
    selection = Selection(**tiny, fit="ridge", basis="map")
    for curve in (view_requests.transport_curve, view_requests.rank_curve):
        assert curve(selection, stored=True).controls == ("self",) and "mean" in curve(selection, stored=False).controls


def test_a_rank_is_of_the_difference_unless_a_map_is_chosen(tiny):
    run = view_requests.rank(Selection(**tiny, layer=1, rank="4"))
    assert (run.basis, run.ranks, run.layers) == ("difference", ("4",), (1,))
    assert view_requests.rank_curve(Selection(**tiny), stored=False).controls == ("self", "random")


def test_a_link_without_a_format_means_the_defaults_of_its_day():
    values = of_its_day({"pair": "demo-cognitive", "layer": 3})
    assert values == {"pair": "demo-cognitive", "layer": 3, "domain": "cognitive@1", "fit": "procrustes_scaled", "basis": "map"}
    assert of_its_day({"domain": "cultural", "fit": "ridge"})["domain"] == "cultural@1"
    assert of_its_day({"domain": "cultural", "fit": "ridge"})["fit"] == "ridge"
    assert "fit" not in of_its_day({"pair": "demo-cognitive", "protocol": "study"})


def test_only_the_state_as_it_is_has_next_tokens(tiny):
    assert view_requests.next_tokens(Selection(**tiny, map="zscore")) is None
    every = view_requests.next_tokens(Selection(**tiny, stream="heads", layer=1, prompt=99))
    assert every.condition.heads == tuple(range(4)) and every.prompt == tiny["limit"] - 1


def test_single_heads_may_be_there_before_the_modules(tiny):
    """Transplants are answered by two jobs: the heads' bars do not wait for the modules' curve."""
    heads = view_requests.transplants(Selection(**tiny, layer=1))[1]
    mechdiff.run(heads)
    transplants.draw(pd.DataFrame(), heads.summary(mechdiff.run(heads)), 1, "")
