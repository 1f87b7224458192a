"""Multi-task Wide & Deep: a linear model and an MLP of its own for each task."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from headway.core import Schema
from headway.models.dlrm import Rate, Width
from headway.models.layers import FeatureTensors, RankingModel, head, perceptron, width_of


class MtWideDeepSettings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="name",
    tag="mt_wide_deep",
):
    """The shape of a multi-task Wide & Deep model; the tasks are the schema's.

    Attributes:
        shared_mlp: widths that all tasks share; none, and each task starts from the inputs.
        task_mlp: hidden widths of each task's own MLP.
        dropout: share of hidden units dropped in training.
    """

    shared_mlp: tuple[Width, ...] = ()
    task_mlp: tuple[Width, ...] = (256, 128)
    dropout: Rate = 0.0


class MtWideDeep(RankingModel):
    """Zhao et al., "Recommending What Video to Watch Next", 2019, without its mixture of experts.

    As DeepRecInfra has it: Wide & Deep with the deep part, or its upper layers, per task. The
    wide part is linear in the vectors, as in ``WideDeep``.
    """

    def __init__(self, settings: MtWideDeepSettings, schema: Schema) -> None:
        super().__init__(schema)
        width = sum(width_of(f, schema) for f in schema.features)
        self.wide = nn.Linear(width, len(schema.tasks), bias=False)
        self.shared = perceptron(width, settings.shared_mlp, dropout=settings.dropout)
        below = settings.shared_mlp[-1] if settings.shared_mlp else width
        self.heads = nn.ModuleList(
            head(below, settings.task_mlp, 1, settings.dropout) for _ in schema.tasks
        )

    def forward(self, features: FeatureTensors) -> Tensor:
        """Return raw outputs, float32 ``[rows, tasks]``."""
        together = torch.cat(self.parts(features), dim=1)
        shared = self.shared(together)
        wide: Tensor = self.wide(together)
        return wide + torch.cat([task(shared) for task in self.heads], dim=1)
