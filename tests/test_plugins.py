from __future__ import annotations

import itertools
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tove_core import plugins
from tove_core.errors import AmbiguousExpertError, PluginError, UnknownExpertError

HEADER = """
from tove_core.hookspecs import hookimpl
from tove_core.spec import ExpertSpec, Grid, Input, Variant

def expert(name, **changed):
    given = dict(api=1, name=name, summary="An expert.", factory="m:build", input=Input(size=(32, 32)),
                 outputs={"map": Grid(channels=32, stride=4)})
    return ExpertSpec(**(given | changed))
"""
OFFER = """
@hookimpl
def tove_experts():
    return [{experts}]
"""
Install = Callable[..., str]
_serial = itertools.count()


def offering(*names: str) -> str:
    return OFFER.format(experts=", ".join(f"expert({name!r})" for name in names))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Write a distribution with one module and the entry point that names it; return the module's name."""

    def write(distribution: str, body: str, *, version: str = "1.0") -> str:
        serial = next(_serial)  # a module name of its own: Python imports a name once per process
        module, site = f"fake_plugin_{serial}", tmp_path / f"site-{serial}"
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[tove]\nexperts = {module}\n")
        (site / f"{module}.py").write_text(HEADER + body)
        monkeypatch.syspath_prepend(str(site))
        return module

    return write


