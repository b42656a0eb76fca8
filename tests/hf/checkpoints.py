"""Tiny models of transformers' architectures, made on the spot, with data that fit them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn
from torch.func import functional_call

from fedrac.data import tasks
from fedrac.models.hf import HuggingFace

SIZES = (3, 5, 8)  # examples of each client
_ROWS, _LENGTH, _WORDS = sum(SIZES), 7, 23
_SMALL = {"vocab_size": _WORDS, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
_WIDE = {"intermediate_size": 12, "max_position_embeddings": 16}
_QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Workload:
    """A model as transformers makes it, its inputs by keyword and targets, one row an example."""

    model: nn.Module
    inputs: dict[str, Tensor]
    targets: Tensor
    task: str = "classification"

    def wrapped(self) -> HuggingFace:
        """A copy of the model as fedrac uses it."""
        copy = type(self.model)(self.model.config).double()
        copy.load_state_dict(self.model.state_dict())
        return HuggingFace(copy)

    def whole(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs as fedrac's wrapper takes them, and targets."""
        columns = [column[index] for column in self.inputs.values()]
        return columns[0] if len(columns) == 1 else torch.stack(columns, 1), self.targets[index]

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The same, texts padded to the longest of them only."""
        inputs, targets = self.whole(index)
        if not inputs.is_floating_point():
            length = int(inputs[:, 1].sum(1).max())
            inputs, targets = inputs[:, :, :length], targets[:, :length] if targets.ndim == 2 else targets
        return inputs, targets

    @property
    def lengths(self) -> Tensor | None:
        """Tokens of every text; None: the inputs are no texts."""
        mask = self.inputs.get("attention_mask")
        return None if mask is None else mask.sum(1)

    def logits(self, weights: dict[str, Tensor], index: Tensor) -> Tensor:
        """What the model of transformers makes of those examples with other weights."""
        return functional_call(self.model, weights, (), {n: column[index] for n, column in self.inputs.items()}).logits

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return tasks.named(self.task).loss(logits, targets)


def _text(pairs: bool = False) -> dict[str, Tensor]:
    """Texts of 3 to 7 tokens, padded with 0."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, _LENGTH + 1, (_ROWS, 1), generator=g)
    mask = (torch.arange(_LENGTH) < lengths).long()
    ids = torch.randint(3, _WORDS, (_ROWS, _LENGTH), generator=g) * mask
    inputs = {"input_ids": ids, "attention_mask": mask}
    return {**inputs, "token_type_ids": (torch.arange(_LENGTH) >= lengths // 2).long()} if pairs else inputs


def _labels() -> Tensor:
    return torch.randint(3, (_ROWS,), generator=torch.Generator().manual_seed(1))


def _next() -> Tensor:
    """The ids that follow, -100 where there are none."""
    ids, mask = _text().values()
    following = ids.masked_fill(mask == 0, -100)[:, 1:]
    return torch.cat([following, torch.full((_ROWS, 1), -100)], 1)


def bert() -> Workload:
    config = transformers.BertConfig(**_SMALL, **_WIDE, **_QUIET, num_labels=3)
    return Workload(transformers.BertForSequenceClassification(config), _text(pairs=True), _labels())


def roberta() -> Workload:
    config = transformers.RobertaConfig(**_SMALL, **_WIDE, **_QUIET, num_labels=3, pad_token_id=0)
    return Workload(transformers.RobertaForSequenceClassification(config), _text(), _labels())


def gpt2() -> Workload:
    """The embedding is tied to the output layer; the blocks have Conv1D layers."""
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.GPT2Config(vocab_size=_WORDS, n_positions=16, n_embd=8, n_layer=2, n_head=2, **quiet)
    return Workload(transformers.GPT2LMHeadModel(config), _text(), _next(), "causal_lm")


def gpt2_classifier() -> Workload:
    """Reads the answer off the last token, which it must find among the padding."""
    config = gpt2().model.config
    config.num_labels, config.pad_token_id = 3, 0
    return Workload(transformers.GPT2ForSequenceClassification(config), _text(), _labels())


def llama() -> Workload:
    config = transformers.LlamaConfig(**_SMALL, **_WIDE, num_key_value_heads=1)
    return Workload(transformers.LlamaForCausalLM(config), _text(), _next(), "causal_lm")


def vit() -> Workload:
    sizes = {k: v for k, v in _SMALL.items() if k != "vocab_size"} | {"image_size": 6, "patch_size": 3}
    config = transformers.ViTConfig(**sizes, **_QUIET, intermediate_size=12, num_labels=3)
    images = torch.randn(_ROWS, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Workload(transformers.ViTForImageClassification(config), {"pixel_values": images}, _labels())


def swin() -> Workload:
    """Its layers take windows: many rows of one image, one after another."""
    sizes = {"image_size": 8, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 2}
    config = transformers.SwinConfig(**sizes, **_QUIET, drop_path_rate=0.0, num_labels=3)
    images = torch.randn(_ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Workload(transformers.SwinForImageClassification(config), {"pixel_values": images}, _labels())


def deberta() -> Workload:
    """All rows share an embedding of distances, which every layer projects with the weights of its keys."""
    relative = {"relative_attention": True, "position_buckets": 4, "pos_att_type": ["p2c", "c2p"]}
    options = {"norm_rel_ebd": "layer_norm", "share_att_key": True, "type_vocab_size": 0, "pad_token_id": 0}
    config = transformers.DebertaV2Config(**_SMALL, **_WIDE, **_QUIET, **relative, **options, num_labels=3)
    return Workload(transformers.DebertaV2ForSequenceClassification(config), _text(), _labels())


def mixtral() -> Workload:
    """A mixture: a router that is no linear layer, and experts that are one tensor."""
    experts = {"num_local_experts": 3, "num_experts_per_tok": 2, "experts_implementation": "eager"}
    config = transformers.MixtralConfig(**_SMALL, **_WIDE, **experts, num_key_value_heads=1)
    return Workload(transformers.MixtralForCausalLM(config), _text(), _next(), "causal_lm")


class T5Classifier(nn.Module):
    """The encoder of a T5, a mean over the tokens, and a linear layer."""

    base_model_prefix = "encoder"

    def __init__(self, config: transformers.T5Config) -> None:
        super().__init__()
        self.config, self.encoder = config, transformers.T5EncoderModel(config)
        self.classifier = nn.Linear(config.d_model, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> transformers.modeling_outputs.ModelOutput:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(2).to(hidden.dtype)
        logits = self.classifier((hidden * mask).sum(1) / mask.sum(1))
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=logits)


def t5_encoder() -> Workload:
    sizes = {"vocab_size": _WORDS, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(**sizes, dropout_rate=0.0, relative_attention_num_buckets=8)
    return Workload(T5Classifier(config), _text(), _labels())


ARCHITECTURES: tuple[Callable[[], Workload], ...] = (
    *(bert, roberta, deberta, gpt2, gpt2_classifier, llama, mixtral, vit, swin, t5_encoder),
)


def make(factory: Callable[[], Workload]) -> Workload:
    """The workload in float64, with weights that are the same in every test none of them 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        work = factory()
        for parameter in work.model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    work.model.double().eval().requires_grad_(False)
    return work
