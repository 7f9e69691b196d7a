"""EventFiles: a run's charts as TensorBoard shows them.

TensorBoard colours a chart's lines by folder, and so each member of the group has one: `charts/PEER` and `charts/ensemble` beside the run's
own file, with equal tags. `hparams` holds what compares whole runs, and nothing else: of what stands in or below the folder of
hyperparameters, TensorBoard makes a column each. Columns in which runs do not differ come last then, as TensorBoard sorts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutual.engine.monitoring.hyperparameters import Value
from mutual.engine.monitoring.series import RUN, SUMMARY, Series, Values
from mutual.engine.storage import CHARTS, HPARAMS
from mutual.recipe import Recipe, dump_recipe

if TYPE_CHECKING:  # who evaluates writes no charts
    from numpy.typing import NDArray
    from torch.utils.tensorboard import SummaryWriter

_LAYOUT = {
    "top-1 (mAP of several labels)": ["accuracy/(top1|map)$"],
    "negative log-likelihood": ["loss/nll$"],
    "calibration error": ["calibration/ece$"],
    "training loss": ["loss/train$"],
    "objectives": ["objective/"],
    "learning rate": ["optimizer/learning_rate$"],
    "agreement of peers": ["agreement/(?!churn)"],
    "KL divergence from peers": ["kl/"],
}
"""Charts by title, with what begins the tags of their lines. TensorBoard merges the layouts of several runs and leaves out charts that are
equal: so they name no peer."""
_OF_CLASSES, _OF_PAIRS = {"calibration error"}, {"agreement of peers", "KL divergence from peers"}


class EventFiles:
    """TensorBoard's files of a run.

    Args:
        recipe: what is trained.
        tracker: Accelerate's, which writes the run's own file.
        folder: the run folder.
        purge_step: the update from which on what a cut run has written is hidden; None: nothing is.
    """

    def __init__(self, recipe: Recipe, tracker: Any, folder: Path, *, purge_step: int | None) -> None:
        self._recipe = recipe
        self._tracker = tracker
        self._folder = folder
        self._purge_step = purge_step
        self._writers: dict[str, SummaryWriter] = {RUN: tracker.tracker}

    def introduce(self, hyperparameters: Mapping[str, Value]) -> None:
        """Writes once in the life of a run what it trains, and how its charts are arranged."""
        writer = self._writer(RUN)
        if self._recipe.extended_from is not None:
            writer.add_text("extended_from", self._recipe.extended_from.run)
        writer.add_text("recipe", "```yaml\n" + dump_recipe(self._recipe) + "\n```")
        writer.add_custom_scalars({"peers and their objectives": self._layout()})
        for summary in _session(hyperparameters):
            self._writer(SUMMARY).file_writer.add_summary(summary)

    def log(self, values: Values, *, step: int) -> None:
        """Adds a point to each of these series, after `step` updates."""
        for (member, tag), value in values.items():
            self._writer(member).add_scalar(tag, value, global_step=step)
        for member in dict.fromkeys(member for member, _ in values):
            self._writer(member).flush()

    def log_pictures(self, pictures: Mapping[Series, NDArray[Any]], *, step: int) -> None:
        """Adds pictures `[H, W, 3]` of uint8 to these series, after `step` updates."""
        for (member, tag), picture_HWC in pictures.items():
            self._writer(member).add_image(tag, picture_HWC, global_step=step, dataformats="HWC")

    def close(self) -> None:
        """Closes the files; the run's own belongs to Accelerate."""
        for member, writer in self._writers.items():
            if member != RUN:
                writer.close()
        self._tracker.finish()

    def _writer(self, member: str) -> SummaryWriter:
        """Returns the writer of a member's file; the first time it is asked for it opens one."""
        if member not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            folder = self._folder / HPARAMS if member == SUMMARY else self._folder / CHARTS / member
            self._writers[member] = SummaryWriter(str(folder), purge_step=self._purge_step)
        return self._writers[member]

    def _layout(self) -> dict[str, list[Any]]:
        """Returns the charts that have lines in this run, in the order that all runs have in common."""
        empty = _OF_CLASSES if self._recipe.data.multi_label else set()
        empty = empty | (_OF_PAIRS if len(self._recipe.classifiers) < 2 else set())
        return {title: ["Multiline", tags] for title, tags in _LAYOUT.items() if title not in empty}


def _session(hyperparameters: Mapping[str, Value]) -> list[Any]:
    """Returns the summaries of a run's hyperparameters, without those of an experiment, in whose place TensorBoard reads all runs."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION, PLUGIN_NAME, SESSION_END_INFO_TAG, SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

    start = SessionStartInfo()
    for key, value in hyperparameters.items():
        if isinstance(value, str):
            start.hparams[key].string_value = value
        else:
            start.hparams[key].number_value = value
    contents = {
        SESSION_START_INFO_TAG: HParamsPluginData(session_start_info=start, version=PLUGIN_DATA_VERSION),
        SESSION_END_INFO_TAG: HParamsPluginData(session_end_info=SessionEndInfo(status=STATUS_SUCCESS), version=PLUGIN_DATA_VERSION),
    }
    summaries = []
    for tag, content in contents.items():
        plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content.SerializeToString())
        summaries.append(Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))]))
    return summaries