@pytest.fixture
def builtin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tove-core look installed, with its own entry point."""
    site = tmp_path / "own"
    info = site / "tove_core-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tove-core\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[tove]\nbuiltin = tove_experts.hooks\n")
    monkeypatch.syspath_prepend(str(site))


def third_party(registry: plugins.Registry) -> list[str]:
    return [name for name in registry.names() if registry.find(name).source.distribution != plugins.OWN]


BROKEN = {
    "import error": ("import no_such_module_anywhere", ModuleNotFoundError, "no_such_module_anywhere"),
    "syntax error": ("def (:", SyntaxError, ""),
    "exit at import": ("import sys; sys.exit(3)", SystemExit, "3"),
    "misspelt hook": (offering("one").replace("tove_experts", "tove_expert"), Exception, "tove_expert"),
    "hook with an unknown argument": (offering("one").replace("experts()", "experts(x)"), Exception, "x"),
    "extra field": (OFFER.format(experts="expert('one', licence='MIT')"), PluginError, "licence"),
    "another api": (OFFER.format(experts="expert('one', api=2)"), PluginError, "this tove-core knows api 1"),
    "a dict for a spec": (OFFER.format(experts="expert('one'), {'name': 'two'}"), PluginError, "gave dict"),
    "no list": (offering("one").replace("[expert('one')]", "7"), PluginError, "int"),
    "same name twice": (offering("one", "two", "one"), PluginError, "one twice"),
    "no return": (offering("one").replace("return [", "_ = ["), PluginError, "implements no tove_experts"),
    "no hook at all": ("nothing = 1", PluginError, "implements no tove_experts"),
    "error in the hook": (OFFER.format(experts="1 / 0"), ZeroDivisionError, ""),
    "exit in the hook": (OFFER.format(experts="exit(4)"), SystemExit, "4"),
}


@pytest.mark.parametrize(("body", "kind", "text"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_leaves_the_hub_working_and_is_chained_when_an_unknown_name_is_asked(install, body, kind, text):
    install("good-plugin", offering("fine"))
    install("broken-plugin", body, version="2.3")
    registry = plugins.discover(env={})
    assert third_party(registry) == ["fine"], "all or none of a plugin's experts are taken"
    (source,) = registry.failures
    assert str(source) == "broken-plugin 2.3"
    assert isinstance(registry.failures[source], kind)
    assert text in str(registry.failures[source])
    with pytest.raises(UnknownExpertError, match=r"no expert named 'one'(.|\n)*broken-plugin 2\.3 failed") as caught:
        registry.resolve("one")
    assert caught.value.__cause__ is registry.failures[source]


def test_strict_mode_raises_the_first_failure_with_its_cause(install):
    install("broken-plugin", "import no_such_module_anywhere")
    for value in ("1", "true", "ON"):
        with pytest.raises(PluginError, match=r"broken-plugin 1\.0: ModuleNotFoundError") as caught:
            plugins.discover(env={"TOVE_STRICT": value})
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert plugins.discover(env={"TOVE_STRICT": "0"}).failures


def test_an_interrupt_by_the_user_is_not_taken_for_a_broken_plugin(install):
    install("slow-plugin", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        plugins.discover(env={})


def test_a_distribution_without_metadata_does_not_take_the_hub_down(install, tmp_path, monkeypatch):
    install("good-plugin", offering("fine"))
    info = tmp_path / "half" / "half_removed-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text("[tove]\nexperts = gone_module\n")
    monkeypatch.syspath_prepend(str(info.parent))
    registry = plugins.discover(env={})
    assert third_party(registry) == ["fine"]
    assert [type(error) for error in registry.failures.values()] == [ModuleNotFoundError]


def test_two_distributions_may_offer_one_name_until_it_is_used(install):
    install("first-plugin", offering("eye", "only-first"))
    install("Second.Plugin", offering("eye"))
    registry = plugins.discover(env={})
    assert third_party(registry) == ["first-plugin/eye", "only-first", "second-plugin/eye"]
    assert registry.resolve("only-first").spec.name == "only-first"
    with pytest.raises(AmbiguousExpertError, match="choose one of: first-plugin/eye, second-plugin/eye"):
        registry.resolve("eye")


@pytest.mark.parametrize("spelling", ["second-plugin", "Second.Plugin", "second_plugin", "SECOND--plugin"])
def test_a_qualified_name_resolves_however_the_distribution_is_spelt(install, spelling):
    install("first-plugin", offering("eye"))
    install("Second.Plugin", offering("eye"))
    found = plugins.discover(env={}).resolve(f"{spelling}/eye")
    assert found.offer.source.distribution == "second-plugin"


def test_two_entry_points_of_one_distribution_that_offer_one_name_are_not_both_taken(install, tmp_path):
    first = install("twin-plugin", offering("eye"))
    second = install("other-plugin", offering("eye", "pam"))
    (table,) = tmp_path.glob("*/twin_plugin-*/entry_points.txt")
    table.write_text(f"[tove]\na = {first}\nb = {second}\n")
    registry = plugins.discover(env={"TOVE_BLOCK": "other-plugin"})
    assert third_party(registry) == ["eye"]
    assert registry.resolve("twin-plugin/eye").offer.source.entry_point == "a"
    assert [source.entry_point for source in registry.failures] == ["b"]


@pytest.mark.usefixtures("builtin")
def test_names_of_built_in_experts_are_reserved(install):
    install("bold-plugin", offering("dinov2"))
    registry = plugins.discover(env={})
    assert registry.resolve("dinov2").offer.source.distribution == "tove-core"
    assert registry.resolve("bold-plugin/dinov2").offer.source.distribution == "bold-plugin"
    assert registry.resolve("tove-core/dinov2:small").variant == "small"
    assert {"dinov2", "bold-plugin/dinov2"} <= set(registry.names())


@pytest.mark.usefixtures("builtin")
def test_an_empty_allow_list_leaves_only_the_built_in_experts(install):
    install("good-plugin", offering("fine"))
    registry = plugins.discover(env={"TOVE_PLUGINS": ""})
    assert "dinov2" in registry.names()
    assert third_party(registry) == []
    assert {source.distribution: why for source, why in registry.blocked.items()} == {"good-plugin": "TOVE_PLUGINS"}


def test_an_allow_list_compares_distribution_names_canonically(install):
    for name in ("plugin-a", "plugin-b", "plugin-c"):
        install(name, offering(f"from-{name}"))
    registry = plugins.discover(env={"TOVE_PLUGINS": " Plugin_A , plugin.C,"})
    assert third_party(registry) == ["from-plugin-a", "from-plugin-c"]


MEDDLES = """
import logging, warnings
warnings.simplefilter("error")
logging.basicConfig(level=logging.DEBUG, handlers=[logging.NullHandler()], force=True)
logging.disable(logging.ERROR)
"""


@pytest.mark.parametrize("end", [offering("fine"), "raise OSError"])
def test_what_an_import_does_to_warnings_and_logging_is_put_back_and_noted(install, end):
    install("plugin-a", MEDDLES + end)
    install("plugin-b", offering("quiet"))
    root = logging.getLogger()

    def state():
        return root.handlers[:], root.level, root.manager.disable, warnings.filters[:]

    before = state()
    registry = plugins.discover(env={})
    assert state() == before
    assert registry.notes == [
        "plugin-a 1.0 changed the warning filters and the root logger when it was imported; put back, tell its author"
    ]


LIBRARY = """
import warnings
class Own(Warning): pass
warnings.filterwarnings("ignore", "a size changed")
warnings.filterwarnings("ignore", module="fake_library")
warnings.simplefilter("ignore", Own)
"""


def test_the_filters_that_a_library_makes_for_itself_stay(install):
    module = install("plugin-a", LIBRARY + offering("fine"))
    with warnings.catch_warnings():
        before = warnings.filters[:]
        assert plugins.discover(env={}).notes == []
        added = warnings.filters[: len(warnings.filters) - len(before)]
        assert warnings.filters[len(added) :] == before
        assert [one[2] for one in added] == [sys.modules[module].Own, Warning, Warning]
        warnings.simplefilter("error", append=True)
        warnings.warn("a size changed", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning):
            warnings.warn("another thing", UserWarning, stacklevel=1)


@pytest.mark.parametrize("variable", ["TOVE_PLUGINS", "TOVE_BLOCK"])
def test_a_listed_name_that_is_not_installed_gets_a_note(install, variable):
    install("plugin-a", offering("fine"))
    notes = plugins.discover(env={variable: "plugin-a,plugin-z"}).notes
    assert len(notes) == 1
    assert "'plugin-z'" in notes[0]
    assert "not installed" in notes[0]


def test_a_blocked_plugin_is_never_imported_and_is_named_when_its_expert_is_asked(install, tmp_path):
    trace = tmp_path / "imported"
    install("noisy-plugin", f"open({str(trace)!r}, 'w').close()" + offering("noise"))
    registry = plugins.discover(env={"TOVE_BLOCK": "Noisy_Plugin"})
    assert not trace.exists()
    assert third_party(registry) == []
    with pytest.raises(UnknownExpertError, match=r"noisy-plugin 1\.0 is blocked by TOVE_BLOCK"):
        registry.resolve("noise")
    plugins.discover(env={})
    assert trace.exists(), "the module does leave a trace when it is imported"


@pytest.mark.usefixtures("builtin")
def test_blocking_the_built_in_experts_is_answered_with_a_note():
    registry = plugins.discover(env={"TOVE_BLOCK": "tove-core"})
    assert "dinov2" in registry.names()
    assert any("cannot be blocked" in note for note in registry.notes)


def test_block_wins_over_allow(install):
    install("plugin-a", offering("fine"))
    registry = plugins.discover(env={"TOVE_PLUGINS": "plugin-a", "TOVE_BLOCK": "plugin-a"})
    assert list(registry.blocked.values()) == ["TOVE_BLOCK"]


VARIANTS = """
@hookimpl
def tove_experts():
    yield expert("eye", options={"depth": 1}, default="small", variants={
        "small": Variant(options={"width": 3}), "large": Variant(options={"width": 9})})
