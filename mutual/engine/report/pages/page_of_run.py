"""The page of a run: what was found of it, from what to ship down to the environment."""

from __future__ import annotations

from mutual.engine.report.findings import Findings
from mutual.engine.report.pages.agreement import features, fidelity, pairs
from mutual.engine.report.pages.curves import churn, curves, speed
from mutual.engine.report.pages.document import document, section
from mutual.engine.report.pages.edge_graph import edge_graph
from mutual.engine.report.pages.first_screen import result
from mutual.engine.report.pages.legend import member_styles
from mutual.engine.report.pages.markup import Markup, code, join, name
from mutual.engine.report.pages.quality import calibration, classes, confusion, images
from mutual.engine.report.pages.record import costs, environment, recipe
from mutual.recipe import SPLIT_NAMES

_FIDELITY = (
    "How closely a learner follows its teacher, apart from how often it is right: a student may be accurate and agree little, "
    "or agree and be no better (arXiv:2106.05945)."
)
_PAIRS = (
    "Peers that learn from each other become alike. Agreement near 100 % means that their ensemble adds little; KL is how far the "
    "probabilities of one are from the other's."
)
_CALIBRATION = (
    "A calibrated member is right as often as it is sure: its bars reach the diagonal; pale bars are of few images. Dividing logits by the "
    "temperature changes how sure it is and no prediction; the temperature was chosen on validation images."
)
_GRAPH = (
    "An arrow leads from what teaches to who learns from it; the gradient flows into the learner alone. A line is thicker where its "
    "weights are larger."
)
_FEATURES = "Linear CKA (arXiv:1905.00414): 1 where two layers see the same up to a rotation and a scale, near 0 where they share nothing."
_CHURN = "The fraction of images whose predicted class is not that of the evaluation before: a peer whose churn stays high has not settled."


def run_page(findings: Findings) -> str:
    """Returns the report of a run as one HTML file."""
    styles = member_styles(findings.members)
    sections: list[tuple[str, str, Markup | None]] = [
        ("result", "Result", result(findings, styles)),
        ("curves", "Curves", section("curves", "Curves", *curves(findings, styles))),
        ("pairs", "Pairs", section("pairs", "Pairs of peers", *pairs(findings, styles), note=_PAIRS)),
        ("fidelity", "Fidelity", section("fidelity", "Fidelity to the teacher", *fidelity(findings, styles), note=_FIDELITY)),
        ("calibration", "Calibration", section("calibration", "Calibration", *calibration(findings, styles), note=_CALIBRATION)),
        ("classes", "Classes", section("classes", "Classes", *confusion(findings), classes(findings, styles))),
        ("images", "Images", section("images", "Images worth a look", *images(findings, styles))),
        ("graph", "Graph", _graph(findings, styles)),
        ("features", "Features", section("features", "Features", features(findings), note=_FEATURES)),
        ("churn", "Churn", section("churn", "Churn", churn(findings, styles), note=_CHURN)),
        ("costs", "Costs", section("costs", "Speed, traffic, memory", *costs(findings, speed(findings)))),
        ("recipe", "Recipe", section("recipe", "Recipe", *recipe(findings))),
        ("environment", "Environment", section("environment", "Environment", environment(findings))),
    ]
    return document(findings.recipe.name, _subtitle(findings), sections)


def _subtitle(findings: Findings) -> Markup:
    epochs = max((row["epoch"] for row in findings.history), default=0)
    scored = f"{findings.num_images} {SPLIT_NAMES[findings.split]} images, {len(findings.class_names)} classes, {epochs} epochs"
    return join([code(findings.folder), " · ", name(findings.recipe.data.title), " · ", scored])


def _graph(findings: Findings, styles: dict[str, str]) -> Markup | None:
    if not findings.edges:
        return None
    return section("graph", "Who learns from whom", edge_graph(findings.edges, styles), note=_GRAPH)
