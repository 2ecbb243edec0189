"""The claims bench: what is compared, that it goes on where it stopped, and that its statistics are right."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tove_core.demo.claims import page, run
from tove_core.demo.claims.jobs import CURVES, DETACH, FUSIONS, MERGE, Job, Runner, jobs
from tove_core.demo.claims.run import Found
from tove_core.demo.claims.subjects import EASY_VQA, NLVR, TINY, WORLD, subject
from tove_core.demo.claims.subjects import SIZES as SIZES_OF_THE_PAGE
from tove_core.demo.claims.summary import change, of_differences, rank_correlation, spread
from tove_core.demo.claims.variants import CLIP_ONLY, HUB, VARIANTS
from tove_core.demo.claims.verdicts import verdicts
from tove_core.demo.hooks import EXPERTS
from tove_core.demo.reader import samples
from tove_core.demo.splits import TEST
from tove_core.demo.world import SMALL
from tove_core.errors import ConfigError, DataError


class Freed(list):
    """A list that tells when it is gone."""


SIZES = dict.fromkeys((WORLD, EASY_VQA, NLVR), TINY)


def test_every_variant_trains_the_same_number_of_parameters_within_one_hidden_unit():
    data = subject(WORLD, TINY)
    for name, variant in VARIANTS.items():
        fusion = data.build(variant.config(data.budget)).fusion
        assert fusion is not None
        trained = sum(p.numel() for p in fusion.parameters())
        assert abs(trained - data.budget) <= trained / fusion.hidden, name


def test_the_variants_differ_from_the_hub_in_what_their_name_says():
    hub, configs = VARIANTS[HUB].config(9999).fusion, {n: v.config(9999).fusion for n, v in VARIANTS.items()}
    assert configs["gate, sigmoid"] == hub.model_copy(
        update={"gate": hub.gate.model_copy(update={"activation": "sigmoid"})}
    )
    assert configs["gate, no residual"] == hub.model_copy(update={"replace": True})
    assert configs["gate, no balancing"].gate == hub.gate.model_copy(update={"balance": 0.0})
    assert configs["gate, no expert dropout"].gate == hub.gate.model_copy(update={"expert_dropout": 0.0})
    assert all(configs[f"{name} alone"].replace and not configs[f"CLIP + {name}"].replace for name in EXPERTS)
    assert len({variant.config(9999).model_dump_json() for variant in VARIANTS.values()}) == len(VARIANTS)


def test_features_are_of_the_list_they_were_computed_for_and_each_curve_computes_them_once():
    data, freed = subject(WORLD, TINY), Freed(samples(TEST, 2))
    assert len(data.examples(data.hub, freed)) == len(freed)
    kept = weakref.ref(freed)
    del freed
    assert kept() is not None, "another list would get its number, and with it its features"
    assert data.first(3) is data.first(3) and len(data.first(2)) < len(data.first(3))


def test_jobs_come_seed_by_seed_and_later_stages_after_what_they_need():
    listed = list(jobs(WORLD, (FUSIONS, CURVES, DETACH, MERGE), (0, 1), 64))
    assert [job.seed for job in listed] == sorted(job.seed for job in listed)
    first = [job for job in listed if job.seed == 0]
    assert [job.name for job in first if job.stage == FUSIONS] == list(VARIANTS)
    assert [(job.images, job.name) for job in first if job.stage == CURVES] == [
        (size, name) for size in (2, 8, 32) for name in (CLIP_ONLY, HUB)
    ]
    assert [job.stage for job in first[-2:]] == [DETACH, MERGE]
    assert len({job.file(Path("x")) for job in listed}) == len(listed)
    assert {job.stage for job in jobs(NLVR, (FUSIONS, CURVES, DETACH, MERGE), (0,), 64)} == {FUSIONS, MERGE}


@pytest.mark.slow
def test_a_bench_goes_on_where_it_stopped_and_refuses_results_of_other_settings(tmp_path: Path, monkeypatch):
    few = {name: VARIANTS[name] for name in (CLIP_ONLY, "uniform", HUB)}
    monkeypatch.setattr("tove_core.demo.claims.jobs.VARIANTS", few)
    out = tmp_path / "bench"
    with pytest.raises(ConfigError, match=r"models/gate-0 is missing; run stage fusions for seed 0 first"):
        run.run(out, stages=(DETACH,), seeds=(0,), sizes=SIZES, quiet=True)
    (none,) = run.run(out, stages=(FUSIONS,), seeds=(0,), sizes=SIZES, minutes=0, quiet=True)
    assert not none.results
    (part,) = run.run(out, stages=(FUSIONS, DETACH), seeds=(0,), sizes=SIZES, quiet=True)
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert {job.stage for job in part.missing} == {CURVES, MERGE}
    (whole,) = run.run(out, stages=(FUSIONS, DETACH, MERGE), seeds=(0,), sizes=SIZES, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was finished is not done again"
    hub, off = (whole.results[Job(stage, name, 0)] for stage, name in ((FUSIONS, HUB), (DETACH, DETACH)))
    assert off["accuracy"] == pytest.approx(hub["accuracy"]), "the detached model is the trained one"
    assert set(off["without"]["renormalise"]) == set(off["foreseen"]) == set(EXPERTS)
    assert len(hub["clusters"]) == TINY.test and np.mean(hub["clusters"]) == pytest.approx(hub["accuracy"], abs=1e-4)

    page.write(tmp_path / "claims.md", [whole])
    text = (tmp_path / "claims.md").read_text()
    for word in ("| experts help | world |", "| gate | 1 |", "control: CLIP only, then unfrozen", "`renormalise`"):
        assert word in text
    assert "claims-world-fusions.svg" in text
    assert (tmp_path / "claims-world-fusions.svg").read_text().startswith("<svg")
    run.unpack(tmp_path / "claims.json", tmp_path / "again")
    again = run.collect(tmp_path / "again", WORLD, TINY, (0,))
    assert again.results == whole.results and page.render([again], "claims") + "\n" == text

    with pytest.raises(ConfigError, match="other settings"):
        run.run(out, stages=(FUSIONS,), seeds=(0,), sizes={WORLD: SMALL}, quiet=True)
    next(iter(out.rglob("fusions-*.json"))).write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        run.collect(out, WORLD, TINY, (0,))


@pytest.mark.slow
@pytest.mark.shared_data
def test_other_data_sets_are_read_apart_from_their_test_split(
    shared_data: Callable[[str], Path], tmp_path: Path, monkeypatch
):
    monkeypatch.setattr("tove_core.demo.claims.jobs.SHORT", (CLIP_ONLY,))
    paths = {name: shared_data(name) for name in (EASY_VQA, NLVR)}
    easy, nlvr = run.run(
        tmp_path, data=(EASY_VQA, NLVR), stages=(FUSIONS,), seeds=(0,), paths=paths, sizes=SIZES, quiet=True
    )
    assert len(easy.results) == len(nlvr.results) == 1
    assert 0 <= next(iter(nlvr.results.values()))["consistency"] <= 1
    read = subject(NLVR, TINY, paths[NLVR])
    assert len({read.cluster(sample) for sample in read.parts.test}) < len(read.parts.test)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"data": ("vqav2",)}, "there is no data set 'vqav2' in the claims bench; choose from world"),
        ({"stages": ("train",)}, "there is no stage 'train' in the claims bench; choose from fusions"),
        ({"data": (NLVR,), "stages": (FUSIONS,)}, "nlvr is not part of tove; give its folder with --nlvr PATH"),
    ],
)
def test_what_the_bench_cannot_do_is_said_in_a_sentence(tmp_path: Path, told, said):
    with pytest.raises(ConfigError, match=said):
        run.run(tmp_path, sizes=SIZES, quiet=True, **told)


def test_the_committed_page_is_what_the_committed_results_give(tmp_path: Path):
    folder = Path(__file__).parents[2] / "docs" / "benchmarks"
    run.unpack(folder / "claims.json", tmp_path)
    found = [run.collect(tmp_path, name, size, (0, 1, 2)) for name, size in SIZES_OF_THE_PAGE.items()]
    assert (folder / "claims.md").read_text() == page.render([one for one in found if one.results], "claims") + "\n"


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"settings": {}}', '[{"settings": {}}]', '"a"', "{"])
def test_a_damaged_result_is_refused(tmp_path: Path, content: str):
    runner, job = Runner(tmp_path, lambda: pytest.fail("no data are wanted"), {}), Job(DETACH, DETACH, 0)
    job.file(tmp_path).write_text(content)
    with pytest.raises(ConfigError, match=r"detach-detach-all-0\.json is damaged .*remove it to do its job again"):
        runner.result(job)


def test_a_file_that_holds_no_results_is_refused(tmp_path: Path):
    (tmp_path / "other.json").write_text('{"data": "world"}\n')
    with pytest.raises(ConfigError, match=r"other\.json holds no results of this bench"):
        run.unpack(tmp_path / "other.json", tmp_path)


def results(*clusters: list[float]) -> list[dict]:
    return [{"clusters": row, "accuracy": float(np.mean(row))} for row in clusters]


def test_an_interval_covers_seeds_as_well_as_images():
    draw = np.random.default_rng(3)
    images = draw.normal(0.05, 0.2, size=(1, 400))
    same, apart = images.repeat(3, 0), images + np.array([[0.1], [0.0], [-0.1]])
    alike, spread_out = of_differences(same), of_differences(apart)
    assert alike.mean == pytest.approx(spread_out.mean) and alike.by_seed[0] == pytest.approx(images.mean())
    error = images.std(ddof=1) / 400**0.5
    alone = of_differences(images)
    for one in (alike, alone):
        assert one.high - one.low == pytest.approx(2 * 1.96 * error, rel=1e-6), "the textbook interval over images"
    assert alone.verdict == "yes, in this run"
    over_seeds = 4.302653 * 0.1 / 3**0.5  # Student's t, two degrees of freedom, standard deviation 0.1
    assert spread_out.high - spread_out.mean == pytest.approx((over_seeds**2 + (1.96 * error) ** 2) ** 0.5, rel=1e-6)
    assert spread_out.high - spread_out.low > 2 * (alike.high - alike.low)
    assert (alike.verdict, spread_out.verdict) == ("yes", "not decided")
    assert of_differences(-same).verdict == "no, the reverse"


@pytest.mark.parametrize("seeds", [2, 3, 12])
@pytest.mark.parametrize("deviation", [0.0, 0.02])
def test_intervals_of_few_seeds_cover_what_they_promise(seeds: int, deviation: float):
    draw, hits = np.random.default_rng(5), 0
    for _ in range(300):
        apart = draw.normal(0, deviation, (seeds, 1)) + draw.normal(0, 0.2, (seeds, 200))
        found = of_differences(0.03 + apart + draw.normal(0, 0.2, 200))
        hits += found.low <= 0.03 <= found.high
    assert hits >= 0.93 * 300


def test_experts_are_judged_by_what_was_expected_of_them():
    def run_of(*lost: float) -> dict:
        foreseen = {name: {"loss": loss} for name, loss in (("a", 0.1), ("b", 0.0))}
        return {"accuracy": 0.75, "without": {"zero": dict(zip("ab", (0.75 - x for x in lost), strict=True))}} | {
            "foreseen": foreseen
        }

    results = {Job("detach", "detach", seed): run_of(0.05 + seed / 100, 0.01 - seed / 100) for seed in range(3)}
    least, most = verdicts(Found(EASY_VQA, TINY, results, []))
    assert least.change.by_seed == pytest.approx((0.01, 0.0, -0.01)) and least.change.verdict == "not decided"
    assert most.change.by_seed == pytest.approx((0.05, 0.06, 0.07)) and most.change.verdict == "yes"


def test_results_of_seeds_that_are_not_named_stay_on_the_page(tmp_path: Path):
    folder = Path(__file__).parents[2] / "docs" / "benchmarks"
    run.unpack(folder / "claims.json", tmp_path)
    size = SIZES_OF_THE_PAGE["world"]
    some, every = (run.collect(tmp_path, "world", size, seeds) for seeds in ((0,), (0, 1, 2)))
    assert some.results.keys() == every.results.keys() and len({job.seed for job in some.results}) == 3


def test_results_of_other_images_or_seeds_are_not_compared():
    with pytest.raises(DataError, match=r"1 and 2 results over \[2\] images cannot be compared"):
        change(results([0, 1]), results([0, 1], [1, 1]))
    with pytest.raises(DataError, match=r"over \[2, 3\] images"):
        change(results([0, 1]), results([0, 1, 1]))


def test_only_seeds_that_both_have_are_compared_and_unmeasured_claims_are_left_out():
    low, high = results([0, 0, 1, 0])[0], results([1, 0, 1, 1])[0]
    found = Found(
        EASY_VQA,
        TINY,
        {Job(FUSIONS, CLIP_ONLY, 0): low, Job(FUSIONS, HUB, 0): high, Job(FUSIONS, HUB, 1): low},
        [],
    )
    (only,) = verdicts(found)
    assert only.claim == "experts help" and only.change.by_seed == (0.5,)


def test_rank_correlation_is_that_of_a_worked_example_and_ties_share_their_mean_rank():
    # en.wikipedia.org/wiki/Spearman's_rank_correlation_coefficient, section Example: -29/165.
    iq, hours = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110], [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    assert rank_correlation(iq, hours) == pytest.approx(-29 / 165)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_a_spread_of_nothing_is_a_dash_and_of_one_value_the_value():
    assert (spread([]), spread([0.5]), spread([0.25, 0.75])) == ("-", "0.500", "0.500 ± 0.354")