"""


def test_variants_resolve_to_a_spec_with_the_variant_applied(install):
    install("plugin-a", VARIANTS)
    registry = plugins.discover(env={})
    large = registry.resolve("plugin-a/eye:large")
    assert (large.variant, large.spec.options) == ("large", {"depth": 1, "width": 9})
    assert registry.resolve("eye").variant == "small"
    assert registry.resolve("eye") == registry.resolve("eye:small")


def test_an_unknown_variant_is_answered_with_the_ones_there_are(install):
    install("plugin-a", VARIANTS + offering("plain").replace("def tove", "def other_tove").replace("@hookimpl", ""))
    with pytest.raises(UnknownExpertError, match=r"no variant 'larg'; did you mean large\? it has: large, small"):
        plugins.discover(env={}).resolve("eye:larg")


FAMILY = """
from tove_core.errors import UnknownExpertError
from tove_core.spec import Grid, Weights

def member(text):
    if text == "nobody":
        raise UnknownExpertError("nobody is not of the family")
    if text == "odd":
        return Variant(outputs={"map": Grid(channels=32, stride=5)})
    return {"a": Variant(options={"who": text}), "x:y/z.1": Variant(options={"who": text})}.get(text, 7)

@hookimpl
def tove_experts():
    mine = Weights(repo="o/one", license="MIT")
    yield expert("kin", family=__name__ + ":member", weights=mine, options={"who": "one", "old": 1}, tiny={"who": "t"})
    yield expert("led", family=__name__ + ":member", variants={"a": Variant(options={"who": "listed"})}, default="a")
    yield expert("lost", family="no_such_module_of_a_family:member")
"""


def test_a_member_of_a_family_has_nothing_of_the_one_the_spec_describes(install):
    install("plugin-a", FAMILY)
    registry = plugins.discover(env={})
    for request, text in (("kin:a", "a"), ("plugin-a/kin:a", "a"), ("kin:x:y/z.1", "x:y/z.1")):
        found = registry.resolve(request)
        assert (found.variant, found.spec.options, found.spec.weights) == (text, {"who": text}, None)
        assert (found.spec.name, found.spec.tiny, found.spec.family) == ("kin", None, None)
    described = registry.find("kin").spec.variant()
    assert described.weights is not None and described.family is None


def test_a_family_is_shown_by_the_member_it_describes_and_cannot_be_built(install):
    install("plugin-a", FAMILY)
    registry = plugins.discover(env={})
    found = registry.resolve("plugin-a/kin")
    assert (found.variant, found.spec.options) == (None, {"who": "one", "old": 1})
    with pytest.raises(UnknownExpertError, match=r"'kin' stands for a family; name the member .* as in 'kin:NAME'"):
        found.to_build()
    assert registry.resolve("led").to_build().options == {"who": "listed"}


def test_variants_that_are_listed_come_before_the_family(install):
    install("plugin-a", FAMILY)
    registry = plugins.discover(env={})
    assert registry.resolve("led:a").spec.options == registry.resolve("led").spec.options == {"who": "listed"}


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        ("kin:nobody", UnknownExpertError, "^nobody is not of the family$"),
        ("kin:odd", PluginError, "plugin-a/kin:odd.*stride 5 does not divide"),
        ("kin:seven", PluginError, "returned int, wanted Variant"),
        ("lost:a", PluginError, "no_such_module_of_a_family:member failed .ModuleNotFoundError"),
    ],
)
def test_a_family_that_has_no_such_member_says_so(install, request_, kind, words):
    install("plugin-a", FAMILY)
    with pytest.raises(kind, match=words):
        plugins.discover(env={}).resolve(request_)


def test_a_misspelt_name_is_answered_with_the_nearest(install):
    install("plugin-a", offering("depth-anything", "eye"))
    registry = plugins.discover(env={})
    with pytest.raises(UnknownExpertError, match=r"did you mean depth-anything or plugin-a/depth-anything\?") as caught:
        registry.resolve("depth-anythin")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("name", ["", "/", "plugin-a/", "/eye", "plugin-a", "plugin-a/plugin-a/eye"])
def test_a_name_that_names_nothing_is_unknown(install, name):
    install("plugin-a", offering("eye"))
    with pytest.raises(UnknownExpertError):
        plugins.discover(env={}).resolve(name)


def test_what_is_found_does_not_depend_on_the_order_of_installation(install, monkeypatch):
    for name in ("plugin-b", "plugin-a", "plugin-c"):
        install(name, offering("shared", f"from-{name}"))
    install("plugin-0", "import no_such_module_anywhere")
    install("plugin-9", "1 / 0")
    first = plugins.discover(env={})
    monkeypatch.setattr(sys, "path", sys.path[::-1])
    second = plugins.discover(env={})
    assert [offer.qualified for offer in first.offers] == [offer.qualified for offer in second.offers]
    assert list(first.failures) == list(second.failures)
    assert first.names() == second.names()


def test_installed_plugins_are_listed_without_importing_any(install, tmp_path):
    trace = tmp_path / "imported"
    install("noisy-plugin", f"open({str(trace)!r}, 'w').close()")
    assert "noisy-plugin" in [source.distribution for source in plugins.installed()]
    assert not trace.exists()


def test_the_process_registry_is_discovered_once_and_lists_what_resolves(install):
    install("plugin-a", offering("eye"))
    plugins.registry.cache_clear()
    try:
        assert plugins.registry() is plugins.registry()
        offers = plugins.experts()
        assert offers["eye"].qualified == "plugin-a/eye"
    finally:
        plugins.registry.cache_clear()
